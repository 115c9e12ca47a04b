"""Rows in the terminal: readable, spread over the run, and harmless whatever the corpus holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.show import main, read_rows, show_row
from tests.runs import examples, run, write_input

ROW: dict[str, Any] = {
    "id": "row 1",
    "question": "Who?",
    "context": "Ada did.",
    "answer_text": "Ada",
    "probability": 0.876,
    "window_index": 1,
    "num_windows": 3,
    "status": "answered",
    "reason": None,
}


class TestShowRow:
    def test_an_answer(self):
        assert show_row(ROW) == "row 1: Who?\n    'Ada', probability 0.88, window 2 of 3"

    def test_no_answer(self):
        row = {**ROW, "status": "no_answer", "answer_text": None}
        assert show_row(row).splitlines()[1] == "    no answer, probability 0.88, window 2 of 3"

    def test_a_rejection_with_nothing_to_show(self):
        row = {**dict.fromkeys(ROW), "id": 7, "status": "rejected", "reason": "question_missing"}
        assert show_row(row) == "7: None\n    rejected: question_missing"

    @pytest.mark.parametrize(
        ("answers", "shown"), [({"text": ["Ada", "A"]}, "gold: 'Ada' | 'A'"), ({"text": []}, "gold: none"), (None, None)]
    )
    def test_golds_where_there_are_any(self, answers: dict[str, list[str]] | None, shown: str | None):
        lines = show_row({**ROW, "answers": answers}).splitlines()
        assert [line.strip() for line in lines[2:]] == ([] if shown is None else [shown])

    def test_control_characters_do_not_reach_the_terminal(self):
        """A corpus may hold escape sequences that clear the screen or set the title."""
        row = {**ROW, "id": "\x1b[2J", "question": "a\x07b\x9bc\nd", "answer_text": "\x1b]0;owned\x07"}
        shown = show_row(row)
        assert all(character.isprintable() or character == "\n" for character in shown)
        assert shown.count("\n") == 1

    def test_a_long_answer_is_cut(self):
        assert len(show_row({**ROW, "answer_text": "x" * 5000}).splitlines()[1]) < 200


class TestMain:
    @pytest.fixture(scope="class")
    def output(self, bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A run of ten rows in four parts, the last rejected, with prefixed columns."""
        folder = tmp_path_factory.mktemp("show")
        table = examples(10).set_column(1, "question", pa.array(["Who?"] * 9 + [None]))
        source = write_input(folder / "a.parquet", table)
        options = ("--chunk_rows=3", "--output_prefix=qa_", f"--model={bert_folder}")
        assert run("annotate", f"--input={source}", f"--output={folder}/out", *options) == 0
        return folder / "out"

    def test_all_rows_are_read_in_order(self, output: Path):
        assert [row["id"] for row in read_rows(str(output))] == [f"row {n}" for n in range(10)]

    def test_rows_are_spread_over_the_run(self, output: Path, capsys: pytest.CaptureFixture[str]):
        assert main([str(output), "--rows", "3", "--output_prefix", "qa_"]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in shown if not line.startswith(" ")] == ["row 0", "row 3", "row 6"]

    def test_a_rejected_row_is_shown(self, output: Path, capsys: pytest.CaptureFixture[str]):
        assert main([str(output), "--rows=10", "--output_prefix=qa_"]) == 0
        assert "rejected: question_missing" in capsys.readouterr().out

    @pytest.mark.parametrize("output", ["nothing here", "nowhere://a"])
    def test_an_output_that_is_none_is_named(
        self, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        monkeypatch.chdir(tmp_path)
        assert main([output]) == 2
        assert output.split(":")[0] in capsys.readouterr().err
