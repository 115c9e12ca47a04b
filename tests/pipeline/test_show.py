"""Examples in the terminal: spans in passages, readable without colours, and harmless."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from rich.console import Console

from pipeline.formats.finished import FinishedRun
from pipeline.formats.survey_rows import ANSWERS_TYPE
from pipeline.show import ANSWER, GOLD, excerpt, lines_of, main, spans_of
from tests.runs import examples, run, write_input

CONFIGURATION = {
    "output_prefix": "qa_",
    **{f"{kind}_column": kind for kind in ("id", "question", "context", "answers")},
}
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("context", pa.string()),
        ("answers", ANSWERS_TYPE),
    ]
)
RUN = FinishedRun("/out", "annotate", ("p",), SCHEMA, CONFIGURATION)
AUDIT = FinishedRun("/out", "audit", ("p",), SCHEMA, CONFIGURATION)

ROW: dict[str, Any] = {
    "id": "row 1",
    "question": "Who?",
    "context": "Ada did, Ben did not.",
    "qa_answer_text": "Ada",
    "qa_answer_start": 0,
    "qa_answer_end": 3,
    "qa_probability": 0.876,
    "qa_window_index": 1,
    "qa_num_windows": 3,
    "qa_status": "answered",
    "qa_reason": None,
}


def lines(row: dict[str, Any], of: FinishedRun = RUN) -> list[str]:
    return [line.plain for line in lines_of(of, row, 100, marked=True)]


class TestLines:
    def test_an_answer(self):
        shown = ["row 1: Who?", "'Ada', probability 0.88, window 2 of 3", "«Ada» did, Ben did not."]
        assert lines(ROW) == shown

    def test_where_an_answer_is(self):
        row = {**ROW, "qa_page": 4, "qa_section": "Lamp"}
        facts = "'Ada', probability 0.88, window 2 of 3, page 4, section 'Lamp'"
        assert lines(row)[1] == facts

    def test_no_answer(self):
        """The probability is that of no answer, not that of the best span."""
        nothing = {"qa_answer_text": None, "qa_answer_start": None, "qa_answer_end": None}
        row = {
            **ROW,
            **nothing,
            "qa_status": "no_answer",
            "qa_probability": 0.11,
            "qa_null_probability": 0.88,
        }
        assert lines(row)[1:] == [
            "no answer, probability 0.88, window 2 of 3",
            "Ada did, Ben did not.",
        ]

    def test_below_the_threshold(self):
        """The probability is that of the best span, which is among the candidates."""
        nothing = {"qa_answer_text": None, "qa_answer_start": None, "qa_answer_end": None}
        candidates = [{"text": text, "probability": p} for text, p in (("Ada", 0.41), ("Ben", 0.3))]
        row = {
            **ROW,
            **nothing,
            "qa_status": "below_threshold",
            "qa_probability": 0.41,
            "qa_n_best": candidates,
        }
        assert lines(row)[1:] == [
            "below the threshold, probability 0.41, window 2 of 3",
            "Ada did, Ben did not.",
            "then: 'Ada' 0.41 | 'Ben' 0.30",
        ]

    def test_a_rejection_with_nothing_to_show(self):
        row = {
            **dict.fromkeys(ROW),
            "id": 7,
            "qa_status": "rejected",
            "qa_reason": "question_missing",
        }
        assert lines(row) == ["7: None", "rejected: question_missing"]

    @pytest.mark.parametrize(
        ("answers", "gold", "passage"),
        [
            (
                {"text": ["Ben", "Ben did"], "answer_start": [9, 9]},
                "gold: 'Ben' | 'Ben did'",
                "«Ada» did, ‹‹Ben› did› not.",
            ),
            ({"text": ["Ada"], "answer_start": [0]}, "gold: 'Ada'", "‹«Ada»› did, Ben did not."),
            ({"text": [], "answer_start": []}, "gold: none", "«Ada» did, Ben did not."),
        ],
    )
    def test_golds_where_there_are_any(self, answers: dict[str, Any], gold: str, passage: str):
        assert lines({**ROW, "answers": answers})[2:] == [gold, passage]

    def test_golds_as_a_list_of_structs(self):
        item = pa.struct([("text", pa.string()), ("answer_start", pa.int32())])
        audit = FinishedRun(
            "/out",
            "annotate",
            ("p",),
            SCHEMA.set(3, pa.field("answers", pa.list_(item))),
            CONFIGURATION,
        )
        golds = [{"text": "Ben", "answer_start": 9}, None]
        assert lines({**ROW, "answers": golds}, audit)[2:] == [
            "gold: 'Ben'",
            "«Ada» did, ‹Ben› did not.",
        ]

    def test_a_long_answer_is_cut_where_it_is_quoted(self):
        shown = lines({**ROW, "qa_answer_text": "x" * 5000, "context": None})
        assert shown[1].startswith(f"'{'x' * 80}…', probability")

    def test_a_column_called_answers_may_be_anything(self):
        schema = SCHEMA.set(3, pa.field("answers", pa.string()))
        assert lines(
            {**ROW, "answers": "Ada"},
            FinishedRun("/out", "annotate", ("p",), schema, CONFIGURATION),
        ) == lines(ROW)

    def test_other_candidates(self):
        n_best = [{"text": "Ada", "probability": 0.876}, {"text": "Ben\n", "probability": 0.1}]
        assert lines({**ROW, "qa_n_best": n_best})[-1] == "then: 'Ben ' 0.10"

    def test_all_answers(self):
        """They are marked in the passage, and listed in its order."""
        answers = [
            {"text": "Ada", "start": 0, "end": 3, "probability": 0.5},
            {"text": "lamp", "start": 12, "end": 16, "probability": 0.25},
        ]
        shown = lines({**ROW, "context": "Ada lit the lamp.", "qa_all_answers": answers})
        assert shown[-1] == "all answers: 'Ada' 0.50 | 'lamp' 0.25"
        assert "«lamp»" in shown[-2]

    def test_an_audited_row(self):
        row = {
            **{name: ROW[name] for name in ("id", "question", "context", "qa_probability")},
            **{
                "qa_prediction": "Ada",
                "qa_prediction_start": 0,
                "qa_prediction_end": 3,
                "qa_nll": 7.654,
                "qa_f1": 0.0,
            },
            **{
                "qa_gold_start": 9,
                "qa_gold_end": 12,
                "qa_status": "scored",
                "qa_reason": "gold_too_long",
            },
        }
        assert lines(row, AUDIT)[1:] == [
            "'Ada', probability 0.88, loss of the gold 7.65, F1 0.00",
            "scored: gold_too_long",
            "«Ada» did, ‹Ben› did not.",
        ]

    def test_columns_that_were_not_kept_are_not_shown(self):
        run_without = FinishedRun(
            "/out", "annotate", ("p",), pa.schema([("id", pa.string())]), CONFIGURATION
        )
        assert lines(ROW, run_without) == ["row 1: None", "'Ada', probability 0.88, window 2 of 3"]


class TestExcerpt:
    CONTEXT = "0123456789" * 10

    def test_near_spans_share_a_piece_and_far_ones_do_not(self):
        near = excerpt(self.CONTEXT, [(20, 22, ANSWER), (25, 27, GOLD)], 3, marked=True)
        assert near.plain == "… 789«01»234‹56›789 …"
        far = excerpt(self.CONTEXT, [(80, 82, ANSWER), (5, 7, GOLD)], 3, marked=True)
        assert far.plain == "… 234‹56›789 … 789«01»234 …"

    def test_the_edges_of_the_passage(self):
        assert excerpt(self.CONTEXT, [(0, 2, ANSWER), (98, 100, GOLD)], 500, marked=True).plain == (
            f"«01»{self.CONTEXT[2:98]}‹89›"
        )
        assert excerpt(self.CONTEXT, [], 7, marked=True).plain == f"{self.CONTEXT[:7]} …"
        assert excerpt("", [], 7, marked=True).plain == ""

    def test_the_middle_of_a_long_span_is_left_out(self):
        shown = excerpt(self.CONTEXT, [(10, 90, ANSWER)], 3, marked=True)
        assert shown.plain == "… 789«012 … 789»012 …"

    def test_spans_are_styled_where_there_are_colours(self):
        text = excerpt("Ada did.", [(0, 3, ANSWER), (0, 7, GOLD)], 9, marked=False)
        assert text.plain == "Ada did."
        assert [(span.start, span.end, span.style) for span in text.spans] == [
            (0, 3, f"{ANSWER} {GOLD}"),
            (3, 7, GOLD),
        ]

    def test_a_span_ends_with_the_passage(self):
        """Golds may lie beyond the end of the context."""
        assert (
            excerpt("Ada", [(90, 95, GOLD), (1, 99, GOLD), (0, 1, ANSWER)], 2, marked=True).plain
            == "«A»‹da›"
        )

    def test_escapes_move_no_span(self):
        assert (
            excerpt("\x1b\x1bAda\n!", [(2, 5, ANSWER)], 9, marked=True).plain == "\\x1b\\x1b«Ada» !"
        )


def test_nothing_that_is_printed_can_be_obeyed():
    """Neither rich's markup nor escapes are interpreted, even as a whole answer."""
    evil = "\x1b[2J[bold red]x[/] :smile: \x07\u202e"
    row = {
        **ROW,
        "id": evil,
        "question": evil,
        "context": evil,
        "qa_answer_text": evil,
        "qa_answer_end": 9,
    }
    row |= {
        "answers": {"text": [evil], "answer_start": [0]},
        "qa_n_best": [{"text": evil, "probability": 0.5}] * 2,
    }
    out = io.StringIO()
    console = Console(file=out, highlight=False, markup=False, emoji=False, width=500)
    for line in lines_of(RUN, row, 99, marked=True):
        console.print(line)
    assert all(character.isprintable() or character == "\n" for character in out.getvalue())
    assert out.getvalue().count("[bold red]x[/] :smile:") == 5


