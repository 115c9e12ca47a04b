"""Mergeable statistics of an audit: the same for any chunking, any order and any number of workers.

Counts and sketches merge exactly; sums are of float64 and agree to 1e-9. Quantiles come from a DDSketch (Masson, Rim & Lee
2019, arXiv:1908.10693): logarithmic bins, so that a quantile is off by at most `RELATIVE_ACCURACY` of its value.
"""

from __future__ import annotations

import heapq
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
from ddsketch import DDSketch
from ddsketch.mapping import LogarithmicMapping

RELATIVE_ACCURACY = 0.01
QUANTILES = (0.5, 0.9, 0.95, 0.99)
LOSSES = ("nll", "nll_start", "nll_end", "min_nll", "native_nll", "tokenwise", "nll_per_token", "marginal_joint_nll")
"""Losses that have statistics; all others stand in the rows."""

FINE_BINS = 1000
"""Probabilities are counted in this many equal bins, of which the 15 equal-mass bins of the calibration are made."""

MASS_BINS = 15
MOST_SLICES = 100
OTHER = "(other)"

SLICES = ("question_word", "answerable", "answer_characters", "context_tokens", "num_windows", "answer_position")
"""The slices that every audit has."""

_QUESTION_WORD = re.compile(r"\b(?:what|who|when|where|why|which|how\s+many|how\s+much|how)\b")
_SMALLEST = 1e-9
"""Losses below it count as zero: rounding, not information."""

_LARGEST_EXPONENT = math.log(sys.float_info.max)
"""A perplexity beyond it is no float."""

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
        self.total += math.fsum(values)
        self.squares += math.fsum(values * values)
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        positive = values[values > _SMALLEST]
        self.zeros += len(values) - len(positive)
        keys = np.ceil(np.log(positive) / math.log(_MAPPING.gamma)).astype(int)  # _MAPPING.key, on arrays
        for key, count in zip(*np.unique(keys, return_counts=True), strict=True):
            self.bins[int(key)] += int(count)

    def merge(self, other: Self) -> None:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.zeros += other.zeros
        self.bins.update(other.bins)

    def quantile(self, q: float) -> float:
        sketch = DDSketch(RELATIVE_ACCURACY)
        for key in sorted(self.bins):
            sketch.add(_MAPPING.value(key), self.bins[key])
        if self.zeros:
            sketch.add(0.0, self.zeros)
        return min(max(float(sketch.get_quantile_value(q)), self.low), self.high)

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
            **{f"p{round(100 * q)}": self.quantile(q) for q in QUANTILES},
        }

    def to_json(self) -> list[Any]:
        return [self.count, self.total, self.squares, self.low, self.high, self.zeros, sorted(self.bins.items())]

    @classmethod
    def from_json(cls, values: list[Any]) -> Self:
        count, total, squares, low, high, zeros, bins = values
        return cls(count, total, squares, low, high, zeros, Counter(dict(bins)))


