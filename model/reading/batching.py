"""Batches: context windows of similar length, padded together within a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from model.reading.tokenizer import PairFormat, consecutive
from model.reading.windows import Windows

GROUP_TOKENS = 16384
"""Tokens of passages whose windows a split reader reads together, before it takes others.

What it keeps of them in float32 at 1,024 dimensions is `split.PASSAGE_BYTES`.
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows as model inputs, padded on the right; B windows, L = tokens of the longest.

    input_ids, token_types       int64 [B, L]
    attention                    bool [B, L], False at padding
    can_start, can_end           bool [B, L], whether an answer may start or end there; False
                                 outside the context
    context_start, context_stop  int64 [B], positions of the context: [start, stop)
    passage_start                int64 [B], index of the passage token at `context_start`
    owned_low, owned_high        int64 [B], bounds of i + j in batch positions (see
                                 `model.reading.windows`)
    classifier                   int64 [B], position of the classifier token; None if the format
                                 has none
    asked_once                   whether no passage of the batch has another question
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
    asked_once: bool

    @property
    def in_context(self) -> torch.Tensor:
        """Return which positions hold context tokens, bool [B, L]: the support of every loss."""
        position = torch.arange(self.input_ids.shape[1], device=self.context_start.device)
        return (position >= self.context_start[:, None]) & (position < self.context_stop[:, None])

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device (see `to_device`)."""
        return self._each(lambda tensor: to_device(tensor, device))

    def __getitem__(self, rows: slice) -> Batch:
        """Return some of its windows, in the same layout."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        def changed(value: Any) -> Any:
            return change(value) if isinstance(value, torch.Tensor) else value

        return Batch(**{each.name: changed(getattr(self, each.name)) for each in fields(self)})


@dataclass(slots=True)
class Pending:
    """Results of batches on their way from the device; a GPU may still be computing them.

    Copies are queued on the CUDA stream in launch order, so `fetch` waits only for its own batches.
    """

    results: list[tuple[np.ndarray, Any, torch.Tensor]] = field(default_factory=list)
    copied: torch.cuda.Event | None = None

    def put(self, array: np.ndarray, at: Any, result: torch.Tensor) -> None:
        """Start copying `result` to the host; `fetch` will write it to `array[at]`."""
        # A non-blocking copy from a GPU goes to pinned memory.
        self.results.append((array, at, result.to("cpu", non_blocking=True)))
        if result.device.type == "cuda":
            self.copied = torch.cuda.Event(blocking=True)
            self.copied.record(torch.cuda.current_stream(result.device))

    def add(self, more: Pending) -> None:
        """Append the results of later batches."""
        self.results.extend(more.results)
        self.copied = more.copied or self.copied

    def fetch(self) -> None:
        """Wait for the copies and write all results to their arrays. Raises the device's errors."""
        if self.copied is not None:
            self.copied.synchronize()
        for array, at, result in self.results:
            array[at] = result.numpy()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor on a device.

    Copies to a GPU from pinned memory, because a copy from pageable memory waits for all work that
    is queued on the GPU.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def plan_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Group windows so that (windows x tokens of the longest) is at most `batch_tokens`.

    Batches are sorted by length, longest first, ties in the given order. A window above the budget
    gets a batch of its own. Returns int64 index arrays that partition `range(len(lengths))`.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, begin = [], 0
    while begin < len(order):
        # The first window is the longest: it decides how many fit.
        size = max(1, batch_tokens // int(lengths[order[begin]]))
        batches.append(order[begin : begin + size])
        begin += size
    return batches


def plan_windows(windows: Windows, batch_tokens: int) -> list[np.ndarray]:
    """Group all windows into batches as `plan_batches` does.

    For a split reader, batches are planned for one group of passages after the other, so that it
    can keep what it makes of a group until its last batch.
    """
    if windows.format.passage_position is None:
        return plan_batches(windows.lengths, batch_tokens)
    return [
        group[chosen]
        for group in _passage_groups(windows)
        for chosen in plan_batches(windows.lengths[group], batch_tokens)
    ]


def _passage_groups(windows: Windows) -> list[np.ndarray]:
    """Group windows by the slice of a passage that they hold, slices of similar length together.

    Returns int64 index arrays that partition the windows. The distinct slices of a group have
    about GROUP_TOKENS tokens. The last group has the passages that are asked once.
    """
    # A passage has the same slices for all its questions: `index` tells them apart.
    passage = windows.pair_passage[windows.pair].astype(np.int64)
    key = passage * (int(windows.index.max(initial=0)) + 1) + windows.index
    _, first, of_window = np.unique(key, return_index=True, return_inverse=True)
    once = windows.asked_once[windows.pair[first]]
    tokens = (windows.stop - windows.start)[first].astype(np.int64)
    tokens[once] = 0
    order = np.argsort(-tokens, kind="stable")
    group = np.empty_like(tokens)
    group[order] = (np.cumsum(tokens[order]) - 1) // GROUP_TOKENS
    group[once] = group.max(initial=0) + 1
    order = np.argsort(group[of_window], kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[of_window][order])) + 1)


