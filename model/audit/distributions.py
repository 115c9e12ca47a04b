"""Mergeable summaries: the distribution of a loss, and the calibration of probabilities.

Quantiles come from a DDSketch (Masson, Rim & Lee 2019, arXiv:1908.10693). Its bins are logarithmic,
so that the error of a quantile is at most `RELATIVE_ACCURACY` times its value.
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
"""Largest error of a quantile, as a share of its value."""

QUANTILES = (0.5, 0.9, 0.95, 0.99)
"""The quantiles in summaries."""

FINE_BINS = 1000
"""Number of equally wide bins of probability; summaries join them to `MASS_BINS` bins."""

MASS_BINS = 15
"""Number of bins of about equally many examples from which the calibration error is computed."""

RESAMPLES = 200
"""Bootstrap samples for the interval of the calibration error."""

LOSS_BINS = 24
"""Bins of a loss in plots: bin k is [(k / 4)^2, ((k + 1) / 4)^2) nats, the last one unbounded."""

Z_95 = 1.96
"""Half the width of a normal 95 % interval, in standard errors."""

_SMALLEST = 1e-9
"""Smaller losses count as zero: they are rounding errors."""

_MAPPING = LogarithmicMapping(RELATIVE_ACCURACY)
"""Maps positive values to the bins of the DDSketch, and bins to values."""


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` independent events (Wilson 1927).

    Its coverage is closer to 95 % than that of the exact interval, which is too wide (Brown, Cai &
    DasGupta 2001).
    """
    z = Z_95
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = (
        z
        / (1 + z * z / count)
        * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    )
    # Rounding leaves -3e-17 for a share of 0.
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(slots=True)
class Distribution:
    """The distribution of one loss.

    count, total, squares  number of losses, their sum and the sum of their squares
    low, high              the extremes; inf and -inf for no loss
    zeros                  how many losses are below `_SMALLEST`
    bins                   bin of the sketch -> number of all others
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    zeros: int = 0
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, values: np.ndarray) -> None:
        """Add losses in nats, float [values], not negative."""
        if not len(values):
            return
        self.count += len(values)
        self.total += float(values.sum())
        self.squares += float((values * values).sum())
        self.low, self.high = (
            min(self.low, float(values.min())),
            max(self.high, float(values.max())),
        )
        positive = values[values > _SMALLEST]
        self.zeros += len(values) - len(positive)
        # This is `_MAPPING.key`, on arrays.
        keys = np.ceil(np.log(positive) / math.log(_MAPPING.gamma)).astype(int)
        for key, count in zip(
            *(each.tolist() for each in np.unique(keys, return_counts=True)), strict=True
        ):
            self.bins[key] += count

    def merge(self, other: Self) -> None:
        """Add the losses of another distribution."""
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.zeros += other.zeros
        self.bins.update(other.bins)

    def quantiles(self, wanted: Sequence[float]) -> list[float]:
        """Return the value of rank q (count - 1) for each q of `wanted`: the middle of its bin.

        The values are clamped to the exact extremes.
        """
        keys = sorted(self.bins)
        counts_up_to = np.cumsum([self.zeros, *(self.bins[key] for key in keys)])
        ranks = [q * (self.count - 1) for q in wanted]
        positions = np.searchsorted(counts_up_to, ranks, side="right").tolist()
        # Position 0 is the bin of zeros, which precedes those of `keys`.
        values = [_MAPPING.value(keys[position - 1]) if position else 0.0 for position in positions]
        return [min(max(value, self.low), self.high) for value in values]

    def histogram(self) -> list[int]:
        """Return the number of losses in each of the `LOSS_BINS` bins of plots.

        A bin of the sketch that crosses a border is counted where its middle is.
        """
        counts = np.zeros(LOSS_BINS, int)
        counts[0] = self.zeros
        if self.bins:
            middles = np.array([_MAPPING.value(key) for key in self.bins])
            np.add.at(counts, loss_bin(middles), list(self.bins.values()))
        return counts.tolist()

    def summary(self) -> dict[str, Any]:
        """Return count, mean, standard error, extremes and quantiles; only the count if it is 0."""
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
            **{
                f"p{round(100 * q)}": value
                for q, value in zip(QUANTILES, self.quantiles(QUANTILES), strict=True)
            },
        }

    def to_json(self) -> list[Any]:
        """Return the fields as values that JSON keeps exactly; inverse of `from_json`."""
        return [
            self.count,
            self.total,
            self.squares,
            self.low,
            self.high,
            self.zeros,
            sorted(self.bins.items()),
        ]

    @classmethod
    def from_json(cls, values: list[Any]) -> Self:
        """Make a distribution from the result of `to_json`."""
        count, total, squares, low, high, zeros, bins = values
        return cls(count, total, squares, low, high, zeros, Counter(dict(bins)))


def loss_bin(values: np.ndarray) -> np.ndarray:
    """Return the bin of each loss in plots, int [values]; bins are wider for larger losses."""
    return np.minimum((np.sqrt(values) * 4).astype(int), LOSS_BINS - 1)


@dataclass(slots=True)
class Calibration:
    """How often answers of probability p are right (EM > 0).

    count  number of answers
    brier  sum of (probability - right)^2
    bins   fine bin of probability -> [count, sum of probabilities, number of right answers]
    """

    count: int = 0
    brier: float = 0.0
    bins: dict[int, list[float]] = field(default_factory=dict)

    def add(self, probability: np.ndarray, right: np.ndarray) -> None:
        """Add answers: probability float [answers] in [0, 1]; right [answers], 1 or 0."""
        self.count += len(probability)
        self.brier += float(((probability - right) ** 2).sum())
        fine_bin = np.minimum((probability * FINE_BINS).astype(int), FINE_BINS - 1)
        keys, member = np.unique(fine_bin, return_inverse=True)
        sums = [
            np.bincount(member),
            np.bincount(member, probability),
            np.bincount(member, right).astype(int),
        ]
        for key, *values in zip(keys.tolist(), *(each.tolist() for each in sums), strict=True):
            self._add(key, values)

    def _add(self, key: int, values: list[float]) -> None:
        """Add [count, sum of probabilities, number of right answers] to a fine bin."""
        mine = self.bins.setdefault(key, [0, 0.0, 0])
        for k, value in enumerate(values):
            mine[k] += value

    def merge(self, other: Self) -> None:
        """Add the answers of another calibration."""
        self.count += other.count
        self.brier += other.brier
        for key, values in other.bins.items():
            self._add(key, values)

    def summary(self) -> dict[str, Any]:
        """Return Brier score, expected calibration error and its bins; only the count if it is 0.

        The error is that of Guo et al. 2017 (arXiv:1706.04599). Its normal 95 % interval comes from
        a parametric bootstrap, which draws the number of right answers in each bin anew.
        """
        if not self.count:
            return {"count": 0}
        # A fine bin belongs to the mass bin of its middle example.
        reliability: list[list[float]] = []
        seen = 0.0
        for key in sorted(self.bins):
            n, p, right = self.bins[key]
            mass_bin = int(MASS_BINS * (seen + n / 2) / self.count)
            seen += n
            if not reliability or reliability[-1][3] != mass_bin:
                reliability.append([0, 0.0, 0, mass_bin])
            for k, value in enumerate((n, p, right)):
                reliability[-1][k] += value
        counts, expected, observed = np.array(reliability)[:, :3].T
        error = float(np.abs(expected - observed).sum() / self.count)
        # The fixed seed makes the interval the same for the same answers.
        drawn = np.random.default_rng(0).binomial(
            counts.astype(int), observed / counts, (RESAMPLES, len(counts))
        )
        half = Z_95 * float(np.abs(expected - drawn).sum(1).std() / self.count)
        return {
            "count": self.count,
            "expected_calibration_error": error,
            "expected_calibration_error_interval": [max(0.0, error - half), min(1.0, error + half)],
            "brier": self.brier / self.count,
            "reliability": [
                {"count": int(n), "mean_probability": p / n, "accuracy": right / n}
                for n, p, right, _ in reliability
            ],
        }

    def to_json(self) -> list[Any]:
        """Return the fields as values that JSON keeps exactly; inverse of `from_json`."""
        return [self.count, self.brier, sorted(self.bins.items())]

    @classmethod
    def from_json(cls, values: list[Any]) -> Self:
        """Make a calibration from the result of `to_json`."""
        return cls(values[0], values[1], {key: list(bin_values) for key, bin_values in values[2]})
