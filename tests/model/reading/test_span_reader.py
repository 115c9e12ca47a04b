"""The reader as a library: `answer` returns for a row what annotate writes."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model import SpanReader
from model.checkpoint import CheckpointError
from model.columns import schema_of
from model.reading.answers import N_BEST_TYPE
from model.reading.columns import ANSWER_COLUMNS, ANSWER_SCHEMA, columns_for
from model.reading.span_reader import Answer, Candidate
from model.settings import SettingError
from pipeline.bundled import SAMPLE
from tests.runs import read_manifest, read_parts, read_rejections, run, write_input
from transforms.stored_folder import StoredFolder

SETTINGS: dict[str, Any] = {
    "locate": "sentence,page,section",
    "distinct": True,
    "all_answers": 0.005,
    "max_length": 96,
    "overlap": 30,
    "max_question": 16,
    "max_answer_length": 12,
    "max_windows": 200,
}

LOCATED = ("sentence", "page", "section")
NAMES = [
    column.name
    for column in columns_for(["--all_answers", *(f"--locate {name}" for name in LOCATED)])
]
"""The columns of annotate with these settings."""


DECISION: dict[str, Any] = {
    "null": "on",
    "null_score_diff_threshold": -14.0,
    "min_probability": 0.06,
}
"""Thresholds by which some rows have an answer and others none, for either reason."""


@pytest.fixture(scope="module")
def reader(bert_folder: Path) -> SpanReader:
    return SpanReader.load(str(bert_folder), **SETTINGS, **DECISION)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Return every eleventh row of the sample, rows that can't be answered, and one row twice."""
    table = pq.read_table(SAMPLE, columns=["question", "context"])
    usable = table.take(list(range(0, table.num_rows, 11))).to_pylist()
    bad = [
        {"question": None, "context": "a"},
        {"question": "Who?", "context": " "},
        {"question": "Who?", "context": "\u200b"},
        {"question": "Who?", "context": "a lamp " * 6000},
    ]
    return [*bad, *usable, usable[0], *bad[:1]]


