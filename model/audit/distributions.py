"""Distributions that merge: of losses, and of probabilities against what came true.

Quantiles come from a DDSketch (Masson, Rim & Lee 2019, arXiv:1908.10693): logarithmic bins, so that a quantile is off by at
most `RELATIVE_ACCURACY` of its value.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from ddsketch.mapping import LogarithmicMapping

RELATIVE_ACCURACY = 0.01
QUANTILES = (0.5, 0.9, 0.95, 0.99)
FINE_BINS = 1000
"""Probabilities are counted in this many equal bins, of which the 15 equal-mass bins of the calibration are made."""

MASS_BINS = 15
RESAMPLES = 200
"""Of the right answers of each bin, for the interval of the calibration error."""

LOSS_BINS = 24
"""Bins of a loss in plots: bin k holds [(k / 4)^2, ((k + 1) / 4)^2) nats, the last one everything above."""

Z_95 = 1.96
"""Standard errors on either side of an estimate that make a normal interval of 95 %."""

_SMALLEST = 1e-9
"""Losses below it count as zero: rounding, not information."""

_MAPPING = LogarithmicMapping(RELATIVE_ACCURACY)
"""From a positive value to its bin and back, as a DDSketch of this accuracy does it."""


@dataclass(slots=True)
class Distribution:
    """Count, sum, sum of squares, extremes and sketch of one loss."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    zeros: int = 0
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, values: np.ndarray) -> None:
        if not len(values):
            return
        self.count += len(values)
        self.total += float(values.sum())
        self.squares += float((values * values).sum())
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        positive = values[values > _SMALLEST]
        self.zeros += len(values) - len(positive)
        keys = np.ceil(np.log(positive) / math.log(_MAPPING.gamma)).astype(int)  # _MAPPING.key, on arrays
        for key, count in zip(*(each.tolist() for each in np.unique(keys, return_counts=True)), strict=True):
            self.bins[key] += count

    def merge(self, other: Self) -> None:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.zeros += other.zeros
        self.bins.update(other.bins)

    def quantiles(self, wanted: Sequence[float]) -> list[float]:
        """The value of rank q (count - 1), as a DDSketch finds it: the middle of its bin, within the extremes."""
        keys = sorted(self.bins)
        below = np.cumsum([self.zeros, *(self.bins[key] for key in keys)])
        places = np.searchsorted(below, [q * (self.count - 1) for q in wanted], side="right").tolist()
        values = [_MAPPING.value(keys[place - 1]) if place else 0.0 for place in places]
        return [min(max(value, self.low), self.high) for value in values]

    def histogram(self) -> list[int]:
        """How many values fall into each bin of plots; those in the sketch's bin at a border go by its middle."""
        counts = np.zeros(LOSS_BINS, int)
        counts[0] = self.zeros
        if self.bins:
            middles = np.array([_MAPPING.value(key) for key in self.bins])
            np.add.at(counts, loss_bin(middles), list(self.bins.values()))
        return counts.tolist()

    def summary(self) -> dict[str, Any]:
        """Mean, standard error, exact extremes, quantiles. None for no example."""
        if not self.count:
            return {"count": 0}
        mean = self.total / self.count
        variance = max(0.0, self.squares - self.count * mean * mean) / max(1, self.count - 1)
        return {
            "count": self.count,
            "mean": mean,
            "standard_error": math.sqrt(variance / self.count),
            "min": self.low,
            "max": self.high,
            **{f"p{round(100 * q)}": value for q, value in zip(QUANTILES, self.quantiles(QUANTILES), strict=True)},
        }

    def to_json(self) -> list[Any]:
        return [self.count, self.total, self.squares, self.low, self.high, self.zeros, sorted(self.bins.items())]

    @classmethod
    def from_json(cls, values: list[Any]) -> Self:
        count, total, squares, low, high, zeros, bins = values
        return cls(count, total, squares, low, high, zeros, Counter(dict(bins)))


def loss_bin(values: np.ndarray) -> np.ndarray:
    """The bin of each loss in plots, int [values]; wider bins for larger losses."""
    return np.minimum((np.sqrt(values) * 4).astype(int), LOSS_BINS - 1)


@dataclass(slots=True)
class Calibration:
    """How often an answer of probability p is right (EM > 0): Brier sum and fine bins of [count, sum of p, right ones]."""

    count: int = 0
    brier: float = 0.0
    bins: dict[int, list[float]] = field(default_factory=dict)

    def add(self, probability: np.ndarray, right: np.ndarray) -> None:
        self.count += len(probability)
        self.brier += float(((probability - right) ** 2).sum())
        place = np.minimum((probability * FINE_BINS).astype(int), FINE_BINS - 1)
        keys, at = np.unique(place, return_inverse=True)
        sums = [np.bincount(at), np.bincount(at, probability), np.bincount(at, right).astype(int)]
        for key, *values in zip(keys.tolist(), *(each.tolist() for each in sums), strict=True):
            self._add(key, values)

    def _add(self, key: int, values: list[float]) -> None:
        mine = self.bins.setdefault(key, [0, 0.0, 0])
        for k, value in enumerate(values):
            mine[k] += value

    def merge(self, other: Self) -> None:
        self.count += other.count
        self.brier += other.brier
        for key, values in other.bins.items():
            self._add(key, values)

    def summary(self) -> dict[str, Any]:
        """Brier score, expected calibration error (Guo et al. 2017, arXiv:1706.04599) and reliability, equal-mass bins.

        The error's normal interval of 95 % comes from drawing each bin's right answers anew (a parametric bootstrap).
        """
        if not self.count:
            return {"count": 0}
        reliability: list[list[float]] = []
        seen = 0.0
        for key in sorted(self.bins):
            # A fine bin belongs to the mass bin in which its middle example stands.
            n, p, right = self.bins[key]
            place = int(MASS_BINS * (seen + n / 2) / self.count)
            seen += n
            if not reliability or reliability[-1][3] != place:
                reliability.append([0, 0.0, 0, place])
            for k, value in enumerate((n, p, right)):
                reliability[-1][k] += value
        counts, sure, right_ones = np.array(reliability)[:, :3].T
        error = float(np.abs(sure - right_ones).sum() / self.count)
        drawn = np.random.default_rng(0).binomial(counts.astype(int), right_ones / counts, (RESAMPLES, len(counts)))
        half = Z_95 * float(np.abs(sure - drawn).sum(1).std() / self.count)
        return {
            "count": self.count,
            "expected_calibration_error": error,
            "expected_calibration_error_interval": [max(0.0, error - half), min(1.0, error + half)],
            "brier": self.brier / self.count,
            "reliability": [
                {"count": int(n), "mean_probability": p / n, "accuracy": right / n} for n, p, right, _ in reliability
            ],
        }

    def to_json(self) -> list[Any]:
        return [self.count, self.brier, sorted(self.bins.items())]

    @classmethod
    def from_json(cls, values: list[Any]) -> Self:
        return cls(values[0], values[1], {key: list(bin_values) for key, bin_values in values[2]})
