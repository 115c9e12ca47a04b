"""Whole jobs: the output is compared with what the command line asked for."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.reading.columns import ANSWER_SCHEMA
from model.reading.span_reader import SpanReader
from tests.model.split import with_settings
from tests.runs import (
    Annotate,
    examples,
    identities,
    part_files,
    read_manifest,
    read_parts,
    read_rejections,
    run,
    write_input,
)
from transforms import storage

SMALL_WINDOWS = ("--max_length=48", "--max_question=16", "--max_answer_length=8", "--overlap=10")
"""With these, the contexts of `examples` need more than one window."""


def nested_columns(count: int) -> dict[str, pa.Array]:
    """Return columns of other types, with nulls and empty values, that a job only passes on."""
    return {
        "answers": pa.array(
            [{"text": ["Ada"] * (n % 3), "answer_start": [4] * (n % 3)} for n in range(count)]
        ),
        "tags": pa.array(
            [None if n % 4 == 0 else [("kind", n), ("empty", None)] for n in range(count)],
            pa.map_("str", "int32"),
        ),
        "deep": pa.array([[{"x": [n, None]}, None] if n % 2 else [] for n in range(count)]),
        "source": pa.array([f"book {n % 3}" for n in range(count)]).dictionary_encode(),
        "price": pa.array([Decimal(n) / 4 for n in range(count)], pa.decimal128(10, 2)),
        "raw.bytes": pa.array([bytes([n]) for n in range(count)]),
        "nothing": pa.nulls(count),
    }


def assert_answered(row: dict[str, Any]) -> None:
    """Assert that a row has an answer and three candidates, all in agreement with each other."""
    assert row["status"] == "answered"
    assert row["reason"] is None
    assert row["answer_text"]
    assert row["answer_text"] == row["context"][row["answer_start"] : row["answer_end"]]
    assert 0 < row["probability"] <= 1
    assert 0 <= row["window_index"] < row["num_windows"]
    best, *others = row["n_best"]
    assert len(others) == 2
    assert (best["text"], best["start"], best["end"]) == (
        row["answer_text"],
        row["answer_start"],
        row["answer_end"],
    )
    assert best["start_logit"] + best["end_logit"] == pytest.approx(row["span_score"], rel=1e-5)
    for candidate in row["n_best"]:
        assert candidate["text"] == row["context"][candidate["start"] : candidate["end"]]
    assert sum(candidate["probability"] for candidate in row["n_best"]) <= 1 + 1e-5
    assert row["null_score"] is None  # the checkpoint has no null option
    assert row["null_probability"] is None


class TestOutputMirrorsInput:
    def test_every_row_is_there_in_its_place_with_its_own_columns(
        self, tmp_path: Path, annotate: Annotate, output: Path
    ):
        """There are several files, row groups that no chunk size divides, and two types of text."""
        first = examples(17)
        for name, column in nested_columns(17).items():
            first = first.append_column(name, column)
        second = first.slice(3, 9)
        for name in ("question", "context"):
            place = second.column_names.index(name)
            second = second.set_column(
                place, name, second.column(name).cast(pa.large_string()).dictionary_encode()
            )
        write_input(tmp_path / "in" / "a.parquet", first, row_group_size=7)
        write_input(tmp_path / "in" / "b.parquet", second, row_group_size=5)

        assert (
            annotate(tmp_path / "in", output, "--chunk_rows=4", "--n_best=3", *SMALL_WINDOWS) == 0
        )

        written = read_parts(output)
        assert written.column_names == [*first.column_names, *ANSWER_SCHEMA.names]
        for name in first.column_names:
            assert written.schema.field(name).type == first.schema.field(name).type
            assert (
                written.column(name).to_pylist()
                == first.column(name).to_pylist() + second.column(name).to_pylist()
            )
        for field in ANSWER_SCHEMA:
            assert written.schema.field(field.name).type == field.type

        rows = written.to_pylist()
        assert len(rows) == 26
        for row in rows:
            assert_answered(row)
        assert max(row["num_windows"] for row in rows) > 1

        chunk_rows = [int(part.stem.rsplit("-n", 1)[1]) for part in part_files(output)]
        # Row groups of 7, 7, 3 and of 5, 4.
        assert chunk_rows == [4, 3, 4, 3, 3, 4, 1, 4]

    def test_the_manifest_accounts_for_every_row(
        self, tmp_path: Path, annotate: Annotate, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        source = write_input(
            tmp_path / "a.parquet", pa.concat_tables([examples(9), examples(4)]), row_group_size=10
        )
        assert annotate(source, output, "--chunk_rows=6") == 0
        manifest = read_manifest(output)
        assert manifest["state"] == "complete"
        assert manifest["why"] == []
        assert manifest["rows"] == {
            "planned": 13,
            "answered": 13,
            "no_answer": 0,
            "below_threshold": 0,
            "rejected": 0,
            "in_failed_chunks": 0,
        }
        assert manifest["chunks"] == {"planned": 3, "failed": 0}
        assert manifest["distinct_pairs"] == 6 + 4 + 3  # pairs are distinct within a chunk only
        assert manifest["windows"] == sum(
            row["num_windows"] for row in read_parts(output).to_pylist()
        )
        assert manifest["tokens"]["padded"] >= manifest["tokens"]["real"] > 13 * 20
        assert manifest["configuration"]["chunk_rows"] == 6
        assert set(manifest["steps"]) == {
            "ReadChunk",
            "MakeWindows",
            "PredictSpans",
            "DecodeAnswers",
            "WriteChunk",
        }
        assert manifest["failures"] == []
        assert (
            "13 rows = 13 answered + 0 no answer + 0 below threshold + 0 rejected "
            "+ 0 in failed chunks" in capfd.readouterr().out
        )
        assert sorted(path.name for path in output.iterdir()) == [
            "manifest.json",
            "parts",
            "run.json",
        ]
        assert (
            json.loads((output / "run.json").read_text())["inputs"][0]["size"]
            == source.stat().st_size
        )

    def test_a_row_asked_twice_has_one_answer(
        self, tmp_path: Path, annotate: Annotate, output: Path
    ):
        write_input(tmp_path / "a.parquet", pa.concat_tables([examples(3), examples(3)]))
        assert annotate(tmp_path / "a.parquet", output) == 0
        answers = read_parts(output).select(ANSWER_SCHEMA.names)
        assert answers.slice(0, 3).to_pylist() == answers.slice(3).to_pylist()
        assert read_manifest(output)["distinct_pairs"] == 3

    def test_zero_rows_have_a_manifest_too(self, tmp_path: Path, annotate: Annotate, output: Path):
        write_input(tmp_path / "a.parquet", examples(1).slice(0, 0))
        assert annotate(tmp_path / "a.parquet", output) == 0
        manifest = read_manifest(output)
        assert manifest["state"] == "complete"
        assert manifest["rows"]["planned"] == 0
        assert not (output / "parts").exists()

    def test_only_the_first_rows(self, tmp_path: Path, annotate: Annotate, output: Path):
        for place, name in enumerate("abc"):
            write_input(
                tmp_path / "in" / f"{name}.parquet", examples(6, first=10 * place), row_group_size=4
            )
        assert annotate(tmp_path / "in", output, "--limit=11", "--chunk_rows=3") == 0
        assert read_parts(output).column("id").to_pylist() == [
            f"row {n}" for n in (0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14)
        ]
        assert read_manifest(output)["rows"]["planned"] == 11


class TestColumns:
    def test_kept_columns_keep_the_order_that_was_asked_for(
        self, tmp_path: Path, annotate: Annotate, output: Path
    ):
        write_input(tmp_path / "a.parquet", examples(3).append_column("score", pa.array([1, 2, 3])))
        assert annotate(tmp_path / "a.parquet", output, "--keep_columns=score, id") == 0
        written = read_parts(output)
        assert written.column_names == ["score", "id", *ANSWER_SCHEMA.names]
        assert written.column("score").to_pylist() == [1, 2, 3]

    def test_a_clash_is_refused_and_a_prefix_resolves_it(
        self, tmp_path: Path, annotate: Annotate, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        write_input(
            tmp_path / "a.parquet", examples(2).append_column("status", pa.array(["new", "old"]))
        )
        assert annotate(tmp_path / "a.parquet", output) == 2
        assert "--output_prefix='': the output column 'status'" in capfd.readouterr().err
        assert not output.exists()
        assert annotate(tmp_path / "a.parquet", output, "--output_prefix=qa_") == 0
        written = read_parts(output)
        assert written.column_names == [
            *examples(1).column_names,
            "status",
            *(f"qa_{name}" for name in ANSWER_SCHEMA.names),
        ]
        assert written.column("status").to_pylist() == ["new", "old"]
        assert written.column("qa_status").to_pylist() == ["answered"] * 2

    def test_columns_of_other_names_and_rows_without_an_id(
        self, tmp_path: Path, annotate: Annotate, output: Path
    ):
        table = examples(5).select(["question", "context"]).rename_columns(["ask", "text"])
        write_input(
            tmp_path / "a.parquet",
            table.set_column(0, "ask", pa.array(["Who?", "", "Who?", "Who?", None])),
            row_group_size=3,
        )
        assert (
            annotate(
                tmp_path / "a.parquet", output, "--question_column=ask", "--context_column=text"
            )
            == 0
        )
        made = ["a.parquet:0:0", "a.parquet:0:1", "a.parquet:0:2", "a.parquet:1:0", "a.parquet:1:1"]
        written = read_parts(output)
        assert written.column_names == ["id", "ask", "text", *ANSWER_SCHEMA.names]
        assert written.column("id").to_pylist() == made
        assert [(row["id"], row["row"], row["reason"]) for row in read_rejections(output)] == [
            ("a.parquet:0:1", 1, "question_blank"),
            ("a.parquet:1:1", 4, "question_missing"),
        ]

    def test_made_ids_tell_files_of_one_name_apart(
        self, tmp_path: Path, annotate: Annotate, output: Path
    ):
        for day in (1, 2):
            write_input(
                tmp_path / "in" / f"date={day}" / "part-0.parquet", examples(2).drop_columns(["id"])
            )
        assert annotate(tmp_path / "in", output) == 0
        made = [f"date={day}/part-0.parquet:0:{row}" for day in (1, 2) for row in (0, 1)]
        assert read_parts(output).column("id").to_pylist() == made

    def test_folders_of_the_path_are_columns_and_types_hold_all_files(
        self, tmp_path: Path, bert_folder: Path, output: Path
    ):
        """Hive and Spark write them as text; they come after the columns of the file."""
        for language, numbers in (
            ("en", pa.nulls(2)),
            ("fr", pa.array([1, 2], pa.int32())),
            ("pt", pa.array([3, 4])),
        ):
            table = examples(2).append_column("n", numbers)
            table = table.append_column(
                "answers", pa.array([{"text": ["Ada"], "answer_start": [28]}] * 2)
            )
            write_input(tmp_path / "in" / f"lang={language}" / "part-0.parquet", table)
        arguments = (f"--input={tmp_path}/in", f"--output={output}", f"--model={bert_folder}")
        assert run("audit", *arguments, "--slice_by=lang") == 0
        written = read_parts(output)
        assert written.column_names[:6] == ["id", "question", "context", "n", "answers", "lang"]
        assert written.column("lang").to_pylist() == ["en"] * 2 + ["fr"] * 2 + ["pt"] * 2
        assert written.column("n").to_pylist() == [None, None, 1, 2, 3, 4]
        slices = json.loads((output / "audit.json").read_text("utf-8"))["slices"]["lang"]
        assert sorted(slices) == ["en", "fr", "pt"]

    def test_the_id_column_may_have_another_name(
        self, tmp_path: Path, annotate: Annotate, output: Path
    ):
        table = examples(2).rename_columns(["key", "question", "context"])
        write_input(
            tmp_path / "a.parquet", table.set_column(1, "question", pa.array(["Who?", None]))
        )
        assert annotate(tmp_path / "a.parquet", output, "--id_column=key") == 0
        assert read_parts(output).column_names == [
            "key",
            "question",
            "context",
            *ANSWER_SCHEMA.names,
        ]
        assert [row["id"] for row in read_rejections(output)] == ["row 1"]


def texts(*values: str | bytes | None) -> pa.Array:
    """Return a string column with these bytes as they are, valid UTF-8 or not."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return pa.array(encoded, pa.binary()).view(pa.string())


