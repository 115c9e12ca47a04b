"""Placing golds: units of starts, golds without a start, and the report of misplaced ones."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.imported_rows import Gold, ImportedRow
from pipeline.formats.place_golds import (
    START_UNITS,
    better_unit,
    fitting_units,
    nearest,
    place_gold,
    place_golds,
    to_code_points,
)

CONTEXT = "Ada 🌊 lit the lamp, é. Ada left."


@given(st.text(), st.data())
def test_units_agree_at_every_character(context: str, data: st.DataObject):
    place = data.draw(st.integers(0, len(context)))
    units = {
        "code_points": place,
        "utf16": len(context[:place].encode("utf-16-le")) // 2,
        "utf8": len(context[:place].encode()),
        "from_one": place + 1,
    }
    assert units.keys() | {"crlf_as_one"} == set(START_UNITS)
    assert [to_code_points(context, start, unit) for unit, start in units.items()] == [place] * 4


@given(st.lists(st.sampled_from(["\r\n", "\r", "\n", "a", "é"])), st.data())
def test_line_ends_that_were_one_character(pieces: list[str], data: st.DataObject):
    place = data.draw(st.integers(0, len(pieces)))
    context = "".join(pieces)
    before = "".join(pieces[:place])
    if not before.endswith("\r") or not context[len(before) :].startswith(
        "\n"
    ):  # else inside a line end
        assert to_code_points(context, len(before.replace("\r\n", "\n")), "crlf_as_one") == len(
            before
        )


@pytest.mark.parametrize(
    ("text", "start", "placed"),
    [
        ("lamp", 14, (14, "")),
        ("lamp", 13, (13, "gold_misaligned")),
        ("lamp", 99, (99, "gold_out_of_range")),
        (" ", 3, (3, "gold_blank")),
        ("lamp", None, (14, "gold_located")),
        ("lamp", -1, (14, "gold_located")),  # programs write this for a missing start
        ("Ada", -1, (None, "gold_ambiguous")),
        ("lamp", -2, (-2, "gold_out_of_range")),
        ("", -1, (-1, "gold_blank")),
        ("lamp", 2**31, (None, "gold_out_of_range")),
        ("am", None, (None, "gold_inside_word")),
        ("Ada", None, (None, "gold_ambiguous")),
        ("Ben", None, (None, "gold_absent")),
        ("", None, (None, "gold_absent")),
    ],
)
def test_a_gold_stays_where_it_is_said_to_be(
    text: str, start: int | None, placed: tuple[int | None, str]
):
    assert place_gold(CONTEXT, text, start, "code_points") == placed


def test_starts_of_another_unit():
    assert place_gold(CONTEXT, "lamp", 15, "utf16") == (14, "")
    assert place_gold(CONTEXT, "lamp", 17, "utf8") == (14, "")
    assert fitting_units(CONTEXT, "lamp", 15, "code_points") == ["utf16", "from_one"]
    assert fitting_units(CONTEXT, "lamp", 17, "code_points") == ["utf8"]
    assert fitting_units(CONTEXT, "lamp", 3, "code_points") == []
    assert fitting_units(CONTEXT, "Ada", None, "code_points") == []
    assert fitting_units("a\r\nb\r\nc", "c", 4, "code_points") == ["crlf_as_one"]


def test_the_nearest_place():
    assert nearest("Ada met Ada, and Ada.", "Ada", 7) == 8
    assert nearest("Ada met Ada, and Ada.", "Ada", 99) == 17
    assert nearest("Ada met Ada, and Ada.", "Ada", None) == 0
    assert nearest("Ada met Ben.", "ben", 0) == 8
    assert nearest("Ada met Ben.", "Cleo", 0) is None
    assert nearest("Ada met Ben.", " ", 0) is None


class TestHints:
    """A hint weighs the golds that it would break against those that it would mend."""

    CAFE = "Café Zorn opens at six. The cook fries eels. The waiter sings."

    def best(self, context: str, *golds: Gold) -> str | None:
        counts = Counter[str]()
        place_golds(
            ImportedRow("a", "Who?", context, list(golds)), "code_points", io.StringIO(), counts
        )
        return better_unit(counts)

    def test_one_gold_that_another_unit_mends_while_it_breaks_four(self):
        right = [("six", 19), ("The cook", 24), ("eels", 39), ("The waiter", 45)]
        assert self.best(self.CAFE, *right, (" fries eels", 33)) is None
        assert (
            self.best(self.CAFE, *[(text, start + 1) for text, start in right], ("six", 19))
            == "utf8"
        )

    def test_starts_from_one(self):
        context = "在湖边，老张修了一座木桥。木桥长四十米，每年春天要刷一次油。"
        assert (
            self.best(context, ("老张", 5), ("四十米", 17), ("每年春天", 21), ("湖边", 2))
            == "from_one"
        )
        assert self.best(context, ("老张", 4), ("四十米", 17)) is None

    def test_line_ends_as_one(self):
        context = "Ada lit it.\r\nBen rang.\r\nCleo left."
        assert self.best(context, ("Ben", 12), ("Cleo", 22), ("Ada", 0)) == "crlf_as_one"
        assert self.best(context.replace("\r\n", "\n"), ("Ben", 12), ("Cleo", 22)) is None


def placed(*golds: Gold) -> tuple[object, list[dict[str, object]], Counter[str]]:
    report, counts = io.StringIO(), Counter[str]()
    answers = place_golds(
        ImportedRow("row 1", "Who?", CONTEXT, list(golds), where="line 7"),
        "code_points",
        report,
        counts,
    )
    return answers, [json.loads(line) for line in report.getvalue().splitlines()], counts


def test_the_report_has_a_line_for_every_gold_that_is_not_where_it_should_be():
    answers, lines, counts = placed(("lamp", 14), ("lamp", 15), ("Ada", None), ("left", None))
    assert answers == {"text": ["lamp", "lamp", "left"], "answer_start": [14, 15, 27]}
    assert lines == [
        {
            "id": "row 1",
            "where": "line 7",
            "reason": "gold_misaligned",
            "gold": "lamp",
            "answer_start": 15,
            "found": "amp,",
            "nearest": 14,
            "differs": None,
            "fits": "utf16",
        },
        {
            "id": "row 1",
            "where": "line 7",
            "reason": "gold_ambiguous",
            "gold": "Ada",
            "answer_start": None,
            "found": None,
            "nearest": 0,
            "differs": None,
            "fits": None,
        },
    ]
    golds = {name: count for name, count in counts.items() if name.startswith("gold_")}
    assert golds == {
        "gold_aligned": 1,
        "gold_misaligned": 1,
        "gold_ambiguous": 1,
        "gold_located": 1,
    }


def test_problems_of_a_row_are_counted_and_listed():
    report, counts = io.StringIO(), Counter[str]()
    unequal = {"text": ["a"], "answer_start": []}
    row = ImportedRow(
        "a",
        "Who?",
        CONTEXT,
        None,
        {},
        "line 3",
        [("answers_unequal", "1 texts, 0 starts")],
        unequal,
    )
    assert place_golds(row, "code_points", report, counts) == unequal
    row = ImportedRow(
        "a",
        "Who?",
        CONTEXT,
        [("Ada", 0)],
        {},
        "line 4",
        [("number_as_text", 7), ("gold_not_text", None)],
    )
    assert place_golds(row, "code_points", report, counts) == {"text": ["Ada"], "answer_start": [0]}
    assert [json.loads(line) for line in report.getvalue().splitlines()] == [
        {"id": "a", "where": "line 3", "reason": "answers_unequal", "found": "1 texts, 0 starts"},
        {"id": "a", "where": "line 4", "reason": "gold_not_text", "found": None},
    ]
    assert (
        counts["problem_answers_unequal"]
        == counts["problem_number_as_text"]
        == counts["problem_gold_not_text"]
        == 1
    )


def test_golds_without_a_place_do_not_become_an_unanswerable_question():
    answers, _, counts = placed(("Ben", None))
    assert answers is None
    assert counts["rows_without_placed_golds"] == 1
    assert placed()[0] == {"text": [], "answer_start": []}


def test_nothing_said_of_answers_is_null():
    assert (
        place_golds(ImportedRow(None, "Who?", CONTEXT, None), "utf8", io.StringIO(), Counter())
        is None
    )
    assert (
        place_golds(ImportedRow(None, "Who?", None, [("a", 0)]), "utf8", io.StringIO(), Counter())
        is None
    )
