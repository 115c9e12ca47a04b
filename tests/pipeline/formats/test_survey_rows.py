"""The first pass over a file: types of its columns, and the first thing that is wrong with it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.formats.imported_rows import FormatError, ImportedRow, unreadable_row
from pipeline.formats.survey_rows import ANSWERS_TYPE, Survey, array_of, batches


def row(question: Any = "Who?", context: Any = "Ada.", **others: Any) -> ImportedRow:
    return ImportedRow(None, question, context, None, others)


def test_batches_are_bounded_in_rows_and_characters(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.formats.survey_rows.ROWS_AT_ONCE", 2)
    monkeypatch.setattr("pipeline.formats.survey_rows.CHARACTERS_AT_ONCE", 10)
    rows = [row(), row(), row(context="a" * 11), row(context=None), row()]
    assert [len(batch) for batch in batches(iter(rows))] == [2, 1, 2]


def test_the_type_of_a_column_holds_the_values_of_all_batches():
    survey = Survey()
    survey.add([row(page=1, tag="a")])
    survey.add([row(page=2.5, tag=3, note=None), row(empty={})])
    assert survey.kinds == {"page": pa.float64(), "tag": None, "note": pa.null(), "empty": None}
    text = pa.string()
    contract = [("question", text), ("context", text), ("answers", ANSWERS_TYPE)]
    others = [("page", pa.float64()), ("tag", text), ("note", text), ("empty", text)]
    assert survey.schema() == pa.schema([*contract, *others])


def test_rows_that_parquet_can_t_hold_are_not_counted():
    survey = Survey()
    survey.add([unreadable_row("not_json", "line 1", "{"), row()])
    survey.add([row("\ud800")])
    assert (survey.rows, survey.first) == (1, "line 1: not_json, but str: {")
    survey.check()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "it has no row that Parquet can hold$"),
        ([unreadable_row("not_json", "line 1", "{")], "can hold; line 1: not_json, but str: {"),
        ([row(None, ask="Who?")], "no row has text as its question .the other columns are 'ask'"),
        ([row(context=None)], "no row has text as its context .the other columns are none"),
    ],
)
def test_files_without_rows_or_texts_are_refused(rows: list[ImportedRow], message: str):
    survey = Survey()
    survey.add(rows)
    with pytest.raises(FormatError, match=message):
        survey.check()


def test_another_column_of_the_name_of_one_of_the_contract_is_refused():
    with pytest.raises(FormatError, match=r"'context' clashes .* --drop_columns=context"):
        Survey().add([ImportedRow(None, "Who?", "Ada.", None, {"context": 3})])


def test_values_of_parquet_keep_their_type():
    held = pa.array([7], pa.int8())
    assert array_of([None, held]).equals(pa.array([None, 7], pa.int8()))
    assert array_of([1, None]).equals(pa.array([1, None]))
