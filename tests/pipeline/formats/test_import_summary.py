"""What an import prints of its golds, its problems and the rows that it left out."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from pipeline.formats.import_summary import import_summary
from pipeline.formats.survey_rows import Survey


def summary(survey: Survey, **counts: int) -> list[str]:
    return list(import_summary(Counter(counts), survey, "answers", "a.golds.jsonl"))


def test_a_file_without_answers_gets_a_hint_at_the_column_that_may_hold_them():
    none, wrong = "golds: none", "golds that are not where they should be: 0: a.golds.jsonl"
    missing = "there is no column 'answers'"
    assert summary(Survey()) == [none, missing, wrong]
    for name in ("gold", "answr"):
        hint = f"{missing}, but {name!r}: see --answers_column={name}"
        assert summary(Survey({name: pa.string()})) == [none, hint, wrong]


def test_every_finding_has_its_line():
    survey = Survey({"page": None}, answers=True)
    lines = summary(
        survey,
        gold_aligned=2,
        gold_misaligned=3,
        gold_located=0,
        mends_utf16=3,
        breaks_utf16=1,
        differs_case=1,
        problem_number_as_text=4,
        problem_gold_not_text=1,
        rows_without_placed_golds=1,
        left_out_question_not_utf8=1,
    )
    assert lines[:-2] == [
        "golds: 2 aligned, 3 misaligned",
        "3 of them are right if starts count utf16: see --offsets=utf16",
        "1 of them differs only in case",
        "4 numbers read as text",
        "1 rows have golds, but none that can be placed: their answers are null",
        "problems: 1 gold_not_text: a.golds.jsonl",
        "columns with values of several types, written as text: page",
        "1 rows left out, which Parquet can't hold: 1 question_not_utf8: a.golds.jsonl",
    ]
    assert lines[-2].startswith("text that is not UTF-8: if the file is in another encoding")
    wrong, others = "golds that are not where they should be: 3", "2 other problems"
    assert lines[-1] == f"{wrong}, {others}: a.golds.jsonl"
