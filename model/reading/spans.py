"""Span decoding on the device: the exact n-best spans of each window, and the mass of all.

Eq. 1.25 of Xiao & Zhu, "Foundations of Large Language Models" (arXiv:2501.09223): the answer is
argmax over j1 <= j2 of log p_beg(j1) + log p_end(j2). The normalisers of both softmaxes are
constant within a window, so spans are ordered by span_score = start_logit + end_logit.
`model.reading.posterior` merges windows to passages.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import pad

_INDEX_BITS = 32
"""Low bits of an order key that hold the index; the score has the high ones."""

_EXCLUDED = -1e30
"""The logit of excluded positions where gradients are needed."""


class ValidSpans(NamedTuple):
    """The spans that each window of a batch may give as answers; B windows, L positions.

    can_start, can_end     bool [B, L], the positions where a span may start and end
    owned_low, owned_high  int64 [B], a window owns the spans with owned_low <= start + end <
                           owned_high (see `model.reading.windows`)
    max_answer_length      tokens of the longest span
    longest                int64 [B, 1] or [B, L], the same for each window or for each position of
                           the start, if they differ: at most `max_answer_length`
    """

    can_start: torch.Tensor
    can_end: torch.Tensor
    owned_low: torch.Tensor
    owned_high: torch.Tensor
    max_answer_length: int
    longest: torch.Tensor | None = None


def order_keys(scores: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return distinct int64 keys that sort by score, and among equal scores by the lower index.

    With them `topk` is deterministic; torch promises nothing about the order of equal values.
    scores float32 without nan, index int64 in [0, 2**32), both of the same shape.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    # Floats sort like their bits read as integers, except that negative ones sort backwards.
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    return (ordered << _INDEX_BITS) + (2**_INDEX_BITS - 1 - index)


def decode_windows(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    valid: ValidSpans,
    *,
    n_best: int,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Decode the exact n-best of the valid spans of each window, and the log of the mass of all.

    B windows, L positions. Logits are float32 [B, L]. Among equal scores the lowest start comes
    first, then the shortest.

    Returns start and end, int64 [B, n_best], `end` inclusive; their logits, float32 [B, n_best],
    -inf beyond the last span; and log_mass, float32 [B], log of the sum of exp(score / T).
    """
    batch, length = start_logits.shape
    width = min(valid.max_answer_length, length)
    a = torch.where(valid.can_start, start_logits, -torch.inf)
    b = torch.where(valid.can_end, end_logits, -torch.inf)

    position = torch.arange(length, device=a.device)
    least, count = _owned_offsets(valid, length, width)
    padded = pad(b, (0, width), value=-torch.inf)
    best_end, end_mass = _over_ends(padded, position + least, count, width, temperature)
    log_mass = torch.logsumexp(a / temperature + end_mass, 1)

    # The n best spans begin at the n best starts, ranked by the best span of each: search only
    # those.
    kept = min(n_best, length)
    best_starts = order_keys(a + best_end, position.expand(batch, length)).topk(kept, 1).indices
    best, start, end = _best_spans(a, padded, best_starts, least, count, n_best)
    found = best > -torch.inf
    start_logit = torch.where(found, start_logits.gather(1, start), -torch.inf)
    end_logit = torch.where(found, end_logits.gather(1, end), -torch.inf)

    # A window may be too short for n_best spans: fill up the columns.
    short = n_best - start.shape[1]
    if short:
        start, end = pad(start, (0, short)), pad(end, (0, short))
        start_logit, end_logit = (
            pad(x, (0, short), value=-torch.inf) for x in (start_logit, end_logit)
        )
    return start, end, start_logit, end_logit, log_mass


def span_log_mass(
    start_logits: torch.Tensor, end_logits: torch.Tensor, valid: ValidSpans
) -> torch.Tensor:
    """Return the log of the sum of exp(score) over the valid spans of each window, [B].

    The sum is that of `decode_windows` at T = 1, but logits may be float64. The result is -inf
    where a window has no valid span. Its gradient is finite everywhere: the probability of each
    start and of each end.
    """
    length = start_logits.shape[1]
    width = min(valid.max_answer_length, length)
    # The gradient of logaddexp(-inf, -inf) is nan, so a finite value stands in for -inf here.
    a = torch.where(valid.can_start, start_logits, _EXCLUDED)
    b = torch.where(valid.can_end, end_logits, _EXCLUDED)
    least, count = _owned_offsets(valid, length, width)
    first = torch.arange(length, device=a.device) + least
    _, end_mass = _over_ends(pad(b, (0, width), value=_EXCLUDED), first, count, width, 1.0)
    log_mass = torch.logsumexp(a + end_mass, 1)
    return torch.where(log_mass > _EXCLUDED / 2, log_mass, -torch.inf)


