"""Where golds stand: units of their starts, golds without a start, and what the report says of the rest."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.place_golds import OFFSETS, other_unit, place_gold, place_golds, to_code_points
from pipeline.formats.read_formats import Gold, ImportedRow

CONTEXT = "Ada 🌊 lit the lamp, é. Ada left."


@given(st.text(), st.data())
def test_units_agree_at_every_character(context: str, data: st.DataObject):
    place = data.draw(st.integers(0, len(context)))
    units = {
        "code_points": place,
        "utf16": len(context[:place].encode("utf-16-le")) // 2,
        "utf8": len(context[:place].encode()),
    }
    assert units.keys() == set(OFFSETS)
    assert [to_code_points(context, start, unit) for unit, start in units.items()] == [place] * 3


@pytest.mark.parametrize(
    ("text", "start", "placed"),
    [
        ("lamp", 14, (14, "")),
        ("lamp", 13, (13, "gold_misaligned")),
        ("lamp", 99, (99, "gold_out_of_range")),
        (" ", 3, (3, "gold_blank")),
        ("lamp", None, (14, "gold_located")),
        ("Ada", None, (None, "gold_ambiguous")),
        ("Ben", None, (None, "gold_absent")),
        ("", None, (None, "gold_absent")),
    ],
)
def test_a_gold_stays_where_it_is_said_to_be(text: str, start: int | None, placed: tuple[int | None, str]):
    assert place_gold(CONTEXT, text, start, "code_points") == placed


def test_starts_of_another_unit():
    assert place_gold(CONTEXT, "lamp", 15, "utf16") == (14, "")
    assert place_gold(CONTEXT, "lamp", 17, "utf8") == (14, "")
    assert other_unit(CONTEXT, "lamp", 15, "code_points") == "utf16"
    assert other_unit(CONTEXT, "lamp", 17, "code_points") == "utf8"
    assert other_unit(CONTEXT, "lamp", 3, "code_points") is None
    assert other_unit(CONTEXT, "Ada", None, "code_points") is None


def placed(*golds: Gold) -> tuple[object, list[dict[str, object]], Counter[str]]:
    report, counts = io.StringIO(), Counter[str]()
    answers = place_golds(ImportedRow("row 1", "Who?", CONTEXT, list(golds)), "code_points", report, counts)
    return answers, [json.loads(line) for line in report.getvalue().splitlines()], counts


def test_the_report_has_a_line_for_every_gold_that_is_not_where_it_should_be():
    answers, lines, counts = placed(("lamp", 14), ("lamp", 15), ("Ada", None), ("left", None))
    assert answers == {"text": ["lamp", "lamp", "left"], "answer_start": [14, 15, 27]}
    assert lines == [
        {"id": "row 1", "reason": "gold_misaligned", "gold": "lamp", "answer_start": 15, "found": "amp,", "fits": "utf16"},
        {"id": "row 1", "reason": "gold_ambiguous", "gold": "Ada", "answer_start": None, "found": None, "fits": None},
    ]
    assert counts == {
        "gold_aligned": 1,
        "gold_misaligned": 1,
        "gold_ambiguous": 1,
        "gold_located": 1,
        "fits_utf16": 1,
        "fits_None": 0,
    }


def test_golds_without_a_place_do_not_become_an_unanswerable_question():
    answers, _, counts = placed(("Ben", None))
    assert answers is None
    assert counts["rows_without_placed_golds"] == 1
    assert placed()[0] == {"text": [], "answer_start": []}


def test_nothing_said_of_answers_is_null():
    assert place_golds(ImportedRow(None, "Who?", CONTEXT, None), "utf8", io.StringIO(), Counter()) is None
    assert place_golds(ImportedRow(None, "Who?", None, [("a", 0)]), "utf8", io.StringIO(), Counter()) is None