def _special_tokens(
    pair_format: PairFormat,
    in_first: np.ndarray,
    in_second: np.ndarray,
    between: np.ndarray,
    after: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of special tokens, padding elsewhere, and all token types; int64 [B, L] each.

    in_first, in_second  bool [B, L], positions of the two texts
    between, after       int64 [B], positions at which these special tokens begin
    """
    input_ids = np.full(in_first.shape, pair_format.pad_id, np.int64)
    first_type, second_type = np.int64(pair_format.first_type), np.int64(pair_format.second_type)
    token_types = in_first * first_type + in_second * second_type
    for begin, ids, types in (
        (np.zeros_like(between), pair_format.before, pair_format.before_types),
        (between, pair_format.between, pair_format.between_types),
        (after, pair_format.after, pair_format.after_types),
    ):
        at = np.arange(len(between))[:, None], begin[:, None] + np.arange(len(ids))
        input_ids[at], token_types[at] = ids, types
    return input_ids, token_types


def assemble(windows: Windows, chosen: np.ndarray) -> Batch:
    """Lay out the windows `chosen` (int [B], indices) as one batch."""
    pair_format, passages, questions = windows.format, windows.passages, windows.questions
    pair, starts = windows.pair[chosen], windows.start[chosen].astype(np.int64)
    question, passage = windows.pair_question[pair], windows.pair_passage[pair]
    question_tokens, context_tokens = questions.lengths[question], windows.stop[chosen] - starts
    first_tokens, second_tokens = pair_format.in_order(question_tokens, context_tokens)

    # A window is `before` FIRST `between` SECOND `after`: compute where each part begins.
    first = np.full(len(chosen), len(pair_format.before))
    between = first + first_tokens
    second = between + len(pair_format.between)
    after = second + second_tokens
    lengths = after + len(pair_format.after)
    position = np.arange(lengths.max())

    def part(begin: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Return the positions of a part, bool [B, L]."""
        return (position >= begin[:, None]) & (position < (begin + tokens)[:, None])

    in_first, in_second = part(first, first_tokens), part(second, second_tokens)
    in_question, in_context = pair_format.in_order(in_first, in_second)
    _, context_start = pair_format.in_order(first, second)

    # Write special tokens, question and context; what stays is padding.
    input_ids, token_types = _special_tokens(pair_format, in_first, in_second, between, after)
    input_ids[in_question] = questions.values[
        consecutive(questions.bounds[question], question_tokens)
    ]
    tokens = consecutive(passages.bounds[passage] + starts, context_tokens)
    input_ids[in_context] = passages.ids[tokens]
    can_start, can_end = np.zeros_like(in_context), np.zeros_like(in_context)
    can_start[in_context], can_end[in_context] = (
        passages.can_start[tokens],
        passages.can_end[tokens],
    )

    # A batch position is a passage token + (context_start - starts), so sums i + j shift by twice
    # that.
    shift = 2 * (context_start - starts)
    classifier = None
    if pair_format.classifier is not None:
        classifier = torch.from_numpy(
            np.where(pair_format.classifier >= 0, 0, lengths) + pair_format.classifier
        )
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        token_types=torch.from_numpy(token_types),
        attention=torch.from_numpy(position < lengths[:, None]),
        can_start=torch.from_numpy(can_start),
        can_end=torch.from_numpy(can_end),
        context_start=torch.from_numpy(context_start),
        context_stop=torch.from_numpy(context_start + context_tokens),
        passage_start=torch.from_numpy(starts),
        owned_low=torch.from_numpy(windows.owned_low[chosen] + shift),
        owned_high=torch.from_numpy(windows.owned_high[chosen] + shift),
        classifier=classifier,
        asked_once=bool(windows.asked_once[pair].all()),
    )
