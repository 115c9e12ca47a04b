"""Fit the weight of the window prior on long documents, made by joining passages of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.audit.metrics import grade
from model.reading.decoding import DecodeSpans, Decoding
from model.reading.prediction import predict
from model.reading.reader import Reader
from model.reading.window_prior import match_windows
from model.reading.windows import default_max_question
from model.training.data import make_examples, with_joined_passages

PRIOR_WEIGHTS = np.arange(101) / 10
"""The weights to choose from; they multiply the match, next to the span_score (T = 1)."""

MOST_ROWS = 300
"""Most rows of a half that get a joined passage: each has tens of windows."""


@dataclass(frozen=True, slots=True)
class LongDocuments:
    """The best span of every window of some long documents; W windows.

    row          int [W], ascending: which row the window belongs to, from 0; every row has one
    span_score   float64 [W], of the best span that the window owns; -inf without one
    match        float64 [W], from `match_windows`
    f1           float64 [W], of that span, in [0, 1]
    """

    row: np.ndarray
    span_score: np.ndarray
    match: np.ndarray
    f1: np.ndarray

    def mean_f1(self, weight: float) -> float:
        """Return F1 in per cent over the rows; each has the best span under the prior."""
        value = self.span_score + weight * self.match
        order = np.lexsort((np.arange(len(value)), -value, self.row))
        best = order[np.unique(self.row[order], return_index=True)[1]]
        return 100 * float(self.f1[best].mean())

    def expected_f1(self, weight: float) -> float:
        """Return F1 in per cent of spans drawn by their share of the best ones under the prior."""
        value = self.span_score + weight * self.match
        best = np.full(self.row[-1] + 1, -np.inf)
        np.maximum.at(best, self.row, value)
        share = np.exp(value - best[self.row])
        f1 = np.bincount(self.row, share * self.f1) / np.bincount(self.row, share)
        return 100 * float(f1.mean())


def read_joined(
    reader: Reader,
    rows: list[dict],
    passages: int,
    max_length: int,
    overlap: int,
    batch_tokens: int,
) -> LongDocuments:
    """Run the network over some of the rows, each with a joined passage.

    rows                 answerable ones, at least one
    passages             most passages of `rows` to join, see `with_joined_passages`
    max_length, overlap  of the windows, in tokens
    """
    joined = with_joined_passages(rows, 1.0, passages, seed=0)
    joined = joined[:: -(-len(joined) // MOST_ROWS)]
    max_question = default_max_question(reader.tokenizer().format)
    windows = make_examples(joined, reader.tokenizer(), max_length, overlap, max_question).windows
    observer = DecodeSpans(windows, Decoding(n_best=1))
    predict(reader, windows, batch_tokens, [observer])
    spans = observer.result()
    score = (spans.start_logit + spans.end_logit)[:, 0].astype(np.float64)

    # The text of every window's best span, and its F1.
    base = windows.passages.bounds[windows.pair_passage[windows.pair]]
    begin = windows.passages.char_start[base + spans.start[:, 0]].tolist()
    stop = windows.passages.char_end[base + spans.end[:, 0]].tolist()
    f1 = np.zeros(len(windows))
    for window, pair in enumerate(windows.pair.tolist()):
        if np.isfinite(score[window]):
            row = joined[pair]
            text = row["context"][begin[window] : stop[window]]
            f1[window] = grade(text, row["answers"]["text"])[1]
    return LongDocuments(windows.pair, score, match_windows(windows), f1)


def fit_weight(documents: LongDocuments) -> float:
    """Return the weight with the best expected F1, the lowest of several.

    Unlike F1 of the best span, it is smooth: no single row moves it in steps.
    """
    expected = np.array([documents.expected_f1(weight) for weight in PRIOR_WEIGHTS])
    return float(PRIOR_WEIGHTS[np.argmax(np.round(expected, 6))])
