"""How well the null option separates unanswerable questions from answerable ones.

The measure is the area under the ROC curve (AUC) of the margin, null_score - span_score: the
probability that the margin of an unanswerable question is above that of an answerable one, equal
margins counting half. It does not depend on a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from model.audit.distributions import Z_95

MARGIN_RESOLUTION = 0.01
"""Width of the bins of margins. Margins in one bin count as equal."""


@dataclass(slots=True)
class Margins:
    """The margins of questions, mergeable in any order.

    bins  bin of the margin -> [answerable questions, unanswerable questions]
    """

    bins: dict[int, list[int]] = field(default_factory=dict)

    def add(self, margin: np.ndarray, answerable: np.ndarray) -> None:
        """Add questions: margin float [questions], finite; answerable bool [questions]."""
        keys, member = np.unique(np.floor(margin / MARGIN_RESOLUTION), return_inverse=True)
        counts = [np.bincount(member[chosen], minlength=len(keys)) for chosen in _both(answerable)]
        for key, *found in zip(keys.tolist(), *(each.tolist() for each in counts), strict=True):
            self._add(int(key), found)

    def _add(self, key: int, counts: Sequence[int]) -> None:
        """Add answerable and unanswerable questions to a bin."""
        mine = self.bins.get(key, (0, 0))
        self.bins[key] = [mine[0] + counts[0], mine[1] + counts[1]]

    def merge(self, other: Self) -> None:
        """Add the questions of other margins."""
        for key, counts in other.bins.items():
            self._add(key, counts)

    def summary(self) -> dict[str, Any] | None:
        """Return the AUC, its 95 % interval and the counts; None unless there are both kinds.

        The interval is the normal one with the standard error of DeLong, DeLong & Clarke-Pearson
        1988.
        """
        answerable, unanswerable = (
            np.array([self.bins[key] for key in sorted(self.bins)], np.int64).reshape(-1, 2).T
        )
        if not (answerable.any() and unanswerable.any()):
            return None
        # Of each unanswerable question, the share of the answerable ones below it; of each
        # answerable question, the share of the unanswerable ones above it. Both have the mean AUC.
        below = (np.cumsum(answerable) - answerable / 2) / answerable.sum()
        above = 1 - (np.cumsum(unanswerable) - unanswerable / 2) / unanswerable.sum()
        area = float(np.average(below, weights=unanswerable))
        variance = 0.0
        for share, count in ((below, unanswerable), (above, answerable)):
            spread = float(np.average((share - area) ** 2, weights=count))
            variance += spread / max(1, int(count.sum()) - 1)
        half = Z_95 * math.sqrt(variance)
        return {
            "auc": area,
            "interval": [max(0.0, area - half), min(1.0, area + half)],
            "answerable": int(answerable.sum()),
            "unanswerable": int(unanswerable.sum()),
        }

    def to_json(self) -> list[Any]:
        """Return the bins as values that JSON keeps exactly; inverse of `from_json`."""
        return sorted([key, *counts] for key, counts in self.bins.items())

    @classmethod
    def from_json(cls, values: list[Any]) -> Self:
        """Make margins from the result of `to_json`."""
        return cls({key: counts for key, *counts in values})


def _both(answerable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which questions are answerable and which are not, bool [questions] each."""
    return answerable, ~answerable
