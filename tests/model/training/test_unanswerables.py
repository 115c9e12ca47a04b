"""Unanswerable rows follow the rules of their kind, and contain no answer."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from model.training.unanswerables import (
    Source,
    changed_question,
    other_passage,
    passage_cut,
    unanswerables,
)

ROW = {
    "question": "In which year was the Harbour of Old Selvik opened before the flood of 1911?",
    "context": "The Harbour of Old Selvik was opened in 1904. The flood of 1911 broke its wall.",
    "answers": {"text": ["1904"], "answer_start": [40]},
}
SOURCE = Source(
    question=str(ROW["question"]),
    context=str(ROW["context"]),
    golds=["1904"],
    nearby=[
        "The mill in North Tarnby burnt in 1904.",
        "A harbour was planned, and the year of the flood of 1922 Anna Brekke left.",
        "Bread.",
    ],
    asked=["Which wall broke during the spring?"],
)


def test_another_passage_lacks_the_gold_and_looks_like_the_question() -> None:
    made = other_passage(SOURCE, random.Random(0))
    assert made == {
        "question": SOURCE.question,
        "context": SOURCE.nearby[1],
        "answers": {"text": [], "answer_start": []},
    }
    assert other_passage(replace(SOURCE, nearby=SOURCE.nearby[:1]), random.Random(0)) is None


def test_a_cut_passage_has_lost_all_sentences_with_a_gold() -> None:
    longer = replace(
        SOURCE,
        context=f"{SOURCE.context} Anna Brekke mended it. It was small in 1904! Now it is large.",
    )
    made = passage_cut(longer, random.Random(0))
    assert made == {
        "question": SOURCE.question,
        "context": "The flood of 1911 broke its wall. Anna Brekke mended it. Now it is large.",
        "answers": {"text": [], "answer_start": []},
    }
    assert passage_cut(SOURCE, random.Random(0)) is None, "less than half of it would be left"
    across = replace(longer, golds=["1904. The"])
    assert passage_cut(across, random.Random(0)) is None, "no sentence holds the gold whole"


def test_a_changed_question_asks_for_something_else_in_one_place() -> None:
    rows = filter(None, (changed_question(SOURCE, random.Random(seed)) for seed in range(300)))
    made = {row["question"] for row in rows}
    assert SOURCE.question not in made
    expected = {
        "a name from nearby": "In which year was the Harbour of North Tarnby opened "
        "before the flood of 1911?",
        "a part of one": "In which year was the Harbour of North Selvik opened "
        "before the flood of 1911?",
        "a number": "In which year was the Harbour of Old Selvik opened before the flood of 1922?",
        "a word": "In which year was the Harbour of Old Selvik planned before the flood of 1911?",
        "the end of another question": "In which year was the Harbour during the spring?",
        "an antonym": "In which year was the Harbour of Old Selvik opened after the flood of 1911?",
        "a negation": "In which year was not the Harbour of Old Selvik opened "
        "before the flood of 1911?",
    }
    found = {
        kind: any(question == wanted for question in made) for kind, wanted in expected.items()
    }
    assert all(found.values()), (found, made)


def test_a_gold_is_never_put_into_the_question() -> None:
    for seed in range(300):
        made = changed_question(SOURCE, random.Random(seed))
        assert made is not None
        assert made["context"] == SOURCE.context
        assert "1904" not in made["question"]


def test_a_question_that_was_asked_of_the_passage_is_never_made() -> None:
    asked = [SOURCE.question.replace("before", "after"), SOURCE.question.replace("was", "was not")]
    bare = replace(SOURCE, nearby=[], asked=asked, context="It was opened.")
    made = [changed_question(bare, random.Random(seed)) for seed in range(100)]
    assert any(made)
    assert not {each["question"] for each in made if each} & set(asked)


def test_a_question_without_anything_to_change_gives_none() -> None:
    assert changed_question(replace(SOURCE, question="why not"), random.Random(0)) is None


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_as_many_are_made_as_the_share_asks_for(share: float) -> None:
    rows = [{**ROW, "context": f"{ROW['context']} Note {k}."} for k in range(50)]
    made = unanswerables(rows, share, seed=4)
    assert len(made) == int(share * 50)
    assert all(
        rows[each["made_from"]]["context"] == each["context"] or each["question"] == ROW["question"]
        for each in made
    )


def test_rows_without_golds_are_never_a_source() -> None:
    assert (
        unanswerables([{**ROW, "answers": {"text": [], "answer_start": []}}] * 5, 1.0, seed=0) == []
    )
