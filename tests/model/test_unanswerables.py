"""Made unanswerable rows have no answer by the rules that they were made by."""

from __future__ import annotations

import random

import pytest

from model.unanswerables import changed_question, other_passage, passage_cut, unanswerables

ROW = {
    "question": "In which year was the Harbour of Selvik opened before the flood of 1911?",
    "context": "The Harbour of Selvik was opened in 1904. The flood of 1911 broke its wall.",
    "answers": {"text": ["1904"], "answer_start": [36]},
}
NEARBY = [
    "The mill in Old Tarnby burnt in 1904.",
    "A harbour was planned, and the year of the flood Anna Brekke left.",
    "Bread.",
]


def test_another_passage_lacks_the_gold_and_looks_like_the_question() -> None:
    made = other_passage(ROW, NEARBY, random.Random(0))
    assert made == {"question": ROW["question"], "context": NEARBY[1], "answers": {"text": [], "answer_start": []}}
    assert other_passage(ROW, [NEARBY[0]], random.Random(0)) is None


def test_a_cut_passage_has_lost_all_sentences_with_a_gold() -> None:
    longer = {**ROW, "context": f"{ROW['context']} Anna Brekke mended it. It was small in 1904! Now it is large."}
    made = passage_cut(longer, NEARBY, random.Random(0))
    assert made == {
        "question": ROW["question"],
        "context": "The flood of 1911 broke its wall. Anna Brekke mended it. Now it is large.",
        "answers": {"text": [], "answer_start": []},
    }
    assert passage_cut(ROW, NEARBY, random.Random(0)) is None, "less than half of it would be left"
    across = {**longer, "answers": {"text": ["1904. The"], "answer_start": [36]}}
    assert passage_cut(across, NEARBY, random.Random(0)) is None, "no sentence holds the gold whole"


def test_a_word_is_changed_for_one_of_its_ending_that_the_passage_lacks() -> None:
    row = {**ROW, "question": "What was opened here?"}
    made = changed_question(row, ["A harbour was planned."], random.Random(1))
    assert made is not None
    assert made["question"] == "What was planned here?"


def test_a_changed_question_asks_for_what_the_passage_does_not_hold() -> None:
    kinds = set()
    for seed in range(60):
        made = changed_question(ROW, NEARBY, random.Random(seed))
        assert made is not None
        assert made["context"] == ROW["context"]
        assert made["answers"] == {"text": [], "answer_start": []}
        before, after = ROW["question"].split(), made["question"].split()
        new = [word.strip("?") for word in after if word not in before]
        assert new
        if new not in (["not"], ["after"]):  # the passage may hold these
            assert " ".join(new) not in ROW["context"]
        kinds.add("name" if new[0][0].isupper() else "number" if new[0].isdigit() else new[0])
    assert kinds == {"name", "number", "not", "after", "planned"}


def test_a_question_that_nothing_can_be_changed_in_gives_none() -> None:
    assert changed_question({**ROW, "question": "why not"}, NEARBY, random.Random(0)) is None


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_as_many_are_made_as_the_share_asks_for(share: float) -> None:
    rows = [{**ROW, "context": f"{ROW['context']} Note {k}."} for k in range(50)]
    made = unanswerables(rows, share, seed=4)
    assert len(made) == int(share * 50)
    assert all(rows[each["made_from"]]["context"] == each["context"] or each["question"] == ROW["question"] for each in made)


def test_rows_without_golds_are_never_a_source() -> None:
    assert unanswerables([{**ROW, "answers": {"text": [], "answer_start": []}}] * 5, 1.0, seed=0) == []