def _owned_offsets(valid: ValidSpans, length: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the range of `end - start` of the owned spans that begin at each position.

    The offsets are [least, least + count), below `width`; both int64 [B, length].
    """
    low, high = valid.owned_low[:, None], valid.owned_high[:, None]
    position = torch.arange(length, device=low.device)
    least = (low - 2 * position).clamp(min=0, max=width)
    end = (high - 2 * position).clamp(min=0, max=width)
    if valid.longest is not None:
        end = torch.minimum(end, valid.longest)
    return least, end.sub_(least).clamp_(min=0)


def _best_spans(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    starts: torch.Tensor,
    least: torch.Tensor,
    count: torch.Tensor,
    n_best: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rank the spans that begin at the given starts; return score, start and end of the best.

    start_logits  float32 [B, L], -inf where no span may start
    end_logits    float32 [B, L + width], -inf where none may end, and the last `width` of them
    starts        int64 [B, K], distinct positions
    least, count  int64 [B, L]: spans from i have offsets (end - start) in [least, least + count)

    All results are [B, min(n_best, K * width)], with a score of -inf beyond the last span.
    """
    length = start_logits.shape[1]
    width = end_logits.shape[1] - length
    offset = torch.arange(width, device=start_logits.device)
    ends = (starts.unsqueeze(2) + offset).flatten(1)
    low = least.gather(1, starts).unsqueeze(2)
    inside = (offset >= low) & (offset < low + count.gather(1, starts).unsqueeze(2))
    end_rows = end_logits.gather(1, ends).view(*starts.shape, width)
    scores = start_logits.gather(1, starts).unsqueeze(2) + end_rows
    scores = torch.where(inside, scores, -torch.inf).flatten(1)

    # `index` encodes (start, offset), so that ties go to the lowest start, then to the shortest.
    index = (starts.unsqueeze(2) * width + offset).flatten(1)
    chosen = order_keys(scores, index).topk(min(n_best, scores.shape[1]), 1).indices
    index = index.gather(1, chosen)
    start = index // width
    end = (start + index % width).clamp(max=length - 1)
    return scores.gather(1, chosen), start, end


def _over_ends(
    end_logits: torch.Tensor,
    first: torch.Tensor,
    count: torch.Tensor,
    width: int,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for every start, the maximum and the log mass of `count` end logits from `first` on.

    end_logits    float [B, L + width], the last `width` of them -inf (or `_EXCLUDED`)
    first, count  int64 [B, L]; counts are at most `width`

    Both results are [B, L], -inf (or `_EXCLUDED`) where the count is 0; the mass is the sum of
    exp(logit / T).

    A count is a sum of powers of two, so each range is a sequence of stretches of 1, 2, 4, ...
    neighbours. That takes O(L log width) operations instead of O(L width) for all spans.
    """
    best = torch.full_like(first, -torch.inf, dtype=end_logits.dtype)
    mass = best
    highest = end_logits.detach().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
    # Subtracting the maximum keeps the largest terms near 0, where float32 is most precise.
    stretch_best, stretch_mass = end_logits, (end_logits - highest) / temperature
    size = 1
    while True:
        taken = count & size
        at = torch.where(taken > 0, first, stretch_best.shape[1] - 1)  # the last is -inf: no effect
        best = torch.maximum(best, stretch_best.gather(1, at))
        mass = torch.logaddexp(mass, stretch_mass.gather(1, at))
        if 2 * size > width:
            return best, mass + highest / temperature
        first = first + taken
        stretch_best = torch.maximum(stretch_best[:, :-size], stretch_best[:, size:])
        stretch_mass = torch.logaddexp(stretch_mass[:, :-size], stretch_mass[:, size:])
        size *= 2
