"""Split readers: the lower layers read a passage once, whatever the number of its questions.

H_q = f([CLS] question [SEP]) and H_p = f(passage [SEP]) are computed apart by layers 1 to k, and
layers k + 1 to n read their concatenation (DeFormer, Cao et al. 2020, arXiv:2005.00697). Positions
of a passage begin at a fixed one, so that H_p is the same for every question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.backends.layers import LayeredNetwork
from model.backends.states import StateCache
from model.reading.batching import Batch, to_device
from model.reading.tokenizer import consecutive

PASSAGE_BYTES, QUESTION_BYTES = 2**28, 2**25
"""Bounds of what is kept of passages and of questions: 256 and 32 MiB."""

_ROW_TOKENS = 128
"""Tokens of a row of several questions."""

_QUESTION, _PASSAGE, _PADDING = 0, 1, 2


def positions_of(batch: Batch, passage_position: int) -> torch.Tensor:
    """Return position embeddings' indices, int64 [B, L]; those of padding are 0.

    The question's count from 0, the passage's from `passage_position`.
    """
    column = torch.arange(batch.input_ids.shape[1])
    begin = batch.context_start[:, None]
    positions = torch.where(column < begin, column, column - begin + passage_position)
    return torch.where(batch.attention, positions, 0)


def read_whole(
    layered: LayeredNetwork, batch: Batch, passage_position: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return start and end logits, float32 [B, L] each: all layers over whole windows.

    A block mask keeps question and passage apart in the lower layers. Differentiable, so that
    trainings use it; it is the reference of the faster ways as well.
    """
    column = torch.arange(batch.input_ids.shape[1])
    part = torch.where(column < batch.context_start[:, None], _QUESTION, _PASSAGE)
    part = torch.where(batch.attention, part, _PADDING)
    positions = positions_of(batch, passage_position)
    ids, types, positions, part, attention = (
        to_device(each, layered.device)
        for each in (batch.input_ids, batch.token_types, positions, part, batch.attention)
    )
    hidden = layered.embed(ids, types, positions)
    hidden = layered.run(layered.lower, hidden, layered.block_mask(hidden, part))
    return layered.logits(layered.run(layered.upper, hidden, layered.key_mask(hidden, attention)))


