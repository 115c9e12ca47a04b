"""Shapes of answers: the golds of each, and its problems."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.imported_rows import Gold, ImportedGolds
from pipeline.formats.read_answers import read_answers

NAN = float("nan")


@pytest.mark.parametrize(
    ("answers", "start", "golds"),
    [
        (None, None, None),
        (NAN, None, None),
        ("", "", []),
        ([], None, []),
        ("Ada", "3", [("Ada", 3)]),
        ("Ada", 3.0, [("Ada", 3)]),
        ("Ada", "3.0", [("Ada", 3)]),  # a column of starts with gaps, as pandas writes it
        ("Ada", NAN, [("Ada", None)]),
        ("Ada", "nan", [("Ada", None)]),
        ("[sic]", None, [("[sic]", None)]),
        ("a [", None, [("a [", None)]),
        ('["Ada", "Ben"]', None, [("Ada", None), ("Ben", None)]),
        ('["Ada", "Ben"]', "[0, 18]", [("Ada", 0), ("Ben", 18)]),
        (["Ada", "Ben"], [0, 18], [("Ada", 0), ("Ben", 18)]),
        ({"text": ["Ada"], "answer_start": [3]}, None, [("Ada", 3)]),
        ("Ada", 1e12, [("Ada", 10**12)]),
        ({"text": "Ada", "answer_start": 3}, None, [("Ada", 3)]),
        ({"text": "Ada", "answer_start": [3]}, None, [("Ada", 3)]),
        ({"text": ["Ada"], "answer_start": 3}, None, [("Ada", 3)]),
        ({"text": ["Ada"]}, None, [("Ada", None)]),
        ({"text": [], "answer_start": []}, None, []),
        ([{"text": "Ada", "answer_start": 3}, {"text": "Ben"}], None, [("Ada", 3), ("Ben", None)]),
        ([{"text": ["Ada"], "answer_start": [3]}], None, [("Ada", 3)]),
    ],
)
def test_shapes_of_answers(answers: Any, start: Any, golds: Any):
    assert read_answers(answers, start) == ImportedGolds(golds, [])


@pytest.mark.parametrize(
    ("answers", "golds"),
    [
        ("{'text': ['noon'], 'answer_start': [28]}", [("noon", 28)]),
        (
            "{'text': array(['noon'], dtype=object), 'answer_start': array([28], dtype=int32)}",
            [("noon", 28)],
        ),
        ("{'text': np.array([\"it's\"]), 'answer_start': [np.int64(28)]}", [("it's", 28)]),
        ("{'text': array([], dtype=object), 'answer_start': array([], dtype=int32)}", []),
        ("[{'text': 'noon', 'answer_start': 28}]", [("noon", 28)]),
        ("['noon', 'Holm']", [("noon", None), ("Holm", None)]),
        ("array(['noon'], dtype='<U4')", [("noon", None)]),
        (str({"text": ["a\nb \\d"], "answer_start": [None]}), [("a\nb \\d", None)]),
        (
            repr({"text": np.array(["noon", "Holm"]), "answer_start": np.array([1, 2])}),
            [("noon", 1), ("Holm", 2)],
        ),
    ],
)
def test_literals_of_python_and_numpy_are_read(answers: str, golds: list[Gold]):
    assert read_answers(answers) == ImportedGolds(golds, [])


@pytest.mark.parametrize(
    "answers",
    [
        "['noon' 'at Holm']",  # an array as numpy prints it: Python would join the two
        "{'text': ['noon'], 'answer_start': [28 30]}",
        "{'text': __import__('os').getcwd()}",
        "['noon",
        '{"text": ["noon"',
        "[" * 10_000,
        {"answer": "Ada"},
        {},
        True,
    ],
)
def test_what_can_not_be_read_is_no_answer(answers: Any):
    assert read_answers(answers) == ImportedGolds(None, [("answers_unreadable", answers)])


def test_numbers_are_the_text_they_are_written_as():
    (read, problems) = (
        (answers := read_answers([340, Decimal("3.50"), {"text": 7, "answer_start": 2}])).golds,
        answers.problems,
    )
    assert read == [("340", None), ("3.50", None), ("7", 2)]
    assert [reason for reason, _ in problems] == ["number_as_text"] * 3
    assert read_answers(340, 50).golds == [("340", 50)]


@pytest.mark.parametrize("text", [None, NAN, True, [["a"]], {"a": 1}])
def test_a_gold_that_is_no_text_leaves_its_neighbours(text: Any):
    bad = {"text": text, "answer_start": 0}
    alone = read_answers([bad])
    assert (alone.golds, [reason for reason, _ in alone.problems]) == (None, ["gold_not_text"])
    assert read_answers([bad, {"text": "Ada", "answer_start": 0}]).golds == [("Ada", 0)]


@pytest.mark.parametrize(
    "start",
    ["first", 2.5, True, [3, 4], {}, Decimal("1e30"), float("inf"), "1e999999999", "1e-999999999"],
)
def test_a_start_that_is_no_whole_number_leaves_its_neighbours(start: Any):
    answers = read_answers(
        [{"text": "Ada", "answer_start": start}, {"text": "Ben", "answer_start": 18}]
    )
    assert answers.golds == [("Ben", 18)]
    assert answers.problems == [("start_not_whole", start)]


def test_texts_and_starts_of_unequal_number_are_kept_as_they_are():
    """An audit rejects the row as answers_unequal, because nobody can pair starts with texts."""
    answers = read_answers({"text": ["Holm", 340, None], "answer_start": [13, 10**12]})
    assert answers.golds is None
    assert answers.unequal == {"text": ["Holm", "340", None], "answer_start": [13, None]}
    assert [reason for reason, _ in answers.problems] == ["answers_unequal"]
    assert read_answers(["Ada", "Ben"], [3]).unequal == {
        "text": ["Ada", "Ben"],
        "answer_start": [3],
    }


BLANK = [{"text": "", "answer_start": -1}]


@pytest.mark.parametrize("impossible", [True, "true", "True", "1", 1, 1.0, "yes"])
@pytest.mark.parametrize(
    "answers", [BLANK, BLANK * 2, [], None, "", [{"text": None, "answer_start": None}], [" "]]
)
def test_of_an_unanswerable_question_blank_answers_are_placeholders(answers: Any, impossible: Any):
    assert read_answers(answers, None, impossible) == ImportedGolds([])


@pytest.mark.parametrize("impossible", [False, "false", "False", "0", 0, 0.0, "no"])
def test_of_an_answerable_question_missing_answers_are_missing(impossible: Any):
    assert read_answers(None, None, impossible) == ImportedGolds(None, [])
    for answers in ([], "", {"text": [], "answer_start": []}):
        assert read_answers(answers, None, impossible) == ImportedGolds(
            None, [("answers_missing_though_possible", answers)]
        )
    assert read_answers(["Ada"], None, impossible).golds == [("Ada", None)]


@pytest.mark.parametrize("impossible", ["perhaps", "", " ", 7, []])
def test_a_flag_that_is_neither_true_nor_false_makes_no_question_unanswerable(impossible: Any):
    for answers in ([], "", {"text": [], "answer_start": []}):
        assert read_answers(answers, None, impossible) == ImportedGolds(
            None, [("is_impossible_unreadable", impossible)]
        )
    with_answers = read_answers(["Ada"], None, impossible)
    assert with_answers.golds == [("Ada", None)]
    assert bool(with_answers.problems) == (impossible != "")


def test_contradictions_are_named():
    assert read_answers(["Ada"], None, True) == ImportedGolds(
        [("Ada", None)], [("answers_though_impossible", ["Ada"])]
    )


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["['a' 'b']", "{'text': 3}", "[1, 2"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries({}, optional={"text": inner, "answer_start": inner})
    ),
    max_leaves=8,
)


@given(ODD, ODD, ODD)
def test_any_shape_is_read_or_named(answers: Any, start: Any, impossible: Any):
    """Answers that are present but not read have a reason, and never become an empty list."""
    made = read_answers(answers, start, impossible)
    assert all(
        isinstance(text, str) and (start is None or type(start) is int)
        for text, start in made.golds or []
    )
    if made.golds is None and not made.problems:
        assert answers is None or answers != answers
    if made.golds == [] and impossible is None:
        assert not any(
            each.isalnum() for each in re.sub("text|answer_start|None", "", str(answers))
        )


@given(st.lists(st.tuples(st.text(), st.integers(0, 10**9))))
def test_the_same_golds_in_every_shape(golds: list[Gold]):
    texts, starts = [text for text, _ in golds], [start for _, start in golds]
    pairs = [{"text": text, "answer_start": start} for text, start in golds]
    both = {"text": texts, "answer_start": starts}
    shapes: list[Any] = [
        pairs,
        both,
        json.dumps(pairs),
        json.dumps(both),
        repr(pairs),
        repr(both),
        [both],
    ]
    for shape in shapes:
        assert read_answers(shape) == ImportedGolds(golds, []), shape
    assert read_answers(texts, starts) == ImportedGolds(golds, [])
