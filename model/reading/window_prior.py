"""Window prior: how well each window of a long passage matches the question, before it is read.

The match is log(1 + BM25) (Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25
and Beyond", equation 3.15) with the windows of one passage as the documents. Weighted, it becomes a
part of the posterior (docs/posterior.md); with `--read_windows` only the best matches are read.

BM25 grows with the number of a question's words; the logarithm makes one weight suit short and long
questions. The weight is then an exponent: a window's prior is proportional to (1 + BM25)^weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from model.reading.tokenizer import consecutive
from model.reading.windows import Windows, choose_windows

K1, B = 1.2, 0.75
"""Parameters of BM25: how soon repetitions stop counting, and how much length is penalised."""

_DECIMALS = 6
"""Matches are rounded, because logarithms differ in their last bits from core to core."""

_CELLS_AT_ONCE = 1_000_000
"""Terms x windows that are looked up together: bounds memory."""


def weigh_windows(windows: Windows) -> Windows:
    """Return the windows to read, with their prior, as `limits` of the windows say.

    The most promising windows are those that match the question best, among equals the first.
    """
    limits = windows.limits
    if limits.prior == 0 and limits.read_windows == "all":
        return windows
    match = match_windows(windows)
    if limits.prior > 0:
        best = np.full(len(windows.counts), -np.inf)
        np.maximum.at(best, windows.pair, match)
        windows = replace(windows, log_prior=limits.prior * (match - best[windows.pair]))
    if limits.read_windows == "all":
        return windows
    return choose_windows(windows, _rank(windows, match) < windows.counts_read[windows.pair])


def _rank(windows: Windows, match: np.ndarray) -> np.ndarray:
    """Return the rank of each window in its pair, from 0: best match first, then by position."""
    order = np.lexsort((windows.index, -match, windows.pair))
    rank = np.empty(len(windows), np.int64)
    rank[order] = consecutive(0, windows.counts)
    return rank


def match_windows(windows: Windows) -> np.ndarray:
    """Return how well each window matches the question of its pair, float64 [windows], >= 0.

    Terms are token ids: the distinct ones of the question count. The match is 0 for the only window
    of a pair. Two windows with the same tokens have exactly the same match, on every machine.
    """
    match = np.zeros(len(windows))
    several = np.flatnonzero(windows.counts > 1)
    if not len(several):
        return match
    # The distinct terms of the questions of these pairs, as ranks among all of their terms.
    questions, asked = windows.questions, windows.pair_question[several]
    lengths = np.zeros(len(questions), np.int64)
    lengths[asked] = questions.lengths[asked]
    question = np.repeat(np.arange(len(questions)), lengths)
    tokens = questions.values[consecutive(questions.bounds[:-1], lengths)]
    vocabulary, ids = np.unique(tokens), windows.passages.ids
    rank = np.full(max(vocabulary[-1], ids.max()) + 1, -1)
    rank[vocabulary] = np.arange(len(vocabulary))
    terms = np.unique(question * len(vocabulary) + rank[tokens])
    bounds = np.searchsorted(terms, np.arange(len(questions) + 1) * len(vocabulary))
    terms = terms % len(vocabulary)

    # An inverted index: sorted keys of (term, position among the tokens of all passages).
    term = rank[ids]
    position = np.flatnonzero(term >= 0)
    keys = np.sort(term[position] * len(ids) + position)

    # How often each window contains each term of its question.
    first = np.concatenate([[0], np.cumsum(windows.counts)])
    norm = _length_norm(windows)
    base = windows.passages.bounds[windows.pair_passage[windows.pair]]
    of_pair = np.diff(bounds)[windows.pair_question]
    for pairs in _blocks(several, of_pair[several] * windows.counts[several].astype(np.int64)):
        count = of_pair[pairs]
        asking = np.repeat(pairs, count)  # the pair of each term
        wanted = terms[consecutive(bounds[windows.pair_question[pairs]], count)]
        held = windows.counts[asking].astype(np.int64)
        window = consecutive(first[asking], held)
        key = np.repeat(wanted, held) * len(ids) + base[window]
        begin = np.searchsorted(keys, key + windows.start[window])
        times = np.searchsorted(keys, key + windows.stop[window]) - begin
        # A term that few windows contain says more.
        containing = np.add.reduceat(times > 0, np.cumsum(held) - held, dtype=np.int64)
        rarity = np.log1p((held - containing + 0.5) / (containing + 0.5))
        gain = np.repeat(rarity, held) * times * (K1 + 1) / (times + norm[window])
        match += np.bincount(window, gain, len(match))
    return np.round(np.log1p(match), _DECIMALS)


def _length_norm(windows: Windows) -> np.ndarray:
    """Return k1 (1 - b + b length / mean length of the pair's windows), float64 [windows]."""
    length = (windows.stop - windows.start).astype(np.float64)
    total = np.bincount(windows.pair, length, len(windows.counts))
    mean = total / np.maximum(windows.counts, 1)
    return K1 * (1 - B + B * length / mean[windows.pair])


def _blocks(pairs: np.ndarray, cells: np.ndarray) -> Iterator[np.ndarray]:
    """Yield consecutive pairs of about `_CELLS_AT_ONCE` cells, at least one in each block."""
    block = np.cumsum(cells) // _CELLS_AT_ONCE
    yield from np.split(pairs, np.flatnonzero(np.diff(block)) + 1)