class SplitNetwork:
    """The fast way to read batches of a split reader, with the results of `read_whole`.

    Lower layers run once per distinct question and once per distinct window of a passage, as long
    as the caches hold what they made of it.

    maskless  whether batches without padding should pass no mask to the attention
    """

    def __init__(self, layered: LayeredNetwork, passage_position: int, maskless: bool):
        self._layered, self._maskless = layered, maskless
        self.passage_position = passage_position
        self._questions = StateCache(QUESTION_BYTES)
        self._passages = StateCache(PASSAGE_BYTES)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and end logits of a batch, float32 [B, L] each, on the network's device.

        Several lanes may call this at once.
        """
        rows = np.arange(len(batch.input_ids))
        middle = batch.context_start.numpy()
        stop = batch.attention.sum(1).numpy()
        questions = _Parts(batch, rows, np.zeros_like(middle), middle)
        passages = _Parts(batch, rows, middle, stop)
        states = self._questions.take(
            questions.keys(), lambda missing: self._read(questions[missing], 0, packed=True)
        ) + self._passages.take(
            passages.keys(),
            lambda missing: self._read(passages[missing], self.passage_position, packed=False),
        )
        hidden = self._joined(states, middle, stop, batch.input_ids.shape[1])
        real = None
        # `attention` is on the host, so that looking at it doesn't wait for a GPU.
        if not (self._maskless and batch.attention.all()):
            real = to_device(batch.attention, self._layered.device)
        mask = self._layered.key_mask(hidden, real)
        return self._layered.logits(self._layered.run(self._layered.upper, hidden, mask))

    def read_whole(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits as `read_whole` of this module computes them."""
        return read_whole(self._layered, batch, self.passage_position)

    def _read(self, parts: _Parts, position: int, packed: bool) -> Sequence[torch.Tensor]:
        """Return the lower layers' output for each part, [tokens, H].

        position  of each part's first token
        packed    whether to put several parts into a row, for little padding. Their attention needs
                  a mask per token, which is slower.
        """
        lengths = parts.stop - parts.start
        row, offset = np.arange(len(lengths)), np.zeros(len(lengths), np.int64)
        if packed:
            row, offset = pack(lengths, max(_ROW_TOKENS, int(lengths.max())))
        width = int((offset + lengths).max())
        at = np.repeat(row, lengths), consecutive(offset, lengths)
        source = np.repeat(parts.row, lengths), consecutive(parts.start, lengths)

        # Lay out the parts; padding has part -1.
        ids, types, positions = np.zeros((3, int(row.max()) + 1, width), np.int64)
        part = np.full(ids.shape, -1, np.int64)
        ids[at] = parts.batch.input_ids.numpy()[source]
        types[at] = parts.batch.token_types.numpy()[source]
        positions[at] = consecutive(position, lengths)
        part[at] = np.repeat(offset, lengths)

        layered = self._layered
        inputs = (
            to_device(torch.from_numpy(each), layered.device) for each in (ids, types, positions)
        )
        hidden = layered.embed(*inputs)
        own = to_device(torch.from_numpy(part), layered.device)
        mask = layered.block_mask(hidden, own) if packed else layered.key_mask(hidden, own == 0)
        hidden = layered.run(layered.lower, hidden, mask)
        tokens = to_device(torch.from_numpy(at[0] * width + at[1]), layered.device)
        return hidden.flatten(0, 1).index_select(0, tokens).split(lengths.tolist())

    def _joined(
        self, states: list[torch.Tensor], middle: np.ndarray, stop: np.ndarray, width: int
    ) -> torch.Tensor:
        """Return the states of questions and passages as rows, [B, L, H].

        states  of the B questions, then of the B passages, [tokens, H] each
        middle  int64 [B], tokens of each question; `stop` int64 [B], of the whole row; `width` is L
        """
        # The index of each position in the concatenated states. Padding takes the first state.
        before = np.cumsum([0, *(len(state) for state in states[:-1])])
        question, passage = before[: len(middle), None], before[len(middle) :, None]
        column = np.arange(width)
        index = np.where(column < middle[:, None], question, passage - middle[:, None]) + column
        index[column >= stop[:, None]] = 0
        chosen = to_device(torch.from_numpy(index.reshape(-1)), self._layered.device)
        return torch.cat(states).index_select(0, chosen).view(len(middle), width, -1)


@dataclass(frozen=True, slots=True)
class _Parts:
    """Slices of the rows of a batch: row `row[k]` from `start[k]` to `stop[k]`, int64 [parts]."""

    batch: Batch
    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def __getitem__(self, chosen: list[int]) -> _Parts:
        return _Parts(self.batch, self.row[chosen], self.start[chosen], self.stop[chosen])

    def keys(self) -> list[bytes]:
        """Return the token ids of each part as bytes."""
        ids = self.batch.input_ids.numpy().astype(np.int32)
        bounds = zip(self.row.tolist(), self.start.tolist(), self.stop.tolist(), strict=True)
        return [ids[row, start:stop].tobytes() for row, start, stop in bounds]


def pack(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Put parts into rows of at most `capacity` tokens; return the row and the offset of each.

    lengths  int64 [parts], none above the capacity; both results are int64 [parts]

    Next fit, the longest first: a row is closed when a part does not fit.
    """
    row, offset = np.zeros_like(lengths), np.zeros_like(lengths)
    rows, used = 0, 0
    for k in np.argsort(-lengths, kind="stable").tolist():
        if used + lengths[k] > capacity:
            rows, used = rows + 1, 0
        row[k], offset[k] = rows, used
        used += lengths[k]
    return row, offset
