"""OutcomeRows: each row with the columns of a stage; failed chunks are reported."""

from __future__ import annotations

import pytest

from model.reading.columns import ANSWER_SCHEMA
from model.reading.tokenizer import Tokenizer
from tests.transforms.fakes import FakeReader, answered_chunk, asked, make_chunk
from transforms.outcome_rows import ChunkFailed, outcome_rows
from transforms.records import failed_receipts


def test_rows_have_their_own_columns_and_those_of_the_stage(words: Tokenizer):
    answered = answered_chunk(asked("a b", None, "b a"), FakeReader(words, {"b": (5.0, 5.0)}))
    rows = list(outcome_rows(answered, "annotate", "qa_"))
    assert [row["id"] for row in rows] == ["row 0", "row 1", "row 2"]
    assert [row["qa_answer_text"] for row in rows] == ["b", None, "b"]
    assert [row["qa_answer_start"] for row in rows] == [2, None, 0]
    assert rows[1]["qa_reason"] == "context_missing"
    assert list(rows[0]) == [
        "id",
        "question",
        "context",
        *(f"qa_{name}" for name in ANSWER_SCHEMA.names),
    ]


def test_a_failed_chunk_is_an_error_that_names_its_step(words: Tokenizer):
    (receipt,) = failed_receipts(
        make_chunk(asked("a", "b")).spec, (), "PredictSpans", MemoryError("no room"), {}
    )
    with pytest.raises(ChunkFailed, match="PredictSpans failed on 2 rows: MemoryError: no room"):
        list(outcome_rows(receipt, "annotate"))


def test_a_stage_that_was_not_run_is_named(words: Tokenizer):
    with pytest.raises(
        ValueError, match="stage='audit' was not run: the chunk has outcomes of 'annotate'"
    ):
        list(outcome_rows(answered_chunk(asked("a"), FakeReader(words)), "audit"))


def test_a_column_that_is_there_already_is_named(words: Tokenizer):
    table = asked("a").rename_columns(["status", "question", "context"])
    with pytest.raises(ValueError, match="prefix='': the rows already have a column 'status'"):
        list(outcome_rows(answered_chunk(table, FakeReader(words)), "annotate"))