@dataclass(slots=True)
class Calibration:
    """How often an answer of probability p is right (EM > 0): Brier sum and fine bins of [count, sum of p, right ones]."""

    count: int = 0
    brier: float = 0.0
    bins: dict[int, list[float]] = field(default_factory=dict)

    def add(self, probability: np.ndarray, right: np.ndarray) -> None:
        self.count += len(probability)
        self.brier += math.fsum((probability - right) ** 2)
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
        """Brier score, expected calibration error (Guo et al. 2017, arXiv:1706.04599) and reliability, equal-mass bins."""
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
        error = sum(abs(p - right) for _, p, right, _ in reliability) / self.count
        return {
            "count": self.count,
            "expected_calibration_error": error,
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


@dataclass(slots=True)
class Slice:
    """Statistics of some examples: losses, EM and F1, answerability, calibration."""

    rows: int = 0
    losses: dict[str, Distribution] = field(default_factory=lambda: {name: Distribution() for name in LOSSES})
    right: int = 0
    graded: int = 0
    f1: float = 0.0
    f1_squares: float = 0.0
    answerability: int = 0
    calibration: Calibration = field(default_factory=Calibration)

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        self.rows += len(columns["nll"])
        for name, distribution in self.losses.items():
            values = columns[name]
            distribution.add(np.maximum(values[np.isfinite(values)], 0.0))
        graded = np.isfinite(columns["f1"])
        self.graded += int(graded.sum())
        self.right += int(columns["exact_match"][graded].sum())
        self.f1 += math.fsum(columns["f1"][graded])
        self.f1_squares += math.fsum(columns["f1"][graded] ** 2)
        self.answerability += int((columns["answerable"] == columns["answered"])[graded].sum())
        shown = graded & (columns["answered"] > 0) & np.isfinite(columns["probability"])
        self.calibration.add(columns["probability"][shown], columns["exact_match"][shown])

    def merge(self, other: Self) -> None:
        self.rows += other.rows
        for name, distribution in self.losses.items():
            distribution.merge(other.losses[name])
        self.right += other.right
        self.graded += other.graded
        self.f1 += other.f1
        self.f1_squares += other.f1_squares
        self.answerability += other.answerability
        self.calibration.merge(other.calibration)

    def summary(self) -> dict[str, Any]:
        losses = {name: distribution.summary() for name, distribution in self.losses.items()}
        result: dict[str, Any] = {"rows": self.rows, "losses": losses}
        for side in ("start", "end"):
            if losses[f"nll_{side}"]["count"]:
                mean = losses[f"nll_{side}"]["mean"]
                result[f"perplexity_{side}"] = math.exp(mean) if mean < _LARGEST_EXPONENT else None
        if self.graded:
            mean = self.f1 / self.graded
            spread = math.sqrt(max(0.0, self.f1_squares / self.graded - mean * mean) / self.graded)
            result["exact_match"] = {"percent": 100 * self.right / self.graded, "interval": _wilson(self.right, self.graded)}
            interval = [100 * max(0.0, mean - 1.96 * spread), 100 * min(1.0, mean + 1.96 * spread)]
            result["f1"] = {"percent": 100 * mean, "interval": interval}
            result["answerability_accuracy"] = 100 * self.answerability / self.graded
        result["calibration"] = self.calibration.summary()
        return result

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "losses": {name: distribution.to_json() for name, distribution in self.losses.items()},
            "grades": [self.right, self.graded, self.f1, self.f1_squares, self.answerability],
            "calibration": self.calibration.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        losses = {name: Distribution.from_json(each) for name, each in values["losses"].items()}
        right, graded, f1, f1_squares, answerability = values["grades"]
        calibration = Calibration.from_json(values["calibration"])
        return cls(values["rows"], losses, right, graded, f1, f1_squares, answerability, calibration)


def _wilson(right: int, count: int) -> list[float]:
    """95 % interval of a share, in per cent (Wilson 1927)."""
    z, share = 1.96, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [100 * (middle - half), 100 * (middle + half)]


@dataclass(slots=True)
class Statistics:
    """Statistics of all examples and of every slice, and the examples of highest loss."""

    everything: Slice = field(default_factory=Slice)
    slices: dict[str, dict[str, Slice]] = field(default_factory=dict)
    worst: list[tuple[float, str, int, dict[str, Any]]] = field(default_factory=list)
    most_worst: int = 0

    def merge(self, other: Self) -> None:
        self.everything.merge(other.everything)
        for name, values in other.slices.items():
            mine = self.slices.setdefault(name, {})
            for value, part in values.items():
                mine.setdefault(value, Slice()).merge(part)
            fold_rare(mine)
        self.most_worst = max(self.most_worst, other.most_worst)
        self.worst = heapq.nsmallest(self.most_worst, [*self.worst, *other.worst], key=lambda entry: entry[:3])

    def summary(self) -> dict[str, Any]:
        return {
            "all": self.everything.summary(),
            "slices": {
                name: {value: values[value].summary() for value in sorted(values)}
                for name, values in sorted(self.slices.items())
            },
            "highest_loss": [{"nll": -loss, **example} for loss, _, _, example in self.worst],
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "all": self.everything.to_json(),
            "slices": {name: {value: part.to_json() for value, part in values.items()} for name, values in self.slices.items()},
            "worst": self.worst,
            "most_worst": self.most_worst,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        slices = {
            name: {value: Slice.from_json(part) for value, part in each.items()} for name, each in values["slices"].items()
        }
        worst = [(entry[0], entry[1], entry[2], entry[3]) for entry in values["worst"]]
        return cls(Slice.from_json(values["all"]), slices, worst, values["most_worst"])


def fold_rare(values: dict[str, Slice]) -> None:
    """Folds all but the first MOST_SLICES values, in the order of their text, into OTHER.

    The first in an order are first in every part that holds them, so what is kept does not depend on how parts merge.
    """
    for value in sorted(value for value in values if value != OTHER)[MOST_SLICES:]:
        values.setdefault(OTHER, Slice()).merge(values.pop(value))


def question_word(question: str) -> str:
    """The English question word that stands first in a question, else "other"."""
    found = _QUESTION_WORD.search(question.lower())
    return " ".join(found[0].split()) if found else "other"


def bounded(value: float, bounds: Iterable[int]) -> str:
    """The half-open range of `bounds` that a value falls into, as text that sorts in order: "00128-00255"."""
    low = 0
    for bound in bounds:
        if value < bound:
            return f"{low:05d}-{bound - 1:05d}"
        low = bound
    return f"{low:05d}+"


def measure(
    audit: pa.Table, questions: list[str], given: Mapping[str, list[Any]], examples: list[dict[str, Any]], most_worst: int
) -> Statistics:
    """The statistics of one chunk.

    audit     its audit columns; rejected rows are left out
    given     columns of `--slice_by`, [rows] values each
    examples  what `highest_loss` shows of each row: path, row, id, question, gold (JSON values, [rows])
    """
    names = (*LOSSES, "exact_match", "f1", "probability")
    columns = {name: audit.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for name in names}
    status = np.array(audit.column("status").to_pylist())
    kept = status != "rejected"
    golds = audit.column("golds").fill_null(0).to_numpy()
    columns["answerable"] = (golds > 0).astype(np.float64)
    columns["answered"] = np.array([bool(text) for text in audit.column("prediction").to_pylist()], np.float64)
    tokens = audit.column("num_tokens").fill_null(0).to_numpy()
    num_windows = audit.column("num_windows").fill_null(0).to_numpy()
    start = audit.column("gold_start").fill_null(0).to_numpy()
    end = audit.column("gold_end").fill_null(0).to_numpy()
    lengths = np.array([example["context_length"] for example in examples])

    labels: dict[str, list[str]] = {
        "question_word": [question_word(question) for question in questions],
        "answerable": ["yes" if gold else "no" for gold in golds],
        "answer_characters": [
            bounded(e - s, (5, 10, 20, 40, 80)) if g else "none" for s, e, g in zip(start, end, golds, strict=True)
        ],
        "context_tokens": [bounded(n, (128, 256, 384, 1024, 4096, 16384)) for n in tokens],
        "num_windows": [bounded(n, (2, 5, 17, 65)) for n in num_windows],
        "answer_position": [
            f"{int(5 * s / max(n, 1)) + 1} of 5" if g else "none" for s, n, g in zip(start, lengths, golds, strict=True)
        ],
        **{name: ["(null)" if value is None else str(value)[:80] for value in values] for name, values in given.items()},
    }
    result = Statistics(most_worst=most_worst)
    result.everything.add({name: values[kept] for name, values in columns.items()})
    for name, values in labels.items():
        of_slice = np.array(values, dtype=object)
        parts = result.slices.setdefault(name, {})
        for value in sorted(set(of_slice[kept].tolist())):
            inside = kept & (of_slice == value)
            parts.setdefault(value, Slice()).add({each: array[inside] for each, array in columns.items()})
        fold_rare(parts)

    loss = np.where(kept & np.isfinite(columns["nll"]), columns["nll"], -np.inf)
    order = np.lexsort((np.arange(len(loss)), -loss))[:most_worst]
    shown = audit.select(["prediction", "probability", "gold_probability", "null_probability", "nll_start", "nll_end", "f1"])
    for row in order.tolist():
        if np.isfinite(loss[row]):
            example = {**examples[row], **{name: shown.column(name)[row].as_py() for name in shown.column_names}}
            result.worst.append((-float(loss[row]), str(example["path"]), int(example["row"]), example))
    return result
