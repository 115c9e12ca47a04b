"""Read pairs: from tokenized question/passage pairs to the best spans of each passage.

Windows are cut, predicted, decoded and merged in blocks of pairs, so that memory does not grow with
the number of windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from model.reading.decoding import DecodeSpans, Decoding, PairSettings, merge_spans
from model.reading.posterior import PassageSpans
from model.reading.prediction import Observer, Prediction, predict, try_predict
from model.reading.reader import Reader
from model.reading.window_prior import weigh_windows
from model.reading.windows import TokenizedPairs, Windows, windows_of

MOST_WINDOWS = 2**15
"""Most windows of a block that has several pairs."""

MOST_CANDIDATES = 2**20
"""Most candidate spans that the windows of such a block may have."""


def predict_passages(
    reader: Reader,
    windows: Windows,
    decoding: Decoding,
    batch_tokens: int,
    observers: Sequence[Observer[Any]] = (),
) -> tuple[Prediction, PassageSpans]:
    """Run the network over windows, and merge their best spans to those of each pair's passage.

    observers  of the logits, in addition to the one that decodes

    Raises what `predict` raises.
    """
    decode = DecodeSpans(windows, decoding)
    prediction = predict(reader, windows, batch_tokens, [decode, *observers])
    return prediction, merge_spans(decode.result(), windows, decoding)


def blocks(counts: np.ndarray, most: int) -> Iterator[slice]:
    """Divide pairs into blocks of consecutive pairs with at most `most` windows each.

    counts  int [pairs], windows per pair; a pair with more than `most` is a block of its own

    Yields one empty block if there are no pairs.
    """
    begin = windows = 0
    for pair, count in enumerate(counts.tolist()):
        if windows + count > most and pair > begin:
            yield slice(begin, pair)
            begin, windows = pair, 0
        windows += count
    yield slice(begin, len(counts))


def read_pairs(
    reader: Reader,
    pairs: TokenizedPairs,
    decoding: Decoding,
    batch_tokens: int,
    settings: PairSettings | None = None,
    most_windows: int = MOST_WINDOWS,
) -> tuple[Prediction, PassageSpans]:
    """Do as `predict_passages` for all pairs, block by block.

    settings  of each pair, in place of those of `decoding`

    Pairs whose windows all fit into one block have the batches that `predict_passages` makes.

    Raises what `predict` raises, by what became of the windows of all blocks.
    """
    failures: dict[int, tuple[str, str]] = {}
    real_tokens = padded_tokens = 0
    parts = []
    failure: BaseException | None = None
    if settings is not None:
        decoding = settings.largest(decoding)
    most_windows = min(most_windows, MOST_CANDIDATES // decoding.n_best)
    for block in blocks(pairs.counts, most_windows):
        windows = weigh_windows(windows_of(pairs, block))
        longest = None if settings is None else settings.max_answer_length[block]
        decode = DecodeSpans(windows, decoding, longest)
        prediction, error = try_predict(reader, windows, batch_tokens, [decode])
        # The first error: a later block may have none, if its pairs have too many windows.
        failure = failure or error
        # Pairs of a block are numbered from 0.
        for pair, reason in prediction.failures.items():
            failures[block.start + pair] = reason
        real_tokens += prediction.real_tokens
        padded_tokens += prediction.padded_tokens
        parts.append(merge_spans(decode.result(), windows, decoding))
    if failure is not None and not padded_tokens and pairs.counts.sum() > 1:
        raise failure
    spans = PassageSpans.joined(parts)
    if settings is not None:  # every pair was decoded with the largest n_best
        spans = replace(spans, found=np.minimum(spans.found, settings.n_best))
    return Prediction(failures, real_tokens, padded_tokens), spans
