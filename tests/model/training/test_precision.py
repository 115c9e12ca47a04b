"""Thresholds of wanted precisions: against slow computations, and over many drawn data sets."""

from __future__ import annotations

import numpy as np
import pytest

from model.audit.distributions import wilson
from model.settings import SettingError
from model.training.precision import THRESHOLDS, Given, fit_precision, fit_precisions

ROWS, PASSAGE = 2000, 5


def drawn(seed: int, answered: float = 0.9, rows: int = ROWS) -> Given:
    """Return drawn answers of which `chance` are right, alike within passages of 5 rows.

    answered  the share of questions that get an answer
    """
    generator = np.random.default_rng(seed)
    probability = generator.beta(1.5, 1.0, rows)
    # A passage has its own luck, on both sides of what its probabilities say.
    luck = np.repeat(generator.choice([-1, 1], rows // PASSAGE), PASSAGE)
    chance = probability + luck * 0.3 * probability * (1 - probability)
    right = generator.random(rows) < chance
    given = generator.random(rows) < answered
    passage = np.repeat(np.arange(rows // PASSAGE), PASSAGE)
    return Given(probability[given], right[given], passage[given], rows)


TRUTH = drawn(1000, rows=10**6)
"""So many answers that their precision at a threshold is the true one."""


def slowly(given: Given, threshold: float) -> tuple[int, float, tuple[float, float]]:
    """Return answers, precision and interval at a threshold from the definitions."""
    shown = given.probability.astype(np.float32) >= np.float32(threshold)
    right, passage = given.right[shown], given.passage[shown]
    share, count = right.mean(), len(right)
    residuals = [(right[passage == each] - share).sum() for each in np.unique(passage)]
    passages = len(residuals)
    variance = passages / max(1, passages - 1) * np.square(residuals).sum() / count**2
    effective = count if variance == 0 else min(count, share * (1 - share) / variance)
    return count, share, wilson(share, effective)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_reached_equals_a_slow_computation(seed: int):
    given = drawn(seed, rows=120)
    for reached in given.reached(THRESHOLDS[::50]):
        count, share, interval = slowly(given, reached.threshold) if reached.answers else (0, 0, ())
        assert (reached.answers, reached.precision) == (count, pytest.approx(share))
        assert reached.interval == pytest.approx(interval or (0.0, 1.0))
        assert reached.coverage == count / 120


def test_the_lowest_threshold_that_surely_reaches_the_precision_is_chosen():
    given = drawn(7)
    found = fit_precision(given, 0.8)
    passing = [at for at in THRESHOLDS[:-1].tolist() if slowly(given, at)[2][0] >= 0.8]
    assert found.threshold == passing[0]


def test_intervals_cover_the_truth_although_the_threshold_was_chosen():
    """About 95 % of 300 draws do, and in about 97.5 % the truth is the wanted precision or above.

    The limits are 3 standard errors away.
    """
    wanted = 0.8
    draws = [fit_precision(drawn(seed), wanted) for seed in range(300)]
    truths = [
        reached.precision for reached in TRUTH.reached(np.array([d.threshold for d in draws]))
    ]
    covered = [
        draw.interval[0] <= truth <= draw.interval[1]
        for draw, truth in zip(draws, truths, strict=True)
    ]
    assert 0.91 <= np.mean(covered) <= 0.99
    assert np.mean(np.array(truths) >= wanted) >= 0.94


def test_answers_that_are_alike_within_passages_count_for_fewer():
    generator = np.random.default_rng(0)
    alike = np.repeat(generator.random(400) < 0.7, 5)
    passage = np.repeat(np.arange(400), 5)
    one = Given(np.ones(2000), alike, passage, 2000).reached(np.array([0.0]))[0]
    assert one.interval == pytest.approx(wilson(one.precision, 400), abs=1e-3)
    # Each its own passage: as many as there are.
    each = Given(np.ones(2000), alike, np.arange(2000), 2000).reached(np.array([0.0]))[0]
    assert each.interval == pytest.approx(wilson(one.precision, 2000), abs=1e-5)


def test_what_can_not_be_reached_is_refused_with_the_best_that_can():
    given = drawn(3)
    best = max(given.reached(THRESHOLDS), key=lambda reached: reached.interval[0])
    with pytest.raises(SettingError) as refused:
        fit_precisions([0.8, 0.999], given, drawn(4))
    message = str(refused.value)
    assert message.startswith("precision=0.999: these data can't show that it is reached: ")
    assert f"{best.interval[0]:.3f}, at probability {best.threshold:g}" in message
    fit_precision(given, best.interval[0])  # and it can


def test_what_a_checkpoint_stores():
    fitted, held = drawn(5), drawn(6)
    stored = fit_precisions([0.8], fitted, held)["0.8"]
    threshold = stored["min_probability"]
    for figures, given in ((stored, fitted), (stored["held_out"], held)):
        count, share, interval = slowly(given, threshold)
        assert figures["answers"] == count
        assert figures["precision"] == pytest.approx(share, abs=1e-4)
        assert figures["interval"] == pytest.approx(interval, abs=1e-4)
        assert figures["coverage"] == pytest.approx(count / ROWS, abs=1e-4)


def test_without_an_answer_nothing_is_reached():
    nothing = Given(np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64), 9)
    with pytest.raises(ValueError, match=r"the highest precision that they show is 0\.000"):
        fit_precision(nothing, 0.5)
