"""Estimate the precision of a whole run from the reviewed part of a stratified sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.audit.distributions import Z_95, wilson

CONFIDENCE = 0.95
"""The level of the interval, that of `wilson`."""

_EVIDENCE = 10
"""Right (or wrong, if fewer) answers from which the sample's own design effect weighs most."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What reviewers said about the drawn answers of one stratum.

    answers  answers of the run in the stratum
    right    drawn answers that are right
    wrong    drawn answers that are wrong
    """

    answers: int
    right: int
    wrong: int

    @property
    def reviewed(self) -> int:
        """Return the number of drawn answers that are right or wrong."""
        return self.right + self.wrong


@dataclass(frozen=True, slots=True)
class Estimate:
    """The share of right answers among all answers of a run, with its interval of 95 %."""

    precision: float
    low: float
    high: float


def estimate(strata: Sequence[Marks]) -> Estimate:
    """Estimate precision. Each stratum must have a reviewed answer.

    The estimate is the stratified mean. The interval is Wilson's with the effective sample size in
    the place of the sample size, one of the two that Franco, Little, Louis and Slud (2019),
    "Comparative Study of Confidence Intervals for Proportions in Complex Sample Surveys",
    recommend. Two parts are ours:

    * The variance of a stratum is computed from a share that is moved towards that of all strata
      by one answer, so that a stratum without a wrong answer is not taken for certain.
    * A sample with few wrong (or few right) answers says little about what stratification gained.
      Its design effect is then mixed with that of the weights alone (Kish), the more the fewer:
      with `e` of the rarer kind, e / (e + 10) is the weight of the sample's own.

    Both use the finite population correction: if every answer was reviewed, the interval is a
    point. Answers known to be right and wrong bound it. `benchmarks/review_sample.py` measures the
    coverage.
    """
    answers = np.array([each.answers for each in strata], float)
    right = np.array([each.right for each in strata], float)
    reviewed = np.array([each.reviewed for each in strata], float)
    share = answers / answers.sum()
    total = float(reviewed.sum())
    precision = float(share @ (right / reviewed))
    least = float(right.sum() / answers.sum())
    most = float(1 - (total - right.sum()) / answers.sum())
    if total == answers.sum():
        return Estimate(precision, precision, precision)
    # The variance that one answer adds, as it is and under equal shares of right answers.
    centre = (precision * total + Z_95**2 / 2) / (total + Z_95**2)
    smoothed = (right + centre) / (reviewed + 1)
    unseen = share**2 * (1 - reviewed / answers)
    variance = float((unseen / np.maximum(reviewed - 1, 1)) @ (smoothed * (1 - smoothed)))
    own = variance / (centre * (1 - centre))
    of_weights = max(own, float((unseen / reviewed).sum()))
    rarer = float(min(right.sum(), total - right.sum()))
    trust = rarer / (rarer + _EVIDENCE)
    size = 1 / (trust * own + (1 - trust) * of_weights)
    low, high = wilson(precision, size)
    return Estimate(precision, max(low, least), min(high, most))
