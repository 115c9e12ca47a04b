"""Batches: context windows of like length, padded together under a budget of padded tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from model.windows import Windows


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows laid out as model inputs; B windows, L = tokens of the longest. Padding is on the right.

    input_ids, token_types     int64 [B, L]
    attention                  bool [B, L], False at padding
    can_start, can_end         bool [B, L], False outside the context
    context_start, context_stop  int64 [B], where the context stands: [start, stop)
    passage_start              int64 [B], the passage token at `context_start`
    owned_low, owned_high      int64 [B], bounds of i + j in batch positions (see `model.windows`)
    classifier                 int64 [B], position of the classifier token, or None if the format has none
    """

    input_ids: torch.Tensor
    token_types: torch.Tensor
    attention: torch.Tensor
    can_start: torch.Tensor
    can_end: torch.Tensor
    context_start: torch.Tensor
    context_stop: torch.Tensor
    passage_start: torch.Tensor
    owned_low: torch.Tensor
    owned_high: torch.Tensor
    classifier: torch.Tensor | None

    @property
    def in_context(self) -> torch.Tensor:
        """bool [B, L]: the positions of context tokens, the support of every loss."""
        place = torch.arange(self.input_ids.shape[1])
        return (place >= self.context_start[:, None]) & (place < self.context_stop[:, None])


def plan_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Groups windows so that (windows x longest) stays within `batch_tokens`; longest first, ties in order.

    A window that is longer than the budget makes a batch of its own. Returns int64 index arrays that partition
    `range(len(lengths))`.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, begin = [], 0
    while begin < len(order):
        held = max(1, batch_tokens // int(lengths[order[begin]]))
        batches.append(order[begin : begin + held])
        begin += held
    return batches


def assemble(windows: Windows, chosen: np.ndarray) -> Batch:
    """Lays the chosen windows out as one batch."""
    lengths = windows.lengths[chosen]
    shape = len(chosen), int(lengths.max())
    passages, pair_format = windows.passages, windows.format
    input_ids = np.full(shape, pair_format.pad_id, np.int64)
    token_types = np.zeros(shape, np.int64)
    can_start, can_end = np.zeros(shape, bool), np.zeros(shape, bool)
    context_start, context_stop = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), np.int64)
    pair = windows.pair[chosen]
    starts, stops = windows.start[chosen], windows.stop[chosen]
    for row, (question, passage) in enumerate(zip(windows.pair_question[pair], windows.pair_passage[pair], strict=True)):
        head, tail = pair_format.around(windows.questions[question])
        first = passages.bounds[passage] + starts[row]
        last = passages.bounds[passage] + stops[row]
        begin, end = len(head), len(head) + int(last - first)
        input_ids[row, :begin] = head
        input_ids[row, begin:end] = passages.ids[first:last]
        input_ids[row, end : end + len(tail)] = tail
        head_types, tail_types = pair_format.types_around(len(windows.questions[question]))
        token_types[row, :begin] = head_types
        token_types[row, begin:end] = pair_format.context_type
        token_types[row, end : end + len(tail)] = tail_types
        can_start[row, begin:end] = passages.can_start[first:last]
        can_end[row, begin:end] = passages.can_end[first:last]
        context_start[row], context_stop[row] = begin, end
    shift = 2 * (context_start - starts)
    classifier = None
    if pair_format.classifier is not None:
        classifier = torch.from_numpy(np.where(pair_format.classifier >= 0, 0, lengths) + pair_format.classifier)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        token_types=torch.from_numpy(token_types),
        attention=torch.from_numpy(np.arange(shape[1]) < lengths[:, None]),
        can_start=torch.from_numpy(can_start),
        can_end=torch.from_numpy(can_end),
        context_start=torch.from_numpy(context_start),
        context_stop=torch.from_numpy(context_stop),
        passage_start=torch.from_numpy(starts.astype(np.int64)),
        owned_low=torch.from_numpy(windows.owned_low[chosen] + shift),
        owned_high=torch.from_numpy(windows.owned_high[chosen] + shift),
        classifier=classifier,
    )
