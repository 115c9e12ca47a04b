from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.text import SQuAD

from model.audit.metrics import grade, grades, normalise


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Quick, brown fox!", "quick brown fox"),
        ("a an the", ""),
        ("An apple a day", "apple day"),
        ("theatre banana anthem", "theatre banana anthem"),
        ("the-end", "theend"),
        ("U.S.A.", "usa"),
        ("$1,000.50", "100050"),
        ("\tMixed\nwhite \u00a0 space ", "mixed white space"),
        ("„Straße“", "„straße“"),  # the rules know ASCII punctuation only
        ("", ""),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("prediction", "golds", "em", "score"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1, 1.0),
        ("the Denver Broncos.", ["Denver Broncos"], 1, 1.0),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("Denver Denver Broncos", ["Denver Broncos"], 0, 4 / 5),
        ("Denver Denver", ["Denver Denver Denver"], 0, 4 / 5),
        ("Carolina", ["Denver Broncos"], 0, 0.0),
        ("in 1998", ["1998", "the year 1998"], 0, 2 / 3),
        ("1998", ["year 1998", "1998."], 1, 1.0),
        ("the", ["the end"], 0, 0.0),
        ("", ["end"], 0, 0.0),
        ("", ["the"], 1, 1.0),  # both empty once articles are gone
        ("", [], 1, 1.0),  # no gold: right is to give no answer
        ("end", [], 0, 0.0),
        ("", [""], 1, 1.0),
        (
            "",
            ["the", "end"],
            0,
            0.0,
        ),  # of "the" nothing is left, so it does not count if there is another
        ("", ["the", "..."], 1, 1.0),
    ],
)
def test_hand_worked_cases(prediction: str, golds: list[str], em: float, score: float) -> None:
    assert grade(prediction, golds) == pytest.approx((em, score))


@pytest.mark.parametrize(
    ("prediction", "golds", "score", "by_character"),
    [
        ("守塔人小林", ["小林"], 0.0, 4 / 7),
        ("小林", ["老王", "林小"], 0.0, 1.0),
        ("小林。", ["小林"], 0.0, 4 / 5),  # "。" is not Han, but a word when it is alone
        ("ยามเช้า", ["เช้า"], 0.0, 8 / 11),  # vowel signs and tone marks are characters
        ("1871年の春", ["1871年"], 0.0, 4 / 6),  # a number is one word
        ("the 小林 lamp", ["lamp 小林"], 1.0, 1.0),
        ("小林", ["Ada Berg"], 0.0, 0.0),
        ("", ["小林"], 0.0, 0.0),
        ("小林", [], 0.0, 0.0),
        ("early spring", ["spring of 1871"], 0.4, 0.4),
        ("등대지기 김", ["김"], 2 / 3, 2 / 3),  # Korean has blanks
    ],
)
def test_a_character_of_a_script_without_blanks_is_a_word(
    prediction: str, golds: list[str], score: float, by_character: float
) -> None:
    assert grades(prediction, golds) == pytest.approx((0.0, score, by_character))
    assert grade(prediction, golds) == grades(prediction, golds)[:2]


def test_em_and_f1_equal_torchmetrics() -> None:
    """One by one and in the mean.

    Answers that normalise to nothing are left out: SQuAD 1.1 and 2.0 differ on them.
    """
    choose = random.Random(0)
    words = ["the", "a", "lamp", "Lamp", "the lamp", "über", "灯台", "-", "U.S."]

    def answer() -> str:
        return " ".join(choose.choices(words, k=choose.choice([1, 1, 2, 4])))

    cases = [(answer(), [answer() for _ in range(choose.randint(1, 3))]) for _ in range(200)]
    cases = [
        (p, golds) for p, golds in cases if normalise(p) and all(normalise(gold) for gold in golds)
    ]
    assert len(cases) > 60
    everything = SQuAD()
    for number, (prediction, golds) in enumerate(cases):
        predicted = [{"prediction_text": prediction, "id": str(number)}]
        target = [{"answers": {"answer_start": [0] * len(golds), "text": golds}, "id": str(number)}]
        alone = SQuAD()
        alone.update(predicted, target)
        everything.update(predicted, target)
        expected = alone.compute()
        exact, score = grade(prediction, golds)
        assert 100 * exact == pytest.approx(expected["exact_match"].item())
        assert 100 * score == pytest.approx(expected["f1"].item(), abs=1e-4)
    mean = everything.compute()
    assert 10 < mean["exact_match"] < 90
    ours = [grade(*case) for case in cases]
    assert 100 * sum(em for em, _ in ours) / len(cases) == pytest.approx(
        mean["exact_match"].item(), abs=1e-3
    )
    assert 100 * sum(score for _, score in ours) / len(cases) == pytest.approx(
        mean["f1"].item(), abs=1e-3
    )


@given(
    st.text(alphabet="ab the.", max_size=12),
    st.lists(st.text(alphabet="ab the.", max_size=12), max_size=3),
)
def test_f1_lies_between_em_and_one_and_more_golds_never_lower_it(
    prediction: str, golds: list[str]
) -> None:
    exact, score, by_character = grades(prediction, golds)
    assert exact <= score <= 1
    assert by_character == score
    if any(map(normalise, golds)):  # "" is right while no gold counts
        assert grade(prediction, [*golds, "b"])[1] >= score
        assert grade(prediction, golds[:1])[1] == pytest.approx(grade(golds[0], [prediction])[1])
    assert normalise(normalise(prediction)) == normalise(prediction)
