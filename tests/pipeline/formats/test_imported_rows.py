"""Rows between a file and Parquet: values of any type become text or a problem."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from model.reading.texts import NotUTF8
from pipeline.formats.imported_rows import (
    ImportedGolds,
    make_row,
    plain,
    row_problem,
    text_of,
    unreadable_row,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        ("a", "a"),
        (340, "340"),
        (Decimal("3.50"), "3.50"),
        (0.5, "0.5"),
        (True, None),
        (NAN, None),
        (["a"], None),
    ],
)
def test_texts_and_numbers(value: Any, text: str | None):
    assert text_of(value) == text


def test_what_is_no_text_is_null_and_a_problem():
    row = make_row(
        7,
        2024,
        {"a": 1},
        ImportedGolds([("a", 0)], [("gold_not_text", None)]),
        {"page": 1},
        "line 3",
    )
    assert (row.id, row.question, row.context, row.golds, row.others) == (
        "7",
        "2024",
        None,
        [("a", 0)],
        {"page": 1},
    )
    assert row.problems == [
        ("gold_not_text", None),
        ("number_as_text", 2024),
        ("context_not_text", {"a": 1}),
    ]
    assert make_row(NAN, None, NAN, ImportedGolds(None), {}, "").problems == []
    assert make_row(NAN, None, NAN, ImportedGolds(None), {}, "").id is None


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (make_row("a", "b", "c", ImportedGolds([("d", 0)]), {"page": ["e"]}, ""), ""),
        (make_row("\ud83c", "b", "c", ImportedGolds(None), {}, ""), "id_not_utf8"),
        (make_row("a", NotUTF8(), "c", ImportedGolds(None), {}, ""), "question_not_utf8"),
        (make_row("a", "b", "\udce9", ImportedGolds(None), {}, ""), "context_not_utf8"),
        (make_row("a", "b", "c", ImportedGolds([("\ud83c", 0)]), {}, ""), "answers_not_utf8"),
        (
            make_row(
                "a",
                "b",
                "c",
                ImportedGolds(None, [], {"text": ["\ud83c"], "answer_start": []}),
                {},
                "",
            ),
            "answers_not_utf8",
        ),
        (
            make_row("a", "b", "c", ImportedGolds(None), {"page": [{"\ud83c": 1}]}, ""),
            "page_not_utf8",
        ),
        (make_row("a", "b", "c", ImportedGolds(None), {"\ud83c": 1}, ""), "column_name_not_utf8"),
        (unreadable_row("not_json", "line 1", "{"), "not_json"),
    ],
)
def test_rows_that_parquet_can_t_hold(row: Any, problem: str):
    assert row_problem(row) == problem


def test_decimals_become_floats_wherever_they_are():
    assert plain({"a": [Decimal("1.50"), 2, "b", None]}) == {"a": [1.5, 2, "b", None]}