def test_spans_without_a_place_are_left_out():
    golds = {"text": ["Ada", "", "Ben", "Cy"], "answer_start": [3, 1, None, -1]}
    assert spans_of({"gold_start": None, "prediction_start": 3, "prediction_end": 6}, golds) == [
        (3, 6, GOLD),
        (3, 6, ANSWER),
    ]


class TestMain:
    @pytest.fixture(scope="class")
    def output(self, bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Annotate ten rows in four parts, with prefixed columns.

        The last row is rejected, and one has bytes that are not UTF-8.
        """
        folder = tmp_path_factory.mktemp("show")
        table = examples(10).set_column(1, "question", pa.array(["Who?"] * 9 + [None]))
        broken = pa.array(
            [row.encode() for row in table.column("context").to_pylist()[:8]] + [b"\xff"] * 2,
            pa.binary(),
        )
        table = table.set_column(2, "context", broken.view(pa.string()))
        source = write_input(folder / "a.parquet", table)
        options = ("--chunk_rows=3", "--output_prefix=qa_", f"--model={bert_folder}")
        assert run("annotate", f"--input={source}", f"--output={folder}/out", *options) == 0
        return folder / "out"

    def shown(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[str]:
        assert main([str(argument) for argument in arguments]) == 0
        return [
            line.split(":")[0]
            for line in capsys.readouterr().out.splitlines()
            if not line.startswith(" ")
        ]

    def test_rows_are_chosen(self, output: Path, capsys: pytest.CaptureFixture[str]):
        assert self.shown(capsys, output) == [f"row {n}" for n in range(10)]
        assert self.shown(capsys, output, "--sample=3") == ["row 0", "row 3", "row 6"]
        assert self.shown(capsys, output, "--id", "row 4") == ["row 4"]
        assert self.shown(capsys, output, "--where", "qa_status == 'rejected'") == [
            "row 8",
            "row 9",
        ]

    def test_a_rejected_row_is_shown(self, output: Path, capsys: pytest.CaptureFixture[str]):
        assert main([str(output), "--id=row 9"]) == 0
        assert "    rejected: question_missing" in capsys.readouterr().out

    def test_spans_stand_out_without_colours(
        self, output: Path, capsys: pytest.CaptureFixture[str]
    ):
        assert main([str(output), "--id=row 4"]) == 0
        assert "«" in capsys.readouterr().out

    def test_a_run_on_a_store(
        self,
        output: Path,
        memory: fsspec.AbstractFileSystem,
        capsys: pytest.CaptureFixture[str],
    ):
        memory.put(f"{output}/", "/show/", recursive=True)
        assert self.shown(
            capsys, "memory://show", "--where=qa_probability > 2 or id == 'row 5'"
        ) == ["row 5"]

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("--id=row 99",), 1, "no row matches"),
            (("--worst=3",), 2, "has no losses"),
            (("--where=loss > 3",), 2, "no such column"),
            (("--where=qa_num_windows / 0 > 3",), 2, "divide by zero"),
        ],
    )
    def test_what_can_not_be_shown_is_named(
        self,
        output: Path,
        arguments: tuple[str, ...],
        code: int,
        message: str,
        capsys: pytest.CaptureFixture[str],
    ):
        assert main([str(output), *arguments]) == code
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        "arguments", [("--sample=0",), ("--sample=3", "--id=7"), ("--worst=x",)]
    )
    def test_options_that_mean_nothing(self, output: Path, arguments: tuple[str, ...]):
        with pytest.raises(SystemExit) as stopped:
            main([str(output), *arguments])
        assert stopped.value.code == 2

    @pytest.mark.parametrize("output", ["nothing here", "nowhere://a"])
    def test_an_output_that_is_none_is_named(
        self,
        output: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ):
        monkeypatch.chdir(tmp_path)
        assert main([output]) == 2
        message = capsys.readouterr().err
        assert message.startswith("refused: ")
        assert output.split(":")[0] in message

    def test_a_part_that_is_damaged_is_refused(
        self, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        copy = Path(shutil.copytree(output, tmp_path / "out"))
        (copy / "parts" / sorted(path.name for path in (copy / "parts").iterdir())[0]).write_bytes(
            b""
        )
        assert main([str(copy)]) == 2
        assert f"refused: {copy} can't be read: " in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("target", "code", "message"),
        [("/dev/full", 3, "standard output: No space left"), ("pipe", 0, "")],
    )
    def test_output_that_nobody_takes(
        self,
        output: Path,
        target: str,
        code: int,
        message: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ):
        """The reader of a pipe has seen enough; a full disk is an error."""
        if target == "pipe":
            reading, writing = os.pipe()
            os.close(reading)
        with os.fdopen(writing, "w") if target == "pipe" else open(target, "w") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            assert main([str(output)]) == code
        said = capsys.readouterr().err
        assert said.startswith(message)
        assert bool(message) == bool(said)