class TestRejections:
    ROWS = (
        (None, "A lamp.", "question_missing", "the question is missing"),
        (" \t\n", "A lamp.", "question_blank", "the question is blank"),
        (b"caf\xe9", "A lamp.", "question_not_utf8", "the question is not UTF-8"),
        ("\u200b", "A lamp.", "question_without_tokens", "no token in the question"),
        ("Who?", None, "context_missing", "the context is missing"),
        ("Who?", "\u3000", "context_blank", "the context is blank"),
        ("Who?", b"\xff lamp", "context_not_utf8", "the context is not UTF-8"),
        ("Who?", "\u0301", "context_without_tokens", "no token in the context"),
        ("Who?", "a lamp " * 500, "too_many_windows", "max_windows=3"),
        (None, None, "question_missing", "the question is missing"),
    )

    def mixed_with(self, good: pa.Table) -> pa.Table:
        """Return the bad rows, each followed by a good one."""
        rows = []
        for number, (question, context, *_) in enumerate(self.ROWS):
            rows.append((question, context))
            rows.append((good["question"][number].as_py(), good["context"][number].as_py()))
        return pa.table(
            {
                "id": [f"id {number}" for number in range(len(rows))],
                "question": texts(*(question for question, _ in rows)),
                "context": texts(*(context for _, context in rows)),
            }
        )

    def test_each_is_named_and_its_neighbours_are_answered_as_without_it(
        self, tmp_path: Path, annotate: Annotate, output: Path
    ):
        good = examples(len(self.ROWS))
        table = self.mixed_with(good)
        write_input(tmp_path / "mixed.parquet", table)
        write_input(tmp_path / "good.parquet", good)
        assert annotate(tmp_path / "mixed.parquet", output, "--max_windows=3") == 0
        assert annotate(tmp_path / "good.parquet", tmp_path / "alone", "--max_windows=3") == 0

        written = read_parts(output)
        assert written.column("question").cast(pa.binary()) == table.column("question").cast(
            pa.binary()
        )
        assert written.column("context").cast(pa.binary()) == table.column("context").cast(
            pa.binary()
        )
        answers = written.select(ANSWER_SCHEMA.names).to_pylist()
        nothing = dict.fromkeys(ANSWER_SCHEMA.names)
        assert answers[0::2] == [
            {**nothing, "status": "rejected", "reason": row[2]} for row in self.ROWS
        ]

        alone = read_parts(tmp_path / "alone").select(ANSWER_SCHEMA.names).to_pylist()
        inexact = ("probability", "span_score", "n_best")  # other batches round differently
        for beside, apart in zip(answers[1::2], alone, strict=True):
            assert beside["probability"] == pytest.approx(apart["probability"], rel=1e-4)
            assert beside["span_score"] == pytest.approx(apart["span_score"], rel=1e-4)
            assert {k: v for k, v in beside.items() if k not in inexact} == {
                k: v for k, v in apart.items() if k not in inexact
            }

        rejections = read_rejections(output)
        assert [row["row"] for row in rejections] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
        for found, (_, _, reason, message) in zip(rejections, self.ROWS, strict=True):
            assert found["id"] == f"id {found['row']}"
            assert (found["stage"], found["reason"]) == ("MakeWindows", reason)
            assert message in found["message"]
            assert found["path"] == str(tmp_path / "mixed.parquet")
            assert found["row_group"] == 0
        manifest = read_manifest(output)
        assert manifest["rows"] == {
            "planned": 20,
            "answered": 10,
            "no_answer": 0,
            "below_threshold": 0,
            "rejected": 10,
            "in_failed_chunks": 0,
        }
        assert manifest["reasons"] == {**{row[2]: 1 for row in self.ROWS}, "question_missing": 2}
        assert read_manifest(tmp_path / "alone")["reasons"] == {}
        assert not (tmp_path / "alone" / "rejections").exists()

    def test_rows_count_from_the_start_of_the_file(
        self, tmp_path: Path, annotate: Annotate, output: Path
    ):
        table = examples(10).set_column(
            1, "question", pa.array(["Who?"] * 7 + [None] + ["Who?"] * 2)
        )
        write_input(tmp_path / "a.parquet", table, row_group_size=4)
        assert annotate(tmp_path / "a.parquet", output, "--chunk_rows=2") == 0
        assert [(row["id"], row["row_group"], row["row"]) for row in read_rejections(output)] == [
            ("row 7", 1, 7)
        ]

    def test_a_column_of_nulls_is_a_column_of_rejections(
        self, tmp_path: Path, annotate: Annotate, output: Path
    ):
        write_input(tmp_path / "a.parquet", examples(3).set_column(1, "question", pa.nulls(3)))
        assert annotate(tmp_path / "a.parquet", output, "--max_failed_fraction=1") == 0
        assert read_parts(output).column("reason").to_pylist() == ["question_missing"] * 3
        assert len(read_rejections(output)) == 3

    def test_an_id_that_is_no_utf8_does_not_fail_its_chunk(
        self, tmp_path: Path, annotate: Annotate, output: Path
    ):
        table = (
            examples(2)
            .set_column(0, "id", texts(b"\xff", "b"))
            .set_column(1, "question", texts(None, "Who?"))
        )
        write_input(tmp_path / "a.parquet", table)
        assert annotate(tmp_path / "a.parquet", output) == 0
        assert [(row["id"], row["row"]) for row in read_rejections(output)] == [(None, 0)]
        assert read_parts(output).column("status").to_pylist() == ["rejected", "answered"]

    def test_nothing_but_rejections_is_no_success(
        self, tmp_path: Path, annotate: Annotate, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        write_input(
            tmp_path / "a.parquet", examples(4).set_column(1, "question", pa.array([""] * 4))
        )
        assert annotate(tmp_path / "a.parquet", output) == 1
        manifest = read_manifest(output)
        assert manifest["state"] == "incomplete"
        assert manifest["why"] == [
            "4 of 4 rows were rejected or failed, more than --max_failed_fraction=0.5"
        ]
        assert manifest["rows"]["rejected"] == 4
        assert "--max_failed_fraction=0.5" in capfd.readouterr().out
        before = identities(output)
        # Not a part of the identity: no new work.
        assert annotate(tmp_path / "a.parquet", output, "--max_failed_fraction=1") == 0
        assert read_manifest(output)["state"] == "complete"
        assert identities(output) == before


class TestTheSameContent:
    def test_for_any_run_length_and_any_number_of_threads(self, tmp_path: Path, annotate: Annotate):
        """Chunk boundaries, and so batches and answers, depend on the input alone.

        tests/test_engines.py tests several processes.
        """
        table = examples(40).set_column(1, "question", pa.array(["Who?", None] * 20))
        source = write_input(tmp_path / "a.parquet", table, row_group_size=25)
        ways = {
            "one": (),
            "many": ("--direct_num_workers=8",),
            "threads": ("--direct_running_mode=multi_threading", "--direct_num_workers=3"),
        }
        for way, options in ways.items():
            assert annotate(source, tmp_path / way, "--chunk_rows=4", *options) == 0
        one, *others = ways
        manifest, parts = read_manifest(tmp_path / one), read_parts(tmp_path / one)
        assert manifest["rows"] == {
            "planned": 40,
            "answered": 20,
            "no_answer": 0,
            "below_threshold": 0,
            "rejected": 20,
            "in_failed_chunks": 0,
        }
        exact = [
            field.name
            for field in parts.schema
            if not pa.types.is_floating(field.type) and field.name != "n_best"
        ]
        for way in others:
            other = read_manifest(tmp_path / way)
            for figure in (
                "rows",
                "content",
                "windows",
                "tokens",
                "chunks",
                "distinct_pairs",
                "reasons",
                "configuration",
            ):
                assert other[figure] == manifest[figure]
            assert read_parts(tmp_path / way).select(exact).equals(parts.select(exact))
            assert read_rejections(tmp_path / way) == read_rejections(tmp_path / one)

    def test_other_answers_have_another_digest(self, tmp_path: Path, annotate: Annotate):
        source = write_input(tmp_path / "a.parquet", examples(5))
        assert annotate(source, tmp_path / "long") == 0
        assert annotate(source, tmp_path / "short", "--max_answer_length=1") == 0
        assert (
            read_manifest(tmp_path / "long")["content"]
            != read_manifest(tmp_path / "short")["content"]
        )


def test_an_object_store_from_end_to_end(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Input, model and output are behind fsspec; the memory file system replaces a bucket."""
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))
    store = fsspec.filesystem("memory")
    store.store.clear()
    sink = pa.BufferOutputStream()
    pq.write_table(
        examples(7).set_column(1, "question", pa.array(["Who?"] * 6 + [None])),
        sink,
        row_group_size=4,
    )
    store.pipe_file("/bucket/in/a.parquet", sink.getvalue().to_pybytes())
    for path in bert_folder.iterdir():
        store.pipe_file(f"/bucket/model/{path.name}", path.read_bytes())
    arguments = (
        "annotate",
        "--input=memory://bucket/in/*.parquet",
        "--output=memory://bucket/out",
        "--model=memory://bucket/model",
        "--chunk_rows=3",
    )
    try:
        assert run(*arguments) == 0
        parts = sorted(store.glob("/bucket/out/parts/*"))
        written = pa.concat_tables([pq.ParquetFile(store.open(part)).read() for part in parts])
        assert written.column("id").to_pylist() == [f"row {n}" for n in range(7)]
        assert written.column("status").to_pylist() == ["answered"] * 6 + ["rejected"]
        assert len(store.glob("/bucket/out/rejections/*")) == 1
        assert json.loads(store.cat_file("/bucket/out/manifest.json"))["state"] == "complete"
        made = {part: store.created(part) for part in parts}
        assert run(*arguments) == 0
        assert {part: store.created(part) for part in parts} == made
        assert run(*arguments, "--n_best=2") == 2
        assert run(*arguments, "--n_best=2", "--overwrite") == 0
    finally:
        store.store.clear()
        store.pseudo_dirs[:] = [""]


class TestSplitReader:
    def test_annotate_and_audit_read_with_one_as_the_library_does(
        self, tmp_path: Path, bert_folder: Path, output: Path
    ):
        folder = shutil.copytree(bert_folder, tmp_path / "split")
        with_settings(folder, split=1, passage_position=18)
        table = examples(12)
        golds = [
            {"text": [context[:3]], "answer_start": [0]} for context in table["context"].to_pylist()
        ]
        source = write_input(
            tmp_path / "a.parquet", table.append_column("answers", pa.array(golds))
        )
        given = (f"--input={source}", f"--output={output}", f"--model={folder}", *SMALL_WINDOWS)
        assert run("annotate", "--audit", *given, "--chunk_rows=5", "--dtype=float32") == 0
        rows = read_parts(output).to_pylist()
        settings = {"max_length": 48, "max_question": 16, "max_answer_length": 8, "overlap": 10}
        reader = SpanReader.load(str(folder), dtype="float32", **settings)
        answers = reader.answer([row["question"] for row in rows], [row["context"] for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            assert (row["status"], row["answer_text"]) == (answer.status, answer.answer_text)
            assert row["probability"] == pytest.approx(answer.probability, rel=1e-4)
        audited = read_parts(output / "audit").to_pylist()
        assert {row["status"] for row in audited} == {"scored"}
