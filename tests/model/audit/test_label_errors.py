"""The score of suspected label errors, against numbers worked by hand from given logits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from model.reading.tokenizer import Tokenizer
from tests.transforms.fakes import DECODING, FakeReader, asked
from tests.transforms.test_measure_loss import NOTHING, audit, gold, with_answers

WEIGHTS = {"a": (3.0, 0.0), "b": (0.0, 3.0), "d": (-9.0, -9.0)}
"""In `a b c d`, the start network points at a, the end network at b."""


def judged(
    words: Tokenizer, *answers: dict[str, Any], null: bool = False, **weights: tuple[float, float]
) -> list[dict[str, Any]]:
    table = with_answers(asked(*["a b c d"] * len(answers)), *answers)
    return audit(
        table, FakeReader(words, {**WEIGHTS, **weights}), replace(DECODING, null=null)
    ).columns.to_pylist()


def test_the_worse_end_less_half_the_doubt_of_the_answer(words: Tokenizer):
    """The gold is `b`: its end is right, and does not excuse its start."""
    (row,) = judged(words, gold("b", 2))
    start = math.log(math.e**3 + 2 + math.e**-9)
    assert row["nll_start"] == pytest.approx(start, rel=1e-6)
    assert row["nll_end"] < row["nll_start"]
    assert row["prediction"] == "a b"
    assert row["label_error"] == pytest.approx(start + math.log(row["probability"]) / 2, rel=1e-5)
    assert row["label_error_reason"] == "other_borders"


def test_the_models_own_answer_is_no_suspect(words: Tokenizer):
    (row,) = judged(words, gold("a b", 0))
    assert (row["label_error"], row["label_error_reason"]) == (0.0, None)
    assert row["nll"] > 0.1


def test_one_gold_that_the_model_agrees_with_is_enough(words: Tokenizer):
    golds = {"text": ["d", "a b"], "answer_start": [6, 0]}
    (row,) = judged(words, golds)
    assert row["label_error"] == 0.0
    assert row["nll"] > 10


def test_of_several_golds_the_one_that_it_likes_best_counts(words: Tokenizer):
    alone, both = judged(words, gold("b", 2), {"text": ["d", "b"], "answer_start": [6, 2]})
    assert both["label_error"] == alone["label_error"]
    assert both["label_error_reason"] == "golds_disagree"


def test_an_answer_that_shares_no_token_is_elsewhere(words: Tokenizer):
    (row,) = judged(words, gold("d", 6))
    assert row["label_error_reason"] == "elsewhere"
    assert row["label_error"] > 10


def test_no_gold_and_no_answer(words: Tokenizer):
    """With the null option: an answer without a gold, and a gold without an answer."""
    answerable, agreed = judged(words, NOTHING, NOTHING, null=True)
    assert answerable["label_error_reason"] == "answerable"
    assert answerable["label_error"] == pytest.approx(
        max(answerable["nll_start"], answerable["nll_end"])
        + math.log(answerable["probability"]) / 2,
        rel=1e-5,
    )
    assert agreed["label_error"] == answerable["label_error"]
    low = dict.fromkeys("abcd", (-6.0, -6.0))
    missing, right = judged(words, gold("a", 0), NOTHING, null=True, **low)
    assert (missing["prediction"], missing["label_error_reason"]) == ("", "no_answer")
    assert missing["label_error"] == pytest.approx(
        max(missing["nll_start"], missing["nll_end"]) + math.log(missing["null_probability"]) / 2,
        rel=1e-5,
    )
    assert (right["label_error"], right["label_error_reason"]) == (0.0, None)


def test_a_row_without_a_loss_has_no_score(words: Tokenizer):
    rejected, unreachable = judged(words, gold("x", 0), NOTHING)
    assert (rejected["status"], rejected["label_error"], rejected["label_error_reason"]) == (
        "rejected",
        None,
        None,
    )
    assert (unreachable["reason"], unreachable["label_error"]) == ("no_null_option", None)


def test_a_model_that_hardly_believes_its_answer_is_weak_evidence(words: Tokenizer):
    """The same loss of the gold, another certainty of the answer."""
    (sure,) = judged(words, gold("d", 6))
    (unsure,) = judged(words, gold("d", 6), c=(3.0, 3.0))
    assert unsure["probability"] < sure["probability"]
    assert unsure["label_error"] - max(unsure["nll_start"], unsure["nll_end"]) < sure[
        "label_error"
    ] - max(sure["nll_start"], sure["nll_end"])


def test_rows_of_all_kinds_side_by_side_are_as_they_are_alone(words: Tokenizer):
    both, apart = (
        {"text": ["b", "a"], "answer_start": [2, 0]},
        {"text": ["d", "a b"], "answer_start": [6, 0]},
    )
    wrong = gold("a", 3)  # a space is there: rejected
    answers = [
        NOTHING,
        both,
        wrong,
        gold("d", 6),
        NOTHING,
        apart,
        gold("a b", 0),
        both,
        gold("b", 2),
    ]
    together = judged(words, *answers, null=True)
    alone = [judged(words, each, null=True)[0] for each in answers]
    kinds = [(row["status"], row["label_error"], row["label_error_reason"]) for row in together]
    assert kinds == [
        (row["status"], row["label_error"], row["label_error_reason"]) for row in alone
    ]
    assert len({reason for _, _, reason in kinds}) == 5
    assert {status for status, _, _ in kinds} == {"scored", "null_scored", "rejected"}
