"""Slow, obvious answers to what windows, decoding and merging compute."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from model.reading.decoding import Decoding
from model.reading.windows import Windows
from tests.model.fakes import fake_logits


def window_bounds(windows: Windows, pair: int) -> list[tuple[int, int]]:
    """Return [start, stop) of a pair's windows, in order."""
    at = np.flatnonzero(windows.pair == pair)
    return list(zip(windows.start[at].tolist(), windows.stop[at].tolist(), strict=True))


def owner(bounds: list[tuple[int, int]], i: int, j: int) -> int | None:
    """Return the window in which span (i, j) is farthest from the nearer edge.

    The first of equals; None if no window contains the span.
    """
    depths = {
        w: min(i - start, stop - 1 - j)
        for w, (start, stop) in enumerate(bounds)
        if start <= i and j < stop
    }
    return max(depths, key=lambda w: (depths[w], -w)) if depths else None


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    start_logit: float
    end_logit: float
    window: int

    @property
    def score(self) -> float:
        return float(np.float32(self.start_logit) + np.float32(self.end_logit))


def spans_of(
    windows: Windows, pair: int, seed: int, levels: int, max_answer_length: int
) -> list[Span]:
    """Return all admissible spans of a pair with their owners' fake logits, best first."""
    bounds = window_bounds(windows, pair)
    logits = [fake_logits(seed, pair, start, stop - start, levels)[:, 1:] for start, stop in bounds]
    first, last = windows.passages.bounds[pair], windows.passages.bounds[pair + 1]
    can_start, can_end = (
        windows.passages.can_start[first:last],
        windows.passages.can_end[first:last],
    )
    spans = []
    for i in range(last - first):
        for j in range(i, min(i + max_answer_length, last - first)):
            window = owner(bounds, i, j)
            if can_start[i] and can_end[j] and window is not None:
                begin = bounds[window][0]
                a, b = logits[window]
                spans.append(Span(i, j, float(a[i - begin]), float(b[j - begin]), window))
    return sorted(spans, key=lambda span: (-span.score, span.start, span.end))


def distinct_of(spans: list[Span]) -> list[Span]:
    """Return the greedy choice of spans that share no token, from spans sorted best first."""
    chosen: list[Span] = []
    for span in spans:
        if all(span.end < each.start or each.end < span.start for each in chosen):
            chosen.append(span)
    return chosen


def null_score(windows: Windows, pair: int, seed: int, levels: int) -> float:
    """Return the least a_0 + b_0 of a pair's windows."""
    return min(
        float(fake_logits(seed, pair, start, stop - start, levels)[:, 0].sum())
        for start, stop in window_bounds(windows, pair)
    )


def log_normaliser(scores: list[float], temperature: float) -> float:
    """Return the log of the sum of exp(score / T)."""
    return (
        math.log(math.fsum(math.exp(score / temperature) for score in scores))
        if scores
        else -math.inf
    )


def options(
    windows: Windows, pair: int, seed: int, levels: int, decoding: Decoding
) -> tuple[list[Span], float | None]:
    """Return the spans of a pair, best first, and its null score or None."""
    spans = spans_of(windows, pair, seed, levels, decoding.max_answer_length)
    return spans, null_score(windows, pair, seed, levels) if decoding.null else None
