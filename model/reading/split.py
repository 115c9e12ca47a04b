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
"""Most bytes of states that are kept of passages, and of questions."""

LEAST_SHARE = 0.6
"""Texts that are read together have at least this share of the longest one's tokens."""

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
    as the caches hold what they made of it. Of passages with one question nothing is kept:
    `read_whole` is faster there.

    maskless  whether batches without padding should pass no mask to the attention
    """

    def __init__(self, layered: LayeredNetwork, passage_position: int, maskless: bool):
        self._layered, self._maskless = layered, maskless
        layered.keep_projections()
        self.passage_position = passage_position
        self._questions = StateCache(QUESTION_BYTES)
        self._passages = StateCache(PASSAGE_BYTES)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and end logits of a batch, float32 [B, L] each, on the network's device.

        Several lanes may call this at once. If memory runs out, nothing is kept, so that a smaller
        batch has all of it.
        """
        try:
            return self.read_whole(batch) if batch.asked_once else self._read_apart(batch)
        except torch.OutOfMemoryError:
            self._questions.forget()
            self._passages.forget()
            raise

    def _read_apart(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        rows = np.arange(len(batch.input_ids))
        middle = batch.context_start.numpy()
        stop = batch.attention.sum(1).numpy()
        questions = self._states(_Parts(batch, rows, np.zeros_like(middle), middle), 0)
        passages = self._states(_Parts(batch, rows, middle, stop), self.passage_position)
        projected = self._joined(questions, passages, middle, stop, batch.input_ids.shape[1])
        mask = self._key_mask(projected, batch.attention)
        return self._layered.logits(self._layered.run_upper(projected, mask))

    def read_whole(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits as `read_whole` of this module computes them."""
        return read_whole(self._layered, batch, self.passage_position)

    def _states(self, parts: _Parts, position: int) -> _States:
        """Return the states of all parts, from the cache or read now.

        position  of each part's first token
        """
        distinct: dict[bytes, int] = {}
        of_part = np.array([distinct.setdefault(key, len(distinct)) for key in parts.ids()])
        _, first = np.unique(of_part, return_index=True)
        cache = self._passages if position else self._questions
        states = cache.take(
            list(distinct), lambda missing: self._read(parts[first[missing]], position)
        )
        return _States(states, of_part)

    def _read(self, parts: _Parts, position: int) -> list[torch.Tensor]:
        """Return the state of each part, [tokens, 4 H].

        It is the lower layers' output, and what the first upper layer projects it to.
        """
        states: dict[int, torch.Tensor] = {}
        for chosen in of_similar_length(parts.stop - parts.start):
            states.update(zip(chosen, self._read_padded(parts[chosen], position), strict=True))
        return [states[k] for k in range(len(states))]

    def _read_padded(self, parts: _Parts, position: int) -> Sequence[torch.Tensor]:
        """Do as `_read`, with one padded row for each part."""
        lengths = parts.stop - parts.start
        column = np.arange(lengths.max())
        real = column < lengths[:, None]
        source = np.repeat(parts.row, lengths), consecutive(parts.start, lengths)
        ids, types = np.zeros((2, *real.shape), np.int64)
        ids[real] = parts.batch.input_ids.numpy()[source]
        types[real] = parts.batch.token_types.numpy()[source]
        positions = np.where(real, column + position, 0)

        layered = self._layered
        inputs = (torch.from_numpy(each) for each in (ids, types, positions))
        hidden = layered.embed(*(to_device(each, layered.device) for each in inputs))
        mask = self._key_mask(hidden, torch.from_numpy(real))
        hidden = layered.run(layered.lower, hidden, mask)
        tokens = to_device(torch.from_numpy(np.flatnonzero(real)), layered.device)
        hidden = hidden.flatten(0, 1).index_select(0, tokens)
        return layered.project(hidden).split(lengths.tolist())

    def _key_mask(self, hidden: torch.Tensor, attention: torch.Tensor) -> torch.Tensor | None:
        """Return the mask by which tokens attend to those in `attention`, bool [B, L] on the host.

        There, looking at it doesn't wait for a GPU, whose fastest attention takes no mask.
        """
        if self._maskless and attention.all():
            return self._layered.key_mask(hidden, None)
        return self._layered.key_mask(hidden, to_device(attention, self._layered.device))

    def _joined(
        self,
        questions: _States,
        passages: _States,
        middle: np.ndarray,
        stop: np.ndarray,
        width: int,
    ) -> torch.Tensor:
        """Return the states of questions and passages as rows, [B, L, 4 H].

        middle  int64 [B], tokens of each question; `stop` int64 [B], of the whole row; `width` is L
        """
        states = [*questions.distinct, *passages.distinct]
        begin = np.cumsum([0, *map(len, states)])
        question = begin[questions.of_part][:, None]
        passage = begin[len(questions.distinct) + passages.of_part][:, None]
        column, middle, stop = np.arange(width), middle[:, None], stop[:, None]
        index = np.where(column < middle, question + column, passage + column - middle)
        # Padding takes the row's own first state: one that is not finite must not leave its row.
        index = np.where(column < stop, index, question)
        chosen = to_device(torch.from_numpy(index.reshape(-1)), self._layered.device)
        return torch.cat(states).index_select(0, chosen).view(len(middle), width, -1)


@dataclass(frozen=True, slots=True)
class _States:
    """States of parts, [tokens, 4 H] each: part k has `distinct[of_part[k]]`, int64 [parts]."""

    distinct: list[torch.Tensor]
    of_part: np.ndarray


@dataclass(frozen=True, slots=True)
class _Parts:
    """Slices of the rows of a batch: row `row[k]` from `start[k]` to `stop[k]`, int64 [parts]."""

    batch: Batch
    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def __getitem__(self, chosen: np.ndarray | list[int]) -> _Parts:
        return _Parts(self.batch, self.row[chosen], self.start[chosen], self.stop[chosen])

    def ids(self) -> list[bytes]:
        """Return the token ids of each part as bytes."""
        ids = self.batch.input_ids.numpy().astype(np.int32)
        bounds = zip(self.row.tolist(), self.start.tolist(), self.stop.tolist(), strict=True)
        return [ids[row, start:stop].tobytes() for row, start, stop in bounds]


def of_similar_length(lengths: np.ndarray) -> list[list[int]]:
    """Group parts so that none is shorter than LEAST_SHARE of the longest of its group.

    lengths  int64 [parts]; the result is a partition of their indices
    """
    groups: list[list[int]] = []
    longest = 0
    for k in np.argsort(-lengths, kind="stable").tolist():
        if not groups or lengths[k] < LEAST_SHARE * longest:
            groups.append([])
            longest = lengths[k]
        groups[-1].append(k)
    return groups
