"""The slices that rows belong to."""

from __future__ import annotations

import pytest

from model.audit.slices import bounded, question_word


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Who was it?", "who"),
        ("In what year did he, who knew, leave?", "what"),  # the first, not the first of the list
        ("When did the man who knew leave?", "when"),
        ("How many lamps?", "how many"),
        ("how much?", "how much"),
        ("How far, and how many?", "how"),
        ("¿Who?", "who"),
        ("What's this?", "what"),
        ('"Where" is it', "where"),
        ("WHICH one", "which"),
        ("For what?", "what"),
        ("Somewhat whoever", "other"),
        ("灯台はどこ?", "other"),
        ("", "other"),
    ],
)
def test_the_first_question_word(question: str, word: str):
    assert question_word(question) == word


def test_ranges_sort_as_text_and_include_their_lower_bound():
    values = [0, 4, 5, 9, 10, 39, 40, 10**6]
    found = [bounded(value, (5, 10, 40)) for value in values]
    assert found == [
        "00000-00004",
        "00000-00004",
        "00005-00009",
        "00005-00009",
        "00010-00039",
        "00010-00039",
        "00040+",
        "00040+",
    ]
    assert sorted(found) == found
