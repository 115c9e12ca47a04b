"""Distinct spans: the best spans of a passage that share no token with each other.

The greedy choice: the best span; then the best of those that share no token with it; and so on.
Ties go to the lowest start, then to the shortest span. A list of the n best spans is not enough to
choose from, because most of its spans overlap the best one. Nor is a greedy choice per window: a
span of the neighbouring window can exclude a window's choice, which frees others. So the logits of
the windows are kept on the host, and each round decodes the windows again whose best span shares a
token with the last choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from model.reading.batching import Batch, Pending, plan_batches
from model.reading.posterior import (
    Candidates,
    WindowSpans,
    best_candidates,
    merge_windows,
    posterior,
)
from model.reading.spans import ValidSpans, decode_windows
from model.reading.tokenizer import consecutive
from model.reading.windows import Windows

_TOKENS_AT_ONCE = 2**18
"""Padded tokens of windows that are decoded again together: bounds the memory for it."""

_ROUNDING = 1e-4
"""More than the error of a sum of probabilities, whose normaliser is a float32."""


@dataclass(slots=True)
class KeptLogits:
    """The logits of the context tokens of every window, on the host: 8 bytes a token.

    start, end  float32 [tokens of all windows], window by window
    bounds      int64 [windows + 1]: the tokens of window w are bounds[w] to bounds[w + 1]
    """

    windows: Windows
    bounds: np.ndarray = field(init=False)
    start: np.ndarray = field(init=False)
    end: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        tokens = self.windows.stop - self.windows.start
        self.bounds = np.append(0, np.cumsum(tokens, dtype=np.int64))
        self.start, self.end = np.full((2, int(self.bounds[-1])), np.nan, np.float32)

    def keep(
        self,
        batch: Batch,
        logits: tuple[torch.Tensor, torch.Tensor],
        chosen: np.ndarray,
        pending: Pending,
    ) -> None:
        """Add the copies of a batch's logits to `pending`; arguments as in `Observer.take`."""
        tokens = self.bounds[chosen + 1] - self.bounds[chosen]
        at = consecutive(self.bounds[chosen], tokens)
        # The number of tokens comes from the host, so that the device is not waited for.
        held = batch.context_stop - batch.context_start
        row = torch.repeat_interleave(held, output_size=len(at))
        before = (held.cumsum(0) - held)[row]
        column = torch.arange(len(at), device=row.device) - before + batch.context_start[row]
        pending.put(self.start, at, logits[0][row, column])
        pending.put(self.end, at, logits[1][row, column])


def distinct_spans(
    windows: Windows,
    logits: KeptLogits,
    spans: WindowSpans,
    longest: np.ndarray | None,
    *,
    wanted: int,
    least: float | None,
    max_answer_length: int,
    temperature: float,
) -> Candidates:
    """Return the distinct spans of each pair, best first.

    spans    the decoded spans of the windows, at least the best of each
    longest  int [pairs], the longest answer of each pair, at most `max_answer_length`; None if that
             is the limit of every pair
    wanted   how many are returned, whatever their probability
    least    all of at least this probability are returned too, unless it is None; both are compared
             in float32, as columns have them

    Pairs of which not all logits are finite have none.
    """
    pairs = len(windows.pair_passage)
    rounds: list[Candidates] = []
    merged = merge_windows(
        spans, windows.pair, windows.index, pairs, n_best=1, temperature=temperature
    )
    if longest is None:
        longest = np.full(pairs, max_answer_length)
    best = _first(spans)
    taken = _Taken(windows)
    alive = merged.finite & (merged.found > 0)
    threshold = np.float32(np.inf if least is None else least)
    rest = 1.0 - np.nan_to_num(merged.null_probability)
    while alive.any():
        # The best span of each pair, of those that share no token with the earlier choices.
        held = np.flatnonzero(alive[windows.pair])
        of_held = _first(best, held)
        choice = best_candidates(
            of_held, windows.pair[held], windows.index[held], pairs, 1, temperature
        )
        probability = posterior(choice, merged.log_normaliser, temperature)[:, 0]
        alive = choice.found > 0
        if len(rounds) >= wanted:
            alive &= probability.astype(np.float32) >= threshold
        rounds.append(_only(choice, alive))

        # A pair continues while more spans are wanted, or the rest of its mass is enough for one.
        rest -= probability
        if len(rounds) >= wanted:
            alive &= rest + _ROUNDING >= threshold
        taken.add(choice, alive)
        first, last = choice.start[windows.pair, 0], choice.end[windows.pair, 0]
        shares = (best.start[:, 0] <= last) & (best.end[:, 0] >= first)
        again = np.flatnonzero(alive[windows.pair] & shares & (best.start_logit[:, 0] > -np.inf))
        for part in plan_batches((windows.stop - windows.start)[again], _TOKENS_AT_ONCE):
            _decode_again(best, again[part], windows, logits, taken, longest)
    return _joined(rounds, pairs)


