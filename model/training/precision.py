"""The threshold on the probability at which the answers that are shown reach a wanted precision.

The precision at a threshold is the share of exactly right answers among those of at least that
probability. A threshold that is chosen because its precision is high enough on some data owes part
of that precision to chance. Therefore the lower end of a confidence interval must reach the wanted
precision, as in "selection with guaranteed risk" (Geifman & El-Yaniv 2017, arXiv:1705.08500), and
the thresholds to choose from are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.audit.distributions import wilson
from model.command import option

THRESHOLDS = np.arange(1001) / 1000
"""The thresholds to choose from."""


@dataclass(frozen=True, slots=True)
class Given:
    """The answers given to some questions; A answers.

    probability  float [A]
    right        bool [A], whether the answer is exactly right
    passage      int64 [A], the same for answers from one passage
    questions    number of questions, with an answer or not
    """

    probability: np.ndarray
    right: np.ndarray
    passage: np.ndarray
    questions: int

    def reached(self, thresholds: np.ndarray) -> list[Reached]:
        """Return what is reached at each threshold, float [thresholds]."""
        # Compared in float32, as `model.reading.decoding.decide` does.
        probability = self.probability.astype(np.float32)
        order = np.argsort(-probability, kind="stable")
        right, effective = self.right[order], _effective_counts(self, order)
        shown = np.searchsorted(-probability[order], -thresholds.astype(np.float32), side="right")
        rights = np.concatenate([[0], np.cumsum(right)])[shown]
        found = []
        for threshold, count, sure in zip(
            thresholds.tolist(), shown.tolist(), rights.tolist(), strict=True
        ):
            if not count:
                found.append(Reached(threshold, 0, 0.0, (0.0, 1.0), 0.0))
                continue
            interval = wilson(sure / count, float(effective[count - 1]))
            coverage = count / self.questions
            found.append(Reached(threshold, count, sure / count, interval, coverage))
        return found


def _effective_counts(given: Given, order: np.ndarray) -> np.ndarray:
    """Return how many independent answers are as informative as the first k, for each k; float [A].

    Answers from one passage tend to be right or wrong together. The count is divided by the design
    effect (Kish 1965): the variance of the share over passages, as that of a ratio of means, over
    the variance of as many independent answers. It is never more than k.

    order  int64 [A], the answers in the order in which they are added
    """
    right, passage = given.right[order].astype(np.int64), given.passage[order]
    count = np.arange(1, len(order) + 1)
    # Of each answer: the earlier answers from its passage, and how many of them are right.
    by_passage = np.argsort(passage, kind="stable")
    first = np.diff(passage[by_passage], prepend=-1) != 0
    begin = np.flatnonzero(first)[np.cumsum(first) - 1]
    sums = np.concatenate([[0], np.cumsum(right[by_passage])])
    earlier, earlier_right = np.empty_like(count), np.empty_like(count)
    earlier[by_passage] = np.arange(len(order)) - begin
    earlier_right[by_passage] = sums[:-1] - sums[begin]

    # With n answers of a passage, r of them right, the sums over passages of n^2, r n and r^2 grow
    # by (n + 1)^2 - n^2 and so on. They give that of (r - share n)^2, the squared residuals.
    squares = np.cumsum(2 * earlier + 1)
    products = np.cumsum(earlier_right + right * (earlier + 1))
    right_squares = np.cumsum(right * (2 * earlier_right + 1))
    share = np.cumsum(right) / count
    residuals = right_squares - 2 * share * products + share**2 * squares
    passages = np.cumsum(earlier == 0)
    variance = passages / np.maximum(1, passages - 1) * residuals / count**2
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = share * (1 - share) / variance
    return np.where(np.isfinite(effective) & (effective > 0), np.minimum(effective, count), count)


@dataclass(frozen=True, slots=True)
class Reached:
    """What is reached at a threshold.

    answers    answers of at least that probability
    precision  share of them that is exactly right
    interval   its 95 % interval
    coverage   share of the questions that these answers answer
    """

    threshold: float
    answers: int
    precision: float
    interval: tuple[float, float]
    coverage: float

    def figures(self) -> dict[str, Any]:
        """Return all but the threshold, rounded, for JSON."""
        return {
            "precision": round(self.precision, 4),
            "interval": [round(end, 4) for end in self.interval],
            "coverage": round(self.coverage, 4),
            "answers": self.answers,
        }


def fit_precision(given: Given, wanted: float) -> Reached:
    """Return what is reached at the lowest threshold whose interval begins at `wanted` or above.

    Raises ValueError, which names the best precision that can be reached, without such a threshold.
    """
    every = given.reached(THRESHOLDS)
    for reached in every:
        if reached.interval[0] >= wanted:
            return reached
    best = max(every, key=lambda reached: reached.interval[0])
    raise ValueError(
        f"these data can't show that it is reached: the highest precision that they show is "
        f"{best.interval[0]:.3f}, at probability {best.threshold:g} ({best.answers} answers, "
        f"{100 * best.precision:.1f} % of them right)"
    )


def fit_precisions(wanted: Sequence[float], fitted: Given, held: Given) -> dict[str, Any]:
    """Return the threshold of each wanted precision, as a checkpoint's config.json stores it.

    fitted, held  the answers to fit on, and those that only measure

    Raises SettingError for a precision that `fit_precision` refuses.
    """
    thresholds = {}
    for precision in wanted:
        with option("precision", f"{precision:g}"):
            reached = fit_precision(fitted, precision)
        (measured,) = held.reached(np.array([reached.threshold]))
        thresholds[f"{precision:g}"] = {
            "min_probability": reached.threshold,
            **reached.figures(),
            "held_out": measured.figures(),
        }
    return thresholds
