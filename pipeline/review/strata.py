"""Draw a stratified random sample of answers in one pass, in memory that does not grow with them.

Answers are counted in cells by probability, each of which keeps the answers of the lowest random
keys. Afterwards neighbouring cells become strata. The lowest keys of a stratum are a simple random
sample of it without replacement, because every answer's key is drawn from one distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from model.reading.tokenizer import consecutive

CELLS = 100
"""Cells of equal width in [0, 1]."""

_MOST_STRATA = 8
_ROWS_PER_STRATUM = 10
_LEAST_DEVIATION = 0.2
"""Lower bound of the guessed standard deviation of rightness in a stratum, sqrt(p (1 - p)).

Models are overconfident more often than not. With a bound, a stratum of answers that all seem to be
right still gets its share of rows. The most that a wrong guess can cost is a ratio of weights of
0.5 / 0.2.
"""


@dataclass(frozen=True, slots=True)
class Stratum:
    """Answers whose probabilities are in one range.

    low, high         the range, `high` exclusive unless it is 1
    answers           how many answers there are
    mean_probability  their mean
    drawn             how many of them are in the sample
    """

    low: float
    high: float
    answers: int
    mean_probability: float
    drawn: int

    @property
    def weight(self) -> float:
        """Return how many answers of the run each drawn one represents."""
        return self.answers / self.drawn


@dataclass
class Draw:
    """Draws answers that come in batches.

    rows  size of the sample; all answers are drawn if there are fewer
    seed  of the random keys; with the same answers in the same order, the sample is the same
    """

    rows: int
    seed: int
    counts: np.ndarray = field(default_factory=lambda: np.zeros(CELLS, np.int64))
    sums: np.ndarray = field(default_factory=lambda: np.zeros(CELLS))

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        # The answers kept: cell, key, place. At first every cell keeps all of its answers.
        self._cells = np.zeros(0, np.int64)
        self._keys = np.zeros(0)
        self._places = np.zeros((0, 3), np.int64)
        self._limits = np.full(CELLS, np.inf)

    def add(self, probabilities: np.ndarray, places: np.ndarray) -> None:
        """Add answers.

        probabilities  float [answers], in [0, 1]
        places         int64 [answers, 3], where the answers are (`probabilities_of`)
        """
        probabilities = np.clip(probabilities, 0.0, 1.0)  # float32 may round to more than 1
        cells = np.minimum((probabilities * CELLS).astype(np.int64), CELLS - 1)
        self.counts += np.bincount(cells, minlength=CELLS)
        self.sums += np.bincount(cells, probabilities, minlength=CELLS)
        keys = self._random.random(len(cells))
        low = keys < self._limits[cells]
        self._cells = np.concatenate([self._cells, cells[low]])
        self._keys = np.concatenate([self._keys, keys[low]])
        self._places = np.concatenate([self._places, places[low]])
        # Not for every batch: the cost of sorting is spread over many answers.
        if len(self._cells) > 2 * self.rows * CELLS:
            self._prune()

    def _prune(self) -> None:
        """Keep the `rows` lowest keys of each cell, in order of cell and key."""
        order = np.lexsort((self._keys, self._cells))
        cells = self._cells[order]
        counts = np.bincount(cells, minlength=CELLS)
        order = order[consecutive(0, counts) < self.rows]
        self._cells, self._keys = self._cells[order], self._keys[order]
        self._places = self._places[order]
        # What a full cell keeps from now on is below its highest key.
        last = np.flatnonzero(np.diff(self._cells, append=CELLS))
        full = np.bincount(self._cells, minlength=CELLS)[self._cells[last]] == self.rows
        self._limits[self._cells[last[full]]] = self._keys[last[full]]

    def finish(self) -> tuple[list[Stratum], np.ndarray, np.ndarray]:
        """Return the strata, and the places and the strata of the drawn answers.

        There must be an answer.

        The drawn answers are in random order, in which every beginning has about the share of each
        stratum that the whole has. So an unfinished review is of a stratified sample too.

        Returns strata, int64 [drawn, 3] places, and int64 [drawn] indices of strata.
        """
        self._prune()
        stratum_of_cell = group_cells(self.counts, self.sums, self.rows)
        count = int(stratum_of_cell.max()) + 1
        answers = np.bincount(stratum_of_cell, self.counts, count).astype(np.int64)
        means = np.bincount(stratum_of_cell, self.sums, count) / answers
        drawn = allocate(answers, deviations(means), self.rows)
        # Of each stratum, the lowest keys.
        stratum = stratum_of_cell[self._cells]
        order = np.lexsort((self._keys, stratum))
        rank = consecutive(0, np.bincount(stratum, minlength=count))
        inside = rank < drawn[stratum[order]]
        order, rank = order[inside], rank[inside]
        # A stratum's answers come at equal distances.
        turn = (rank + 0.5) / drawn[stratum[order]]
        order = order[np.lexsort((self._keys[order], turn))]
        bounds = np.searchsorted(stratum_of_cell, np.arange(count + 1)) / CELLS
        strata = [
            Stratum(float(low), float(high), int(number), float(mean), int(taken))
            for low, high, number, mean, taken in zip(
                bounds, bounds[1:], answers, means, drawn, strict=False
            )
        ]
        return strata, self._places[order], stratum[order]


def deviations(probabilities: np.ndarray) -> np.ndarray:
    """Return guesses of the standard deviation of rightness, sqrt(p (1 - p)), at least 0.2."""
    return np.maximum(np.sqrt(probabilities * (1 - probabilities)), _LEAST_DEVIATION)


def group_cells(counts: np.ndarray, sums: np.ndarray, rows: int) -> np.ndarray:
    """Return the stratum of each cell, from 0, ascending, each with at least one answer.

    Strata are cut where the cumulated product of answers and deviation passes equal shares, so that
    the allocation gives each about as many rows.

    counts, sums  answers of each cell, and the sum of their probabilities
    rows          size of the sample
    """
    wanted = max(1, min(_MOST_STRATA, rows // _ROWS_PER_STRATUM))
    means = np.divide(sums, counts, out=np.zeros(len(sums)), where=counts > 0)
    shares = counts * deviations(means)
    # The middle of a cell decides; empty cells belong to the stratum before them.
    middles = (np.cumsum(shares) - shares / 2) / shares.sum()
    stratum = np.where(counts > 0, np.minimum((middles * wanted).astype(np.int64), wanted - 1), 0)
    stratum = np.maximum.accumulate(stratum)
    _, numbered = np.unique(stratum, return_inverse=True)
    # Empty cells before the first answer made no stratum of their own.
    first = int(np.flatnonzero(counts)[0])
    return np.maximum(numbered - numbered[first], 0)


def allocate(answers: np.ndarray, deviation: np.ndarray, rows: int) -> np.ndarray:
    """Return how many rows each stratum gets, int64 [strata]: two or all, then the best.

    Each further row goes where it lowers the variance of the estimate most, which is Neyman's
    allocation in whole numbers (Wright, 2012, "The Equivalence of Neyman Optimum Allocation for
    Sampling and Equal Proportions for Apportioning the U.S. House of Representatives", The American
    Statistician).

    answers    int64 [strata]
    deviation  float [strata], guessed standard deviation of rightness
    rows       rows to give; at most all answers are drawn
    """
    drawn = np.minimum(answers, 2)
    for _ in range(int(min(rows, answers.sum()) - drawn.sum())):
        gain = answers * deviation / np.sqrt(drawn * (drawn + 1))
        drawn[np.argmax(np.where(drawn < answers, gain, -1.0))] += 1
    return drawn
