"""Risk and coverage equal slow computations on the raw answers, however parts are merged."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from model.audit.distributions import Calibration
from model.audit.risk_coverage import (
    MOST_POINTS,
    PRECISIONS,
    risk_coverage,
    risk_coverage_curve,
)


def calibration(probability: np.ndarray, right: np.ndarray) -> Calibration:
    made = Calibration()
    made.add(probability, right.astype(np.float64))
    return made


def drawn(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities in the middle of distinct fine bins, in no order, and what is right."""
    generator = np.random.default_rng(seed)
    probability = (generator.choice(1000, count, replace=False) + 0.5) / 1000
    return probability, generator.random(count) < probability


@pytest.mark.parametrize("seed", range(5))
def test_of_distinct_probabilities(seed: int):
    count, questions = 300, 340
    probability, right = drawn(seed, count)
    found = risk_coverage(calibration(probability, right).bins, questions)
    order = sorted(range(count), key=lambda answer: -probability[answer])
    risks = [1 - np.mean(right[order[: k + 1]]) for k in range(count)]
    assert found["answers"] == count
    assert found["aurc"] == pytest.approx(np.mean(risks))
    for wanted in PRECISIONS:
        at = found["coverage_at_precision"][f"{wanted:g}"]
        enough = [k + 1 for k in range(count) if 1 - risks[k] >= wanted - 1e-12]
        if not enough:
            assert at is None
            continue
        assert (at["answers"], at["coverage"]) == (enough[-1], enough[-1] / questions)
        shown = probability >= at["min_probability"]
        assert shown.sum() == at["answers"]
        assert at["precision"] == pytest.approx(right[shown].mean())
        assert at["precision"] >= wanted
        assert at["interval"][0] < at["precision"] <= at["interval"][1] + 1e-12


def test_the_area_is_the_mean_over_all_orders_of_equal_probabilities():
    groups = [(0.9, [1, 0, 1]), (0.5, [0]), (0.2, [1, 0, 0])]
    probability = np.array([p for p, rights in groups for _ in rights])
    right = np.array([each for _, rights in groups for each in rights])
    areas = []
    for first in permutations(groups[0][1]):
        for last in permutations(groups[2][1]):
            wrong = 1 - np.array([*first, *groups[1][1], *last])
            areas.append(np.mean(np.cumsum(wrong) / np.arange(1, 8)))
    found = risk_coverage(calibration(probability, right).bins, 7)
    assert found["aurc"] == pytest.approx(np.mean(areas))


@pytest.mark.parametrize("seed", range(5))
def test_parts_in_any_order_have_exactly_the_figures_of_the_whole(seed: int):
    generator = np.random.default_rng(seed)
    probability = generator.random(2000)
    right = generator.random(2000) < probability
    whole = calibration(probability, right)
    parts = np.array_split(generator.permutation(2000), 7)
    merged = Calibration()
    for part in parts:
        merged.merge(calibration(probability[part], right[part]))
    assert risk_coverage(merged.bins, 2000) == risk_coverage(whole.bins, 2000)
    assert risk_coverage_curve(merged.bins, 2000) == risk_coverage_curve(whole.bins, 2000)


def test_the_curve_has_few_points_and_all_of_them_are_on_it():
    generator = np.random.default_rng(1)
    probability = generator.random(5000)
    right = generator.random(5000) < probability
    points = risk_coverage_curve(calibration(probability, right).bins, 6000)
    assert MOST_POINTS / 2 < len(points) <= MOST_POINTS + 1
    for threshold, coverage, risk in points:
        shown = probability >= threshold
        assert coverage == pytest.approx(shown.sum() / 6000)
        assert risk == pytest.approx(1 - right[shown].mean())
    assert [point[1] for point in points] == sorted(point[1] for point in points)
    assert points[-1][1] == pytest.approx(5000 / 6000)


def test_all_right_all_wrong_and_none():
    sure = np.array([0.25, 0.75])
    perfect = risk_coverage(calibration(sure, np.ones(2, bool)).bins, 2)
    assert perfect["aurc"] == 0
    assert [at["coverage"] for at in perfect["coverage_at_precision"].values()] == [1, 1, 1]
    wrong = risk_coverage(calibration(sure, np.zeros(2, bool)).bins, 2)
    assert wrong["aurc"] == 1
    assert list(wrong["coverage_at_precision"].values()) == [None] * 3
    assert risk_coverage({}, 9) == {"answers": 0}
    assert risk_coverage_curve({}, 9) == []


def test_nine_of_ten_are_a_precision_of_nine_tenths():
    made = calibration(np.full(10, 0.5), np.arange(10) > 0)
    assert risk_coverage(made.bins, 10)["coverage_at_precision"]["0.9"]["answers"] == 10