@pytest.fixture(scope="module")
def annotated(
    rows: list[dict[str, Any]], bert_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("annotated")
    source = write_input(folder / "a.parquet", pa.Table.from_pylist(rows))
    options = [f"--{name}={value}" for name, value in {**SETTINGS, **DECISION}.items()]
    assert (
        run(
            "annotate",
            f"--input={source}",
            f"--output={folder}/out",
            f"--model={bert_folder}",
            *options,
            "--n_best=4",
        )
        == 0
    )
    return folder / "out"


def as_row(answer: Answer) -> dict[str, Any]:
    """Return an answer in the shape of annotate's columns."""
    values = {name: getattr(answer, name) for name in NAMES}
    n_best = [asdict(candidate) for candidate in answer.n_best]
    values["n_best"] = n_best if answer.status != "rejected" else None
    if answer.all_answers is not None:
        values["all_answers"] = [asdict(candidate) for candidate in answer.all_answers]
    return values


class TestTheSameAsAnnotate:
    def test_a_list_to_the_last_bit(
        self, reader: SpanReader, rows: list[dict[str, Any]], annotated: Path
    ):
        answers = reader.answer(
            [row["question"] for row in rows], [row["context"] for row in rows], n_best=4
        )
        expected = read_parts(annotated).select(NAMES).to_pylist()
        assert [as_row(answer) for answer in answers] == expected
        statuses = ("answered", "no_answer", "below_threshold", "rejected")
        assert {answer.status for answer in answers} == set(statuses)
        assert max(answer.num_windows or 0 for answer in answers) > 2
        assert max(len(answer.all_answers or ()) for answer in answers) > 2

    def test_one_at_a_time_to_rounding(
        self, reader: SpanReader, rows: list[dict[str, Any]], annotated: Path
    ):
        """Alone, a row has other batches: offsets must be equal, probabilities nearly so."""
        for row, expected in zip(
            rows, read_parts(annotated).select(NAMES).to_pylist(), strict=True
        ):
            answer = as_row(reader.answer(row["question"], row["context"], n_best=4))
            for mine, wanted in zip(
                [answer, *(answer["n_best"] or ()), *(answer["all_answers"] or ())],
                [expected, *(expected["n_best"] or ()), *(expected["all_answers"] or ())],
                strict=True,
            ):
                for name, value in wanted.items():
                    if isinstance(value, float):
                        assert mine[name] == pytest.approx(value, rel=1e-4, abs=1e-4)
                    elif name not in ("n_best", "all_answers"):
                        assert mine[name] == value

    def test_rejections_have_the_same_names_and_messages(
        self, reader: SpanReader, rows: list[dict[str, Any]], annotated: Path
    ):
        answers = reader.answer([row["question"] for row in rows], [row["context"] for row in rows])
        found = [
            (row, each.reason, each.message)
            for row, each in enumerate(answers)
            if each.status == "rejected"
        ]
        assert found == [
            (each["row"], each["reason"], each["message"]) for each in read_rejections(annotated)
        ]
        reasons = [
            "question_missing",
            "context_blank",
            "context_without_tokens",
            "too_many_windows",
            "question_missing",
        ]
        assert [reason for _, reason, _ in found] == reasons

    def test_settings_are_resolved_as_for_a_run(
        self, bert_folder: Path, annotated: Path, reader: SpanReader
    ):
        configuration = json.loads((annotated / "run.json").read_text())["configuration"]
        assert configuration["model_digest"] == reader.reader.digest
        assert configuration["batch_tokens"] == reader.batch_tokens
        assert configuration["dtype"] == reader.reader.dtype
        plain = SpanReader.load(str(bert_folder))
        assert (plain.limits.max_length, plain.limits.overlap, plain.decoding.null) == (
            384,
            128,
            False,
        )


class TestShapesOfTheQuestion:
    CONTEXT = "Ada lit the lamp at dusk. Ben rang the bell."

    def test_a_span_is_a_slice_of_its_context(self, reader: SpanReader):
        answer = reader.answer("Who lit it?", self.CONTEXT, n_best=2)
        assert len(answer.n_best) == 2
        for each in answer.n_best:
            assert each.text == self.CONTEXT[each.start : each.end]

    def test_it_has_as_many_candidates_as_the_reader_was_loaded_for(
        self, reader: SpanReader, bert_folder: Path
    ):
        assert len(reader.answer("Who lit it?", self.CONTEXT).n_best) == 5
        loaded = SpanReader.load(str(bert_folder), n_best=7)
        assert len(loaded.answer("Who lit it?", self.CONTEXT).n_best) == 7
        assert len(loaded.answer(questions=["Who?"], context=self.CONTEXT)[0].n_best) == 7
        assert len(loaded.answer("Who lit it?", self.CONTEXT, n_best=2).n_best) == 2

    def test_one_context_serves_all_questions_and_the_other_way_round(self, reader: SpanReader):
        questions = ["Who lit it?", "Who rang it?"]
        assert reader.answer(questions, self.CONTEXT) == reader.answer(
            questions, [self.CONTEXT] * 2
        )
        assert reader.answer("Who?", (self.CONTEXT, "Ben")) == reader.answer(
            ["Who?"] * 2, [self.CONTEXT, "Ben"]
        )

    def test_no_questions_have_no_answers(self, reader: SpanReader):
        assert reader.answer([], []) == []
        assert reader.answer([], self.CONTEXT) == []

    def test_more_rows_than_are_read_at_once(
        self, reader: SpanReader, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("model.reading.span_reader._ROWS_AT_ONCE", 2)
        answers = reader.answer("Who?", ["Ada", "", "Ben", "Cy", "Dee"])
        assert [answer.status == "rejected" for answer in answers] == [
            False,
            True,
            False,
            False,
            False,
        ]

    def test_a_lone_surrogate_is_rejected_like_bytes_that_are_no_utf8(self, reader: SpanReader):
        answer = reader.answer("Who \ud800?", self.CONTEXT)
        assert (answer.status, answer.reason) == ("rejected", "question_not_utf8")
        assert (answer.answer_text, answer.probability, answer.n_best) == (None, None, ())

    def test_what_is_no_text_is_named(self, reader: SpanReader):
        for odd in (1, 2.5, b"Who?", {"question": "Who?"}, True):
            with pytest.raises(
                TypeError,
                match=f"question is {type(odd).__name__}, neither text nor a list of texts: ",
            ):
                reader.answer(odd, "Ada")
            with pytest.raises(TypeError, match=f"context is {type(odd).__name__}, neither"):
                reader.answer("Who?", odd)
        with pytest.raises(TypeError, match="context 1 is int, not text: 7"):
            reader.answer(["Who?", "Who?"], ["Ada", 7])
        with pytest.raises(ValueError, match="3 questions, but 2 contexts"):
            reader.answer(["Who?"] * 3, ["Ada", "Ben"])
        for odd in (0, True, 1.0):
            with pytest.raises(SettingError, match=f"n_best={odd}: must be a whole number from 1"):
                reader.answer("Who?", "Ada", n_best=odd)


class TestLoading:
    def test_it_travels_to_other_processes(self, reader: SpanReader):
        copy = pickle.loads(pickle.dumps(reader))
        assert copy == reader
        assert copy.answer("Who?", "Ada lit it.") == reader.answer("Who?", "Ada lit it.")

    @pytest.mark.usefixtures("no_models_cached")
    def test_a_checkpoint_in_a_store(
        self, bert_folder: Path, reader: SpanReader, memory: fsspec.AbstractFileSystem
    ):
        memory.put(f"{bert_folder}/", "/readers/bert/", recursive=True)
        with pytest.raises(
            CheckpointError,
            match=r"give transforms\.stored_folder\.StoredFolder\('memory://readers/bert'\)",
        ):
            SpanReader.load("memory://readers/bert")
        stored = SpanReader.load(StoredFolder("memory://readers/bert"))
        assert stored.reader.digest == reader.reader.digest
        assert stored.answer("Who?", "Ada lit it.") == SpanReader.load(str(bert_folder)).answer(
            "Who?", "Ada lit it."
        )

    def test_a_folder_that_is_no_checkpoint(self, tmp_path: Path):
        with pytest.raises(CheckpointError, match=r"has no config\.json"):
            SpanReader.load(str(tmp_path))


def test_importing_model_is_cheap():
    """torch and transformers are imported with SpanReader only; unknown names are errors."""
    code = (
        "import sys, model\n"
        "assert not {'torch', 'transformers', 'apache_beam', 'numpy'} & sys.modules.keys()\n"
        "from model import SpanReader\n"
        "assert SpanReader.__module__ == 'model.reading.span_reader' and 'torch' in sys.modules\n"
        "assert 'apache_beam' not in sys.modules\n"
        "try: model.Nothing\n"
        "except AttributeError: sys.exit(7)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 7
    )


NUMBERS_AND_TEXTS = {
    pa.string(): "str | None",
    pa.int32(): "int | None",
    pa.float32(): "float | None",
    pa.list_(pa.string()): "list[str] | None",
}


def test_an_answer_has_the_columns_of_annotate():
    """In their order and of their types; `message` is in the rejections of a run.

    Columns that need an option come last, because they have a default.
    """
    found = {field.name: field.type for field in fields(Answer)}
    optional = [column.name for column in ANSWER_COLUMNS if column.option]
    assert list(found) == [*ANSWER_SCHEMA.names, "message", *optional]
    candidates = "tuple[Candidate, ...]"
    special = {"status": "str", "n_best": candidates, "all_answers": f"{candidates} | None"}
    for field in schema_of(ANSWER_COLUMNS):
        wanted = special.get(field.name) or NUMBERS_AND_TEXTS[field.type]
        assert found[field.name] == wanted, field.name


def test_a_candidate_has_the_fields_of_n_best():
    found = {field.name: f"{field.type} | None" for field in fields(Candidate)}
    assert found == {field.name: NUMBERS_AND_TEXTS[field.type] for field in N_BEST_TYPE.value_type}


class TestReadingLess:
    CONTEXT = " ".join(f"The keeper of lamp {number} is on the stairs." for number in range(60))
    QUESTION = "Where is the keeper of lamp 37?"

    def load(self, bert_folder: Path, **settings: Any) -> SpanReader:
        limits = {"max_length": 64, "overlap": 30, "max_question": 16}
        return SpanReader.load(str(bert_folder), **limits, **settings)

    def test_the_windows_that_match_best_are_read(self, bert_folder: Path):
        whole = self.load(bert_folder, null="on").answer(self.QUESTION, self.CONTEXT)
        assert whole.windows_read is None
        assert whole.num_windows is not None and whole.num_windows > 10
        for read, expected in ((3, 3), (0.3, -(-whole.num_windows * 3 // 10))):
            reader = self.load(bert_folder, null="on", read_windows=read)
            answer = reader.answer(self.QUESTION, self.CONTEXT)
            assert (answer.windows_read, answer.num_windows) == (expected, whole.num_windows)
            # Fewer windows: the null score is the least of fewer, and spans share less mass.
            assert answer.null_score is not None and whole.null_score is not None
            assert answer.null_score >= whole.null_score - 1e-4
            assert (
                answer.n_best[0].text
                == self.CONTEXT[answer.n_best[0].start :][: len(answer.n_best[0].text)]
            )

    def test_as_many_windows_as_there_are_give_the_same_answers(self, bert_folder: Path):
        whole = self.load(bert_folder).answer(self.QUESTION, self.CONTEXT)
        all_read = self.load(bert_folder, read_windows=1000).answer(self.QUESTION, self.CONTEXT)
        assert asdict(all_read) == {**asdict(whole), "windows_read": whole.num_windows}

    def test_lists_of_questions_read_less_too(self, bert_folder: Path):
        reader = self.load(bert_folder, read_windows=2)
        asked = [self.QUESTION, "What is on the stairs?"]
        [answers] = reader.answer(questions=asked, context=[self.CONTEXT])
        expected = [reader.answer(question, self.CONTEXT) for question in asked]
        assert [each.windows_read for each in answers] == [2, 2]
        assert [each.answer_text for each in answers] == [each.answer_text for each in expected]

    def test_a_run_says_how_many_windows_it_read(self, bert_folder: Path, tmp_path: Path):
        rows = {"question": [self.QUESTION, "Where?"], "context": [self.CONTEXT, "On the stairs."]}
        source = write_input(tmp_path / "a.parquet", pa.table(rows))
        given = ["--max_length=64", "--overlap=30", "--max_question=16", f"--model={bert_folder}"]
        given += [f"--input={source}", f"--output={tmp_path}/out"]
        assert run("annotate", *given, "--read_windows=0.2") == 0
        found = read_parts(tmp_path / "out").to_pylist()
        counts = [row["num_windows"] for row in found]
        assert [row["windows_read"] for row in found] == [-(-counts[0] // 5), 1]
        manifest = read_manifest(tmp_path / "out")
        assert manifest["windows"] == sum(counts)
        assert manifest["windows_read"] == sum(row["windows_read"] for row in found)
        configuration = json.loads((tmp_path / "out" / "run.json").read_text())["configuration"]
        assert configuration["read_windows"] == 0.2
        # The same run is resumed, another one refused.
        assert run("annotate", *given, "--read_windows=0.2") == 0
        assert run("annotate", *given, "--read_windows=2") == 2


def test_the_window_prior_of_a_checkpoint_is_used_unless_it_is_off(
    bert_folder: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(bert_folder, tmp_path / "weighed"))
    config = json.loads((folder / "config.json").read_text())
    config["spanmill"] = {**config.get("spanmill", {}), "window_prior": 50.0}
    (folder / "config.json").write_text(json.dumps(config))
    limits: dict[str, Any] = {"max_length": 64, "overlap": 30, "max_question": 16}
    context, question = TestReadingLess.CONTEXT, TestReadingLess.QUESTION
    plain = SpanReader.load(str(bert_folder), **limits).answer(question, context)
    off = SpanReader.load(str(folder), **limits, prior="off").answer(question, context)
    assert off == plain
    # With so much weight, the window that matches best has the answer.
    best = SpanReader.load(str(folder), **limits).answer(question, context)
    alone = SpanReader.load(str(folder), **limits, read_windows=1).answer(question, context)
    assert best.window_index is not None and alone.window_index is not None
    assert best.window_index - alone.window_index in (0, 1)  # neighbours, which match equally
    assert best.window_index != plain.window_index
    assert best.span_score == pytest.approx(best.n_best[0].start_logit + best.n_best[0].end_logit)
    # A short context has one window, which no prior changes.
    short = "The keeper is on the stairs."
    assert SpanReader.load(str(folder), **limits).answer(question, short) == SpanReader.load(
        str(bert_folder), **limits
    ).answer(question, short)
