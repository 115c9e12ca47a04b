"""Span decoding: the exact n-best of each window on the device, and their merge to passages on the host.

Eq. 1.25 of Xiao & Zhu, "Foundations of Large Language Models" (arXiv:2501.09223): the answer is
argmax over j1 <= j2 of log p_beg(j1) + log p_end(j2). The normalisers of both softmaxes are constants of a window, so the
order is that of span_score = start_logit + end_logit, and the posterior of a passage is the share
exp(span_score / T) / (sum over its distinct valid spans of exp(span_score / T) + exp(null_score / T)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad

_INDEX_BITS = 32


@dataclass(frozen=True, slots=True)
class WindowSpans:
    """What decoding leaves of each window; k = n_best. Arrays are numpy once they leave the device.

    start, end              int64 [windows, k], passage tokens, `end` inclusive, best first
    start_logit, end_logit  float32 [windows, k]; -inf where the window owns fewer than k spans
    log_mass                float32 [windows], log of the sum of exp(span_score / T) over the spans that it owns
    null_score              float32 [windows], a_0 + b_0 at the classifier token; nan where the null option is off
    finite                  bool [windows], whether all logits that were read are finite
    """

    start: np.ndarray
    end: np.ndarray
    start_logit: np.ndarray
    end_logit: np.ndarray
    log_mass: np.ndarray
    null_score: np.ndarray
    finite: np.ndarray


@dataclass(frozen=True, slots=True)
class PassageSpans:
    """The decoded answer candidates of each pair; k = n_best.

    start, end              int64 [pairs, k], passage tokens, `end` inclusive, best first
    start_logit, end_logit  float32 [pairs, k]
    probability             float64 [pairs, k], share of the passage's posterior; 0 where there is no such candidate
    window_index            int32 [pairs, k], the owner of each candidate
    found                   int64 [pairs], how many candidates there are
    log_normaliser          float64 [pairs], log of the posterior's denominator
    null_score              float32 [pairs], min over windows; nan where off
    null_probability        float64 [pairs]; nan where off
    finite                  bool [pairs]
    """

    start: np.ndarray
    end: np.ndarray
    start_logit: np.ndarray
    end_logit: np.ndarray
    probability: np.ndarray
    window_index: np.ndarray
    found: np.ndarray
    log_normaliser: np.ndarray
    null_score: np.ndarray
    null_probability: np.ndarray
    finite: np.ndarray

    @property
    def span_score(self) -> np.ndarray:
        """float32 [pairs, k]"""
        return self.start_logit + self.end_logit


def order_keys(scores: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """int64 keys that sort like (score, then lower index): one `topk` breaks ties, which torch's own does not promise.

    scores: float32, index: int64 below 2**32, of one shape.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    return (ordered << _INDEX_BITS) + (2**_INDEX_BITS - 1 - index)


