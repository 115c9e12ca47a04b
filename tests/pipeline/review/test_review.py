"""What marks say about a run: counts by stratum, in words and as JSON."""

from __future__ import annotations

import pytest

from pipeline.review.answers import Identity
from pipeline.review.estimate import Marks
from pipeline.review.files import ReviewSet
from pipeline.review.review import Review
from pipeline.review.strata import Stratum

STRATA = (Stratum(0.0, 0.6, 6, 0.4, 3), Stratum(0.6, 1.0, 30, 0.9, 3))

DRAWN = ReviewSet(
    Identity("run", "content"), 0, STRATA, (1, 0, 1, 0, 1, 0), tuple((0, k, 0) for k in range(6))
)
"""Six answers of two strata in turn, the second stratum first."""

MARKS = {1: "yes", 2: "no", 3: "yes", 4: "unsure", 6: "yes"}


def test_marks_are_counted_by_stratum():
    review = Review.of(DRAWN, MARKS)
    assert review.marks == (Marks(6, 1, 1), Marks(30, 2, 0))
    assert (review.unsure, review.missing) == ((1, 0), 1)
    assert (review.answers, review.reviewed) == (36, 4)


def test_answers_marked_unsure_bound_the_precision():
    """By hand: the first stratum, a sixth of the answers, has 1 right of 3, or 2 of 3."""
    low, high = Review.of(DRAWN, MARKS).precisions_of_unsure
    assert (low, high) == pytest.approx((1 / 3 / 6 + 5 / 6, 2 / 3 / 6 + 5 / 6))


def test_json_and_words_have_the_same_figures():
    review = Review.of(DRAWN, MARKS)
    values, words = review.as_json(), review.in_words()
    assert values["precision"] == pytest.approx(0.5 / 6 + 5 / 6)
    assert f"precision {values['precision']:.3f}, 95% interval {values['low']:.3f} to " in words
    assert "4 of 6 drawn answers are marked yes or no, 1 unsure, 1 missing" in words
    assert "0.60 to 1.00        30       2      2   1.00    0.90" in words
    assert [(each["right"], each["wrong"]) for each in values["strata"]] == [(1, 1), (2, 0)]


def test_a_stratum_without_marks_is_refused_by_number():
    message = r"stratum 2 \(probability 0\.60 to 1\.00, 30 answers\) is marked yes or no"
    with pytest.raises(ValueError, match=message):
        Review.of(DRAWN, {2: "no", 1: "unsure"})
