"""Merged quantiles and calibration equal slow computations on the raw values."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from ddsketch import DDSketch
from hypothesis import given
from hypothesis import strategies as st

from model.audit.distributions import (
    MASS_BINS,
    QUANTILES,
    RELATIVE_ACCURACY,
    Calibration,
    Distribution,
)
from tests.figures import same_figures


def distribution(values: Sequence[float]) -> Distribution:
    made = Distribution()
    made.add(np.array(values, np.float64))
    return made


class TestDistribution:
    @given(
        st.lists(
            st.floats(0, 1e4) | st.sampled_from([0.0, 1e-12, 1e-8, 5.0]), min_size=1, max_size=60
        )
    )
    def test_quantiles_are_those_of_the_sketch_of_the_raw_values(self, values: list[float]):
        made = distribution(values)
        sketch = DDSketch(RELATIVE_ACCURACY)
        for value in values:
            sketch.add(value if value > 1e-9 else 0.0)
        for q in (0.0, 0.1, 0.25, *QUANTILES, 1.0):
            # Ours is clamped to the exact extremes; the sketch's may exceed them.
            expected = min(max(sketch.get_quantile_value(q), min(values)), max(values))
            assert made.quantiles([q])[0] == pytest.approx(expected, rel=1e-12, abs=1e-12)

    @pytest.mark.parametrize(
        "draw",
        [
            lambda r: r.gamma(1.5, 3, 4001),
            lambda r: r.lognormal(0, 3, 500),
            lambda r: r.exponential(1e-3, 77),
        ],
    )
    def test_quantiles_are_within_the_stated_error(
        self, draw: Callable[[np.random.Generator], np.ndarray]
    ):
        values = draw(np.random.default_rng(3))
        summary = distribution(values).summary()
        for q in QUANTILES:
            exact = np.quantile(values, q, method="lower")  # the sketch's rank: floor(q (n - 1))
            assert summary[f"p{round(100 * q)}"] == pytest.approx(exact, rel=RELATIVE_ACCURACY)

    def test_mean_error_and_extremes_are_exact(self):
        values = np.random.default_rng(1).gamma(2, 2, 1000)
        summary = distribution(values).summary()
        assert summary["count"] == 1000
        assert summary["mean"] == pytest.approx(values.mean(), rel=1e-12)
        assert summary["standard_error"] == pytest.approx(
            values.std(ddof=1) / math.sqrt(1000), rel=1e-9
        )
        assert (summary["min"], summary["max"]) == (values.min(), values.max())

    def test_one_value_and_none(self):
        assert distribution([2.5]).summary() == {
            "count": 1,
            "mean": 2.5,
            "standard_error": 0.0,
            **dict.fromkeys(("min", "max", "p50", "p90", "p95", "p99"), 2.5),
        }
        assert distribution([]).summary() == {"count": 0}

    def test_losses_that_are_mere_rounding_count_as_zero(self):
        """1e-15 on one machine may be 0 on another; quantiles must not depend on that."""
        made = distribution([0.0, 1e-15, 1e-10, 3.0])
        assert made.quantiles([0.5]) == [0.0]
        assert len(made.bins) == 1

    @given(st.lists(st.lists(st.floats(0, 1e3), max_size=9), min_size=1, max_size=6), st.randoms())
    def test_merging_is_adding(self, groups: list[list[float]], order: random.Random):
        whole = distribution([value for group in groups for value in group])
        parts = [distribution(group) for group in groups]
        order.shuffle(parts)
        total = parts[0]
        for part in parts[1:]:
            total.merge(Distribution.from_json(json.loads(json.dumps(part.to_json()))))
        assert (total.count, total.zeros, total.bins) == (whole.count, whole.zeros, whole.bins)
        assert (total.low, total.high) == (whole.low, whole.high)
        assert total.total == pytest.approx(whole.total, rel=1e-9)
        assert total.squares == pytest.approx(whole.squares, rel=1e-9)


class TestCalibration:
    def test_against_a_slow_computation(self):
        """The bins of many values match those of sorting, to within one fine bin."""
        drawn = np.random.default_rng(5)
        p = drawn.random(3000)
        right = (drawn.random(3000) < p**2).astype(np.float64)  # overconfident
        made = Calibration()
        made.add(p, right)
        summary = made.summary()
        assert summary["count"] == 3000
        assert summary["brier"] == pytest.approx(np.mean((p - right) ** 2), rel=1e-12)

        order = np.argsort(p)
        groups = np.array_split(order, MASS_BINS)
        expected = sum(abs(p[group].sum() - right[group].sum()) for group in groups) / 3000
        assert expected > 0.1
        assert summary["expected_calibration_error"] == pytest.approx(expected, abs=0.003)
        assert len(summary["reliability"]) == MASS_BINS
        for found, group in zip(summary["reliability"], groups, strict=True):
            assert found["count"] == pytest.approx(200, abs=10)
            assert found["mean_probability"] == pytest.approx(p[group].mean(), abs=0.005)
            assert found["accuracy"] == pytest.approx(right[group].mean(), abs=0.05)

    def test_the_interval_of_the_error_is_as_wide_as_other_samples_spread(self):
        drawn = np.random.default_rng(6)

        def sample() -> dict:
            p = drawn.random(2000)
            made = Calibration()
            made.add(p, (drawn.random(2000) < p**2).astype(np.float64))
            return made.summary()

        summaries = [sample() for _ in range(150)]
        spread = np.std([summary["expected_calibration_error"] for summary in summaries])
        low, high = summaries[0]["expected_calibration_error_interval"]
        assert low < summaries[0]["expected_calibration_error"] < high
        assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.25)

    def test_the_error_is_that_of_the_bins_that_are_shown(self):
        made = Calibration()
        made.add(np.array([0.1, 0.1, 0.9, 0.9, 0.9]), np.array([0.0, 1.0, 1.0, 1.0, 0.0]))
        summary = made.summary()
        assert [bin["count"] for bin in summary["reliability"]] == [2, 3]
        assert [bin["accuracy"] for bin in summary["reliability"]] == pytest.approx([1 / 2, 2 / 3])
        assert [bin["mean_probability"] for bin in summary["reliability"]] == pytest.approx(
            [0.1, 0.9]
        )
        assert summary["expected_calibration_error"] == pytest.approx(
            (2 * 0.4 + 3 * (0.9 - 2 / 3)) / 5
        )
        assert summary["brier"] == pytest.approx((0.01 + 0.81 + 0.01 + 0.01 + 0.81) / 5)

    def test_perfect_and_certain(self):
        made = Calibration()
        # 1.0 is in the last fine bin, not beyond it.
        made.add(np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0]))
        assert made.summary()["expected_calibration_error"] == 0.0
        assert max(made.bins) == 999
        assert Calibration().summary() == {"count": 0}

    @given(
        st.lists(
            st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=9), min_size=1, max_size=5
        ),
        st.randoms(),
    )
    def test_merging_is_adding(self, groups: list[list[tuple[float, bool]]], order: random.Random):
        def calibration(pairs: list[tuple[float, bool]]) -> Calibration:
            made = Calibration()
            made.add(
                np.array([p for p, _ in pairs], np.float64),
                np.array([right for _, right in pairs], np.float64),
            )
            return made

        whole = calibration([pair for group in groups for pair in group])
        parts = [calibration(group) for group in groups]
        order.shuffle(parts)
        total = Calibration()
        for part in parts:
            total.merge(Calibration.from_json(json.loads(json.dumps(part.to_json()))))
        same_figures(total.summary(), whole.summary())
