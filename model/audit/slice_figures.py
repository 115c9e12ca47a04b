"""Figures of a slice of an audit, or of all its examples, as counts and sums that merge."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from model.audit.answerability import Margins
from model.audit.distributions import Z_95, Calibration, Distribution, wilson
from model.audit.risk_coverage import risk_coverage

LOSSES = (
    "nll",
    "nll_start",
    "nll_end",
    "min_nll",
    "native_nll",
    "tokenwise",
    "nll_per_token",
    "marginal_joint_nll",
    "joint_nll",
)
"""Losses that have statistics; the others are only in the rows."""

_LARGEST_EXPONENT = math.log(sys.float_info.max)


@dataclass(slots=True)
class Slice:
    """Statistics of some examples: counts and sums, from which `summary` makes shares and means.

    rows           examples, with a loss or not
    graded         examples that have an F1: those that the next five cover
    right          examples whose prediction matches a gold exactly (EM)
    f1, f1_squares, character_f1
                   sums of F1, of its square, and of character F1
    answerability  examples of which the model decides rightly whether there is an answer
    margins        null_score - span_score of the examples that have both
    """

    rows: int = 0
    losses: dict[str, Distribution] = field(
        default_factory=lambda: {name: Distribution() for name in LOSSES}
    )
    right: int = 0
    graded: int = 0
    f1: float = 0.0
    f1_squares: float = 0.0
    character_f1: float = 0.0
    answerability: int = 0
    calibration: Calibration = field(default_factory=Calibration)
    margins: Margins = field(default_factory=Margins)

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Add examples, by their columns of figures, float64 [examples] each; nan for undefined."""
        self.rows += len(columns["nll"])
        for name, distribution in self.losses.items():
            values = columns[name]
            distribution.add(np.maximum(values[np.isfinite(values)], 0.0))
        graded = np.isfinite(columns["f1"])
        self.graded += int(graded.sum())
        self.right += int(columns["exact_match"][graded].sum())
        self.f1 += float(columns["f1"][graded].sum())
        self.f1_squares += float((columns["f1"][graded] ** 2).sum())
        self.character_f1 += float(columns["character_f1"][graded].sum())
        self.answerability += int((columns["answerable"] == columns["answered"])[graded].sum())
        shown = graded & (columns["answered"] > 0) & np.isfinite(columns["probability"])
        self.calibration.add(columns["probability"][shown], columns["exact_match"][shown])
        margin = columns["null_score"] - columns["span_score"]
        known = graded & np.isfinite(margin)
        self.margins.add(margin[known], columns["answerable"][known] > 0)

    def merge(self, other: Self) -> None:
        """Add the examples of another slice."""
        self.rows += other.rows
        for name, distribution in self.losses.items():
            distribution.merge(other.losses[name])
        self.right += other.right
        self.graded += other.graded
        self.f1 += other.f1
        self.f1_squares += other.f1_squares
        self.character_f1 += other.character_f1
        self.answerability += other.answerability
        self.calibration.merge(other.calibration)
        self.margins.merge(other.margins)

    def summary(self) -> dict[str, Any]:
        """Return all figures with their 95 % intervals; only those that are defined."""
        losses = {name: distribution.summary() for name, distribution in self.losses.items()}
        result: dict[str, Any] = {"rows": self.rows, "losses": losses}
        for side in ("start", "end"):
            loss = losses[f"nll_{side}"]
            if loss["count"]:
                half = Z_95 * loss["standard_error"]
                result[f"perplexity_{side}"] = _exp(loss["mean"])
                result[f"perplexity_{side}_interval"] = [
                    _exp(max(0.0, loss["mean"] - half)),
                    _exp(loss["mean"] + half),
                ]
        if self.graded:
            mean = self.f1 / self.graded
            spread = math.sqrt(max(0.0, self.f1_squares / self.graded - mean * mean) / self.graded)
            result["exact_match"] = {
                "percent": 100 * self.right / self.graded,
                "interval": _percent(wilson(self.right / self.graded, self.graded)),
            }
            interval = [100 * max(0.0, mean - Z_95 * spread), 100 * min(1.0, mean + Z_95 * spread)]
            result["f1"] = {"percent": 100 * mean, "interval": interval}
            result["character_f1"] = {"percent": 100 * self.character_f1 / self.graded}
            result["answerability_accuracy"] = 100 * self.answerability / self.graded
            right = wilson(self.answerability / self.graded, self.graded)
            result["answerability_interval"] = _percent(right)
        separation = self.margins.summary()
        if separation:
            result["answerability_auc"] = separation
        result["calibration"] = self.calibration.summary()
        result["risk_coverage"] = risk_coverage(self.calibration.bins, self.graded)
        return result

    def to_json(self) -> dict[str, Any]:
        """Return the fields as values that JSON keeps exactly; inverse of `from_json`."""
        return {
            "rows": self.rows,
            "losses": {name: distribution.to_json() for name, distribution in self.losses.items()},
            "grades": [
                self.right,
                self.graded,
                self.f1,
                self.f1_squares,
                self.answerability,
                self.character_f1,
            ],
            "calibration": self.calibration.to_json(),
            "margins": self.margins.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Make a slice from the result of `to_json`."""
        # Receipts of earlier versions may lack a loss: it has no values in their rows.
        stored = {name: Distribution.from_json(each) for name, each in values["losses"].items()}
        losses = {name: stored.get(name, Distribution()) for name in LOSSES}
        right, graded, f1, f1_squares, answerability, *later = values["grades"]
        character_f1 = later[0] if later else f1  # receipts of earlier versions do not have it
        calibration = Calibration.from_json(values["calibration"])
        margins = Margins.from_json(values.get("margins", []))  # nor these
        return cls(
            values["rows"],
            losses,
            right,
            graded,
            f1,
            f1_squares,
            character_f1,
            answerability,
            calibration,
            margins,
        )


def _exp(mean: float) -> float | None:
    """Return the perplexity of a mean loss, or None if it is too large for a float."""
    return math.exp(mean) if mean < _LARGEST_EXPONENT else None


def _percent(interval: tuple[float, float]) -> list[float]:
    """Return an interval of a share in per cent."""
    return [100 * end for end in interval]
