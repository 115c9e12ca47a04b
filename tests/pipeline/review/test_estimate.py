"""The estimate: unbiased, exact where all is known, and an interval that holds its coverage."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.review.estimate import Marks, estimate
from pipeline.review.strata import Draw


def test_one_large_stratum_has_wilsons_interval():
    """Expected: Wilson's interval of 30 of 40, here without any gain or loss of stratification."""
    found = estimate([Marks(10**9, 30, 10)])
    assert found.precision == 0.75
    # Wilson (1927): the roots of (p - 0.75)^2 = z^2 p (1 - p) / 40.
    z = 1.959963984540054
    roots = np.roots([1 + z**2 / 40, -(1.5 + z**2 / 40), 0.75**2])
    assert [found.low, found.high] == pytest.approx(sorted(roots), abs=0.005)


def test_strata_have_the_weight_of_their_answers():
    found = estimate([Marks(900, 10, 10), Marks(100, 20, 0)])
    assert found.precision == pytest.approx(0.9 * 0.5 + 0.1 * 1.0)
    assert found.low < found.precision < found.high


def test_a_review_of_all_answers_is_exact():
    found = estimate([Marks(3, 2, 1), Marks(1, 1, 0)])
    assert (found.precision, found.low, found.high) == (0.75, 0.75, 0.75)


def test_what_is_known_bounds_the_interval():
    random = np.random.default_rng(0)
    at_the_bounds = 0
    for _ in range(300):
        right, wrong, unseen = random.integers(0, 9, (3, 3))
        right[right + wrong == 0] = 1
        strata = [
            Marks(int(each.sum()), int(each[0]), int(each[1]))
            for each in np.stack([right, wrong, unseen], axis=1)
        ]
        found = estimate(strata)
        answers = sum(each.answers for each in strata)
        least, most = right.sum() / answers, 1 - wrong.sum() / answers
        assert least <= found.low <= found.precision <= found.high <= most + 1e-12
        at_the_bounds += found.low == least or found.high == most
    assert at_the_bounds > 20


@pytest.mark.parametrize(("right", "wrong"), [(20, 0), (0, 20)])
def test_an_interval_is_not_a_point_because_all_marks_agree(right: int, wrong: int):
    """Rule of three: with no error among 40, up to 3 / 40 are wrong at 95 %."""
    found = estimate([Marks(10_000, right, wrong), Marks(10_000, right, wrong)])
    assert found.precision == (1.0 if right else 0.0)
    assert 0.07 < found.high - found.low < 0.1
    assert (found.high == 1.0) if right else (found.low == 0.0)


def test_more_reviewed_answers_give_a_narrower_interval():
    widths = []
    for times in (1, 2, 5, 20):
        found = estimate([Marks(5000, 4 * times, times), Marks(5000, 3 * times, 2 * times)])
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)


def population(
    answers: int, precision: float, calibrated: bool, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of answers and whether they are right.

    Probabilities that are not calibrated are far too sure.
    """
    chance = random.beta(2 * precision, 2 * (1 - precision), answers)
    right = random.random(answers) < chance
    return (chance if calibrated else np.sqrt(chance)), right


@pytest.mark.parametrize("calibrated", [True, False], ids=["calibrated", "too sure"])
@pytest.mark.parametrize("precision", [0.05, 0.5, 0.8, 0.97])
@pytest.mark.parametrize(("answers", "rows"), [(1500, 200), (20_000, 60)])
def test_the_interval_holds_the_truth_in_at_least_93_percent_of_draws(
    answers: int, rows: int, precision: float, calibrated: bool
):
    """400 seeded draws each, so that nothing varies from run to run."""
    random = np.random.default_rng([answers, rows, int(precision * 100), calibrated])
    probabilities, right = population(answers, precision, calibrated, random)
    draw = Draw(rows, 0)
    draw.add(probabilities, np.stack([np.arange(answers)] * 3, axis=1))
    strata, places, stratum = draw.finish()
    # The strata depend on the probabilities alone: only what is drawn within them varies.
    bounds = [each.low for each in strata[1:]]
    own = np.searchsorted(bounds, probabilities, side="right")
    rights = np.bincount(own, right)
    held, estimates = 0, []
    for _ in range(400):
        marks = []
        for each, many in zip(strata, rights.astype(int), strict=True):
            found = random.hypergeometric(many, each.answers - many, each.drawn)
            marks.append(Marks(each.answers, int(found), each.drawn - int(found)))
        result = estimate(marks)
        held += result.low <= right.mean() <= result.high
        estimates.append(result.precision)
    assert held >= 0.93 * 400
    # Unbiased: the mean is within five standard errors of the truth.
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - right.mean()) < 5 * error
    assert np.bincount(stratum).tolist() == [each.drawn for each in strata]
    assert len(places) == rows