def decode_windows(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    can_start: torch.Tensor,
    can_end: torch.Tensor,
    owned_low: torch.Tensor,
    owned_high: torch.Tensor,
    *,
    max_answer_length: int,
    n_best: int,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The exact n-best of the spans that each window owns, and the log of their mass.

    Logits float32 [B, L], masks bool [B, L], bounds int64 [B]. Equal scores: lowest start, then shortest.
    Returns start, end int64 [B, n_best], their logits float32 [B, n_best] (-inf beyond the last), log_mass float32 [B].
    """
    batch, length = start_logits.shape
    width = min(max_answer_length, length)
    a = torch.where(can_start, start_logits, -torch.inf)
    b = torch.where(can_end, end_logits, -torch.inf)

    # Spans that start at i and are owned have offsets (end - start) in [least, least + count).
    place = torch.arange(length, device=a.device)
    least = (owned_low[:, None] - 2 * place).clamp(min=0, max=width)
    count = (owned_high[:, None] - 2 * place).clamp(min=0, max=width).sub_(least).clamp_(min=0)
    padded = pad(b, (0, width), value=-torch.inf)
    best_end, end_mass = _over_ends(padded, place + least, count, width, temperature)
    log_mass = torch.logsumexp(a / temperature + end_mass, 1)

    # The n best spans start at the n best starts (each by its best span), so only those are searched.
    kept = min(n_best, length)
    best_starts = order_keys(a + best_end, place.expand(batch, length)).topk(kept, 1).indices
    offset = torch.arange(width, device=a.device)
    ends = (best_starts.unsqueeze(2) + offset).flatten(1)
    low = least.gather(1, best_starts).unsqueeze(2)
    inside = (offset >= low) & (offset < low + count.gather(1, best_starts).unsqueeze(2))
    rows = a.gather(1, best_starts).unsqueeze(2) + padded.gather(1, ends).view(batch, kept, width)
    rows = torch.where(inside, rows, -torch.inf).flatten(1)
    index = (best_starts.unsqueeze(2) * width + offset).flatten(1)
    kept = min(n_best, rows.shape[1])
    place_in_rows = order_keys(rows, index).topk(kept, 1).indices
    best = rows.gather(1, place_in_rows)
    index = index.gather(1, place_in_rows)
    start, end = index // width, (index // width + index % width).clamp(max=length - 1)
    found = best > -torch.inf
    start_logit = torch.where(found, start_logits.gather(1, start), -torch.inf)
    end_logit = torch.where(found, end_logits.gather(1, end), -torch.inf)
    short = n_best - kept
    if short:
        start, end = pad(start, (0, short)), pad(end, (0, short))
        start_logit, end_logit = (pad(x, (0, short), value=-torch.inf) for x in (start_logit, end_logit))
    return start, end, start_logit, end_logit, log_mass


def _over_ends(
    end_logits: torch.Tensor, first: torch.Tensor, count: torch.Tensor, width: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of `count` end logits from `first` on, and the log of their mass (sum of exp(logit / T)), for every start.

    end_logits float32 [B, L + width], the last `width` -inf; first, count int64 [B, L], counts up to `width`.
    Returns float32 [B, L] each, -inf where the count is 0. Every count is a sum of powers of two, so each range is
    put together from stretches of 1, 2, 4, ... neighbours: L log(width) work, where the band of all spans would take L width.
    """
    best = torch.full_like(first, -torch.inf, dtype=torch.float32)
    mass = best
    highest = end_logits.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
    stretch_best, stretch_mass = end_logits, (end_logits - highest) / temperature  # near 0 float32 is at its finest
    size = 1
    while True:
        taken = count & size
        at = torch.where(taken > 0, first, stretch_best.shape[1] - 1)  # the last is -inf, which changes neither
        best = torch.maximum(best, stretch_best.gather(1, at))
        mass = torch.logaddexp(mass, stretch_mass.gather(1, at))
        if 2 * size > width:
            return best, mass + highest / temperature
        first = first + taken
        stretch_best = torch.maximum(stretch_best[:, :-size], stretch_best[:, size:])
        stretch_mass = torch.logaddexp(stretch_mass[:, :-size], stretch_mass[:, size:])
        size *= 2


def merge_windows(
    spans: WindowSpans, pair: np.ndarray, index: np.ndarray, pairs: int, *, n_best: int, temperature: float
) -> PassageSpans:
    """Merges the windows of each pair (`pair` ascending, `index` the window's place in it) to its passage.

    Every span is owned by one window, so the n-best of the union are among the windows' n-best, and masses add up.
    """
    held, first = np.unique(pair, return_index=True)
    log_normaliser = np.full(pairs, -np.inf)
    null_score = np.full(pairs, np.nan, np.float32)
    finite = np.zeros(pairs, bool)
    start, end = np.zeros((pairs, n_best), np.int64), np.zeros((pairs, n_best), np.int64)
    start_logit = np.full((pairs, n_best), -np.inf, np.float32)
    end_logit = np.full((pairs, n_best), -np.inf, np.float32)
    window_index = np.zeros((pairs, n_best), np.int32)
    found = np.zeros(pairs, np.int64)
    if len(held):
        with np.errstate(invalid="ignore"):  # logits that are not finite: `finite` tells
            log_normaliser[held] = np.logaddexp.reduceat(spans.log_mass.astype(np.float64), first)
        null_score[held] = np.minimum.reduceat(spans.null_score, first)
        finite[held] = np.logical_and.reduceat(spans.finite, first)

        window, rank = np.nonzero(np.isfinite(spans.start_logit + spans.end_logit))
        s, e = spans.start[window, rank], spans.end[window, rank]
        score = spans.start_logit[window, rank] + spans.end_logit[window, rank]
        order = np.lexsort((e, s, -score, pair[window]))
        owner = pair[window[order]]
        place = np.arange(len(order)) - np.searchsorted(owner, owner)
        chosen = place < n_best
        order, to = order[chosen], (owner[chosen], place[chosen])
        start[to], end[to] = s[order], e[order]
        start_logit[to] = spans.start_logit[window, rank][order]
        end_logit[to] = spans.end_logit[window, rank][order]
        window_index[to] = index[window[order]]
        np.add.at(found, to[0], 1)
    null_term = np.where(np.isnan(null_score), -np.inf, null_score.astype(np.float64) / temperature)
    with np.errstate(invalid="ignore"):
        log_normaliser = np.logaddexp(log_normaliser, null_term)
        scaled = (start_logit + end_logit).astype(np.float64) / temperature
        probability = np.where(np.isfinite(scaled), np.exp(scaled - log_normaliser[:, None]), 0.0)
        null_probability = np.where(np.isnan(null_score), np.nan, np.exp(null_term - log_normaliser))
    return PassageSpans(
        start=start,
        end=end,
        start_logit=start_logit,
        end_logit=end_logit,
        probability=probability,
        window_index=window_index,
        found=found,
        log_normaliser=log_normaliser,
        null_score=null_score,
        null_probability=null_probability,
        finite=finite,
    )
