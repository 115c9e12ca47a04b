"""Gold answers: from characters to tokens of the passage."""

from __future__ import annotations

import numpy as np

from model.tokenizer import Passages


def gold_tokens(
    passages: Passages, passage: np.ndarray, char_start: np.ndarray, char_end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and last token of each gold, int64 [golds] each, `end` inclusive; (-1, -1) where it meets no token.

    A token belongs to a gold iff its trimmed range meets [char_start, char_end).
    passage int [golds]: which passage each gold stands in; char_start, char_end int [golds]: code points.
    """
    first, last = np.full(len(passage), -1, np.int64), np.full(len(passage), -1, np.int64)
    for k, (p, begin, end) in enumerate(zip(passage, char_start, char_end, strict=True)):
        low, high = passages.bounds[p], passages.bounds[p + 1]
        starts, ends = passages.char_start[low:high], passages.char_end[low:high]
        met = np.flatnonzero((ends > begin) & (starts < end) & (ends > starts))
        if len(met):
            first[k], last[k] = met[0], met[-1]
    return first, last
