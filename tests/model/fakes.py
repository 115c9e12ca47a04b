"""Hand-made passages and windows, and a reader whose logits can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from model.reading.batching import Batch
from model.reading.tokenizer import PairFormat, Passages, Ragged, Tokenizer
from model.reading.windows import WindowLimits, Windows, cut_windows

QUESTION_FIRST = PairFormat(
    before=(1,),
    between=(2,),
    after=(2,),
    before_types=(0,),
    between_types=(0,),
    after_types=(1,),
    first_type=0,
    second_type=1,
    question_first=True,
    classifier=0,
    pad_id=0,
)
CONTEXT_FIRST = PairFormat(
    before=(),
    between=(2,),
    after=(2, 1),
    before_types=(),
    between_types=(0,),
    after_types=(1, 2),
    first_type=0,
    second_type=1,
    question_first=False,
    classifier=-1,
    pad_id=0,
)

_FIRST_TOKEN, _FIRST_QUESTION = 100, 100_000
"""Ids of passage tokens count from the first; the question of pair k is `_FIRST_QUESTION + k`."""


def make_passages(
    lengths: Sequence[int],
    can_start: Sequence[bool] | None = None,
    can_end: Sequence[bool] | None = None,
) -> Passages:
    """Make passages of one-letter words, `a a a`: token k has the characters [2k, 2k + 1).

    By default a span may start and end at every token.
    """
    total = sum(lengths)
    place = np.concatenate([np.arange(length) for length in lengths] or [np.zeros(0)]).astype(
        np.int32
    )
    return Passages(
        ids=np.arange(_FIRST_TOKEN, _FIRST_TOKEN + total, dtype=np.int32),
        char_start=2 * place,
        char_end=2 * place + 1,
        can_start=np.ones(total, bool) if can_start is None else np.array(can_start, bool),
        can_end=np.ones(total, bool) if can_end is None else np.array(can_end, bool),
        bounds=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def make_windows(
    lengths: Sequence[int],
    *,
    max_length: int,
    overlap: int,
    question_tokens: Sequence[int] | None = None,
    max_windows: int = 1000,
    pair_format: PairFormat = QUESTION_FIRST,
    can_start: Sequence[bool] | None = None,
    can_end: Sequence[bool] | None = None,
) -> Windows:
    """Make one pair per passage length, each with its own question."""
    asked = question_tokens or [1] * len(lengths)
    questions = Ragged.of([[_FIRST_QUESTION + pair] * tokens for pair, tokens in enumerate(asked)])
    passages = make_passages(lengths, can_start, can_end)
    pairs = np.arange(len(lengths))
    return cut_windows(
        pair_format,
        passages,
        questions,
        pairs,
        pairs,
        WindowLimits(max_length, overlap, max_length, max_windows),
    )


def fake_logits(seed: int, pair: int, start: int, tokens: int, levels: int) -> np.ndarray:
    """Return start and end logits of the window that starts at passage token `start`, null first.

    float32 [2, 1 + tokens].

    Whole numbers of `levels` values (few make ties frequent), or normally distributed if that is 0.
    """
    random = np.random.default_rng([seed, pair, start])
    shape = 2, 1 + tokens
    drawn = (
        random.integers(0, levels, shape) - levels // 2 if levels else random.normal(0, 3, shape)
    )
    return drawn.astype(np.float32)


@dataclass
class FakeReader:
    """A reader of `fake_logits`.

    Logits outside context and classifier are NaN, so that a test notices if they are used.

    spoil   changes the logits of a window (pair, window start, float32 [2, 1 + tokens]) in place
    refuse  is called with each batch and may raise
    shapes  of the batches that were asked for, in order
    most    lanes
    """

    seed: int = 0
    levels: int = 5
    spoil: Callable[[int, int, np.ndarray], None] | None = None
    refuse: Callable[[Batch], None] | None = None
    shapes: list[tuple[int, int]] = field(default_factory=list)
    most: int = 1

    def load(self) -> None:
        """Do nothing."""

    def tokenizer(self) -> Tokenizer:
        raise AssertionError("windows made by hand need no tokenizer")

    def lanes(self) -> int:
        return self.most

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        self.shapes.append(tuple(batch.input_ids.shape))
        if self.refuse:
            self.refuse(batch)
        logits = torch.full((2, *batch.input_ids.shape), torch.nan)
        for row, pair in enumerate(pairs_of(batch)):
            begin, stop = int(batch.context_start[row]), int(batch.context_stop[row])
            start = int(batch.passage_start[row])
            drawn = fake_logits(self.seed, pair, start, stop - begin, self.levels)
            if self.spoil:
                self.spoil(pair, start, drawn)
            logits[:, row, begin:stop] = torch.from_numpy(drawn[:, 1:])
            logits[:, row, int(batch.classifier[row])] = torch.from_numpy(drawn[:, 0])
        return logits[0], logits[1]


def pairs_of(batch: Batch) -> list[int]:
    """Return the pair of each row of a batch of `make_windows`."""
    return (batch.input_ids.max(1).values - _FIRST_QUESTION).tolist()