class _Taken:
    """Which tokens of each pair's passage are in a chosen span."""

    def __init__(self, windows: Windows):
        tokens = windows.passages.lengths[windows.pair_passage]
        self.bounds = np.append(0, np.cumsum(tokens, dtype=np.int64))
        self.tokens = np.zeros(int(self.bounds[-1]), bool)

    def add(self, choice: Candidates, alive: np.ndarray) -> None:
        """Mark the tokens of the one candidate of each pair that is `alive`, bool [pairs]."""
        pair = np.flatnonzero(alive)
        start, end = choice.start[pair, 0], choice.end[pair, 0]
        self.tokens[consecutive(self.bounds[pair] + start, end - start + 1)] = True


def _first(spans: WindowSpans, windows: np.ndarray | slice = slice(None)) -> WindowSpans:
    """Return a copy of the first span of some windows."""
    return WindowSpans(
        start=spans.start[windows, :1].copy(),
        end=spans.end[windows, :1].copy(),
        start_logit=spans.start_logit[windows, :1].copy(),
        end_logit=spans.end_logit[windows, :1].copy(),
        log_mass=spans.log_mass[windows],
        null_score=spans.null_score[windows],
        finite=spans.finite[windows],
        log_prior=None if spans.log_prior is None else spans.log_prior[windows],
    )


def _only(choice: Candidates, kept: np.ndarray) -> Candidates:
    """Return the candidates of the pairs that are `kept`, bool [pairs], and none of the others."""
    return replace(
        choice,
        start_logit=np.where(kept[:, None], choice.start_logit, -np.inf),
        end_logit=np.where(kept[:, None], choice.end_logit, -np.inf),
        found=np.where(kept, choice.found, 0),
    )


def _joined(rounds: list[Candidates], pairs: int) -> Candidates:
    """Return the candidates of all rounds; each round has at most one of each pair."""
    if not rounds:
        empty, logit = np.zeros((pairs, 0), np.int64), np.zeros((pairs, 0), np.float32)
        window_index, log_prior = np.zeros((pairs, 0), np.int32), np.zeros((pairs, 0))
        found = np.zeros(pairs, np.int64)
        return Candidates(empty, empty, logit, logit, window_index, log_prior, found)
    return Candidates(
        start=np.concatenate([each.start for each in rounds], 1),
        end=np.concatenate([each.end for each in rounds], 1),
        start_logit=np.concatenate([each.start_logit for each in rounds], 1),
        end_logit=np.concatenate([each.end_logit for each in rounds], 1),
        window_index=np.concatenate([each.window_index for each in rounds], 1),
        log_prior=np.concatenate([each.log_prior for each in rounds], 1),
        found=np.sum([each.found for each in rounds], 0),
    )


def _decode_again(
    best: WindowSpans,
    chosen: np.ndarray,
    windows: Windows,
    logits: KeptLogits,
    taken: _Taken,
    longest: np.ndarray,
) -> None:
    """Set the best span of the windows `chosen` to the best that holds no taken token."""
    start, pair = windows.start[chosen].astype(np.int64), windows.pair[chosen]
    tokens = windows.stop[chosen] - start
    in_passages = consecutive(windows.passages.bounds[windows.pair_passage[pair]] + start, tokens)
    of_pair = consecutive(taken.bounds[pair] + start, tokens)
    in_windows = consecutive(logits.bounds[chosen], tokens)
    position = np.arange(int(tokens.max()))
    inside = position < tokens[:, None]

    def laid_out(values: np.ndarray) -> torch.Tensor:
        """Return the values of the windows' tokens as [B, L], zero beyond them."""
        table = np.zeros(inside.shape, values.dtype)
        table[inside] = values
        return torch.from_numpy(table)

    # A span ends before the next taken token: none starts at one that is taken.
    blocked = torch.where(
        laid_out(taken.tokens[of_pair]), torch.from_numpy(position), len(position)
    )
    free = blocked.flip(1).cummin(1).values.flip(1) - torch.from_numpy(position)
    valid = ValidSpans(
        laid_out(windows.passages.can_start[in_passages]),
        laid_out(windows.passages.can_end[in_passages]),
        torch.from_numpy(windows.owned_low[chosen] - 2 * start),
        torch.from_numpy(windows.owned_high[chosen] - 2 * start),
        max_answer_length=int(longest[pair].max()),
        longest=torch.minimum(free, torch.from_numpy(longest[pair, None].astype(np.int64))),
    )
    with torch.inference_mode():
        first, last, start_logit, end_logit, _ = decode_windows(
            laid_out(logits.start[in_windows]),
            laid_out(logits.end[in_windows]),
            valid,
            n_best=1,
            temperature=1.0,
        )
    best.start[chosen] = first.numpy() + start[:, None]
    best.end[chosen] = last.numpy() + start[:, None]
    best.start_logit[chosen], best.end_logit[chosen] = start_logit.numpy(), end_logit.numpy()
