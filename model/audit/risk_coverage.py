"""Risk and coverage: what a threshold on the probability costs, and what it is worth.

Answers are shown from the most probable on. Their coverage is the share of the questions that they
answer; their selective risk is the share of them that is wrong, and their precision the rest
(El-Yaniv & Wiener 2010; Geifman & El-Yaniv 2017, arXiv:1705.08500).

All figures come from the fine bins of `model.audit.distributions.Calibration`, so that they merge
exactly. Answers of one bin count as equally probable: the resolution is 1 / FINE_BINS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from model.audit.distributions import FINE_BINS, wilson

PRECISIONS = (0.8, 0.9, 0.95)
"""The precisions whose coverage is reported."""

MOST_POINTS = 100
"""About as many points has the curve of a plot."""

Bins = Mapping[int, Sequence[float]]
"""Fine bin of probability -> [answers, sum of probabilities, right answers]."""


def _totals(bins: Bins) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lower ends of the bins from the highest on, and answers and right ones from there.

    Returns float64 [bins], int64 [bins], int64 [bins].
    """
    keys = sorted(bins, reverse=True)
    counts = np.array([[bins[key][0], bins[key][2]] for key in keys], np.int64).reshape(-1, 2)
    answers, right = np.cumsum(counts, axis=0).T
    return np.array(keys) / FINE_BINS, answers, right


def risk_coverage(bins: Bins, questions: int) -> dict[str, Any]:
    """Return the area under the risk-coverage curve, and the coverage at each of `PRECISIONS`.

    questions  number of questions, with an answer or not

    aurc                   the mean of the selective risk of the k most probable answers over all k
    coverage_at_precision  precision -> the largest coverage whose precision is at least that, with
                           the threshold; null if there is none

    Returns only `answers`, 0, if there are none.
    """
    threshold, answers, right = _totals(bins)
    if not len(answers):
        return {"answers": 0}
    at_precision: dict[str, Any] = {}
    for wanted in PRECISIONS:
        # Precisions are ratios of whole numbers: 9 right ones of 10 are 0.9 whatever the rounding.
        enough = np.flatnonzero(right >= wanted * answers - 1e-9)
        found = None
        if len(enough):
            last = int(enough[-1])
            share = float(right[last] / answers[last])
            found = {
                "coverage": float(answers[last] / questions),
                "min_probability": float(threshold[last]),
                "precision": share,
                "interval": list(wilson(share, int(answers[last]))),
                "answers": int(answers[last]),
            }
        at_precision[f"{wanted:g}"] = found
    return {
        "answers": int(answers[-1]),
        "aurc": _area(answers, right),
        "coverage_at_precision": at_precision,
    }


def _area(answers: np.ndarray, right: np.ndarray) -> float:
    """Return the area under the curve, its mean over all orders of equally probable answers.

    answers, right  int64 [bins], running totals
    """
    # Of a bin with m answers, e of them wrong, after n answers with w wrong ones, the k-th has the
    # mean risk (w + k e / m) / (n + k). The sum over k is e + (w - n e / m) (H(n + m) - H(n)), with
    # the harmonic numbers H(n) = digamma(n + 1) + a constant.
    wrong = answers - right
    before, wrong_before = (np.concatenate([[0], totals[:-1]]) for totals in (answers, wrong))
    errors = wrong - wrong_before
    rate = errors / (answers - before)
    upper, lower = (
        torch.digamma(torch.from_numpy(counts + 1.0)).numpy() for counts in (answers, before)
    )
    return float((errors + (wrong_before - before * rate) * (upper - lower)).sum() / answers[-1])


def risk_coverage_curve(bins: Bins, questions: int) -> list[list[float]]:
    """Return about MOST_POINTS points [threshold, coverage, risk], by growing coverage."""
    threshold, answers, right = _totals(bins)
    if not len(answers):
        return []
    # The last bin of every step of coverage, and the last of all.
    step = answers * MOST_POINTS // answers[-1]
    shown = np.flatnonzero(np.diff(step, append=MOST_POINTS + 1))
    return [
        [float(threshold[k]), float(answers[k] / questions), float(1 - right[k] / answers[k])]
        for k in shown
    ]
