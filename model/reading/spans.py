"""Span decoding: exact n-best of each window on the device, merged to passages on the host.

Eq. 1.25 of Xiao & Zhu, "Foundations of Large Language Models" (arXiv:2501.09223): the answer is
argmax over j1 <= j2 of log p_beg(j1) + log p_end(j2). The normalisers of both softmaxes are
constant within a window, so spans are ordered by span_score = start_logit + end_logit. The
posterior of a span, given its passage, is exp(span_score / T) / (sum over the passage's valid spans
of exp(span_score / T) + exp(null_score / T)). A window prior moves mass between the windows of a
passage (see `merge_windows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
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


@dataclass(frozen=True, slots=True)
class Candidates:
    """Some of the spans of each pair, best first; k = the most of any pair.

    start, end              int64 [pairs, k], passage tokens, `end` inclusive
    start_logit, end_logit  float32 [pairs, k]; -inf beyond the last candidate
    window_index            int32 [pairs, k], the window that owns the candidate
    log_prior               float64 [pairs, k], log of that window's prior weight; 0 without a prior
    found                   int64 [pairs], number of candidates, at most k
    """

    start: np.ndarray
    end: np.ndarray
    start_logit: np.ndarray
    end_logit: np.ndarray
    window_index: np.ndarray
    log_prior: np.ndarray
    found: np.ndarray

    @property
    def span_score(self) -> np.ndarray:
        """Return start_logit + end_logit, float32 [pairs, k]; -inf beyond the last candidate."""
        return self.start_logit + self.end_logit


@dataclass(frozen=True, slots=True)
class WindowSpans:
    """The decoded spans of each window; k = n_best.

    start, end              int64 [windows, k], passage tokens, `end` inclusive, best first
    start_logit, end_logit  float32 [windows, k]; -inf where the window owns fewer than k spans
    log_mass                float32 [windows], log of the sum of exp(span_score / T) over the spans
                            that the window owns
    null_score              float32 [windows], start logit + end logit at the classifier token; nan
                            if the null option is off
    finite                  bool [windows], whether all logits that decoding used are finite
    log_prior               float64 [windows], log of the window's prior weight; None without a
                            prior (`model.reading.window_prior`)
    distinct                of each pair the spans that share no token (`model.reading.distinct`);
                            None if no setting asks for them
    """

    start: np.ndarray
    end: np.ndarray
    start_logit: np.ndarray
    end_logit: np.ndarray
    log_mass: np.ndarray
    null_score: np.ndarray
    finite: np.ndarray
    log_prior: np.ndarray | None = None
    distinct: Candidates | None = None


@dataclass(frozen=True, slots=True)
class PassageSpans(Candidates):
    """The answer candidates of each pair in its posterior; k = the most of any pair.

    probability       float64 [pairs, k], posterior of the candidate; 0 beyond the last one
    log_normaliser    float64 [pairs]; the posterior of a span is
                      exp(span_score / T + log_prior - log_normaliser)
    null_score        float32 [pairs], minimum over the windows; nan if the null option is off
    null_probability  float64 [pairs], posterior of no answer; nan if the null option is off
    finite            bool [pairs], whether all of the pair's windows are finite
    distinct          all distinct spans that were found, in the same posterior; None if no setting
                      asks for them
    """

    probability: np.ndarray
    log_normaliser: np.ndarray
    null_score: np.ndarray
    null_probability: np.ndarray
    finite: np.ndarray
    distinct: PassageSpans | None = None

    @classmethod
    def joined(cls, parts: Sequence[PassageSpans]) -> PassageSpans:
        """Concatenate the candidates of several lists of pairs; there must be at least one."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            columns = [getattr(part, field.name) for part in parts]
            values[field.name] = None if field.name == "distinct" else np.concatenate(columns)
        distinct = [part.distinct for part in parts if part.distinct is not None]
        if distinct:
            most = max(part.start.shape[1] for part in distinct)
            values["distinct"] = cls.joined([part.resized(most) for part in distinct])
        return cls(**values)

    def resized(self, most: int) -> PassageSpans:
        """Return the first `most` candidates of each pair, in columns for as many."""
        short = max(0, most - self.start.shape[1])

        def columns(values: np.ndarray, fill: float = 0) -> np.ndarray:
            return np.pad(values[:, :most], ((0, 0), (0, short)), constant_values=fill)

        return replace(
            self,
            start=columns(self.start),
            end=columns(self.end),
            start_logit=columns(self.start_logit, -np.inf),
            end_logit=columns(self.end_logit, -np.inf),
            window_index=columns(self.window_index),
            log_prior=columns(self.log_prior),
            found=np.minimum(self.found, most),
            probability=columns(self.probability),
        )


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


def merge_windows(
    spans: WindowSpans,
    pair: np.ndarray,
    index: np.ndarray,
    pairs: int,
    *,
    n_best: int,
    temperature: float,
) -> PassageSpans:
    """Merge the windows of each pair to its passage.

    pair   int [windows], ascending: which pair the window belongs to
    index  int [windows]: the window's index within its pair
    pairs  number of pairs; one without windows gets no candidates

    One window owns each span. Therefore the n-best of a passage are among the n-best of its
    windows, and its mass is the sum of theirs.

    The prior says which window has the answer, not whether there is one: it changes the shares that
    windows have of the mass of all spans, but neither this mass nor the posterior of no answer. So
    it changes nothing in a passage of one window.
    """
    held, first = np.unique(pair, return_index=True)
    log_mass = np.full(pairs, -np.inf)
    weighted = np.full(pairs, -np.inf)
    null_score = np.full(pairs, np.nan, np.float32)
    finite = np.zeros(pairs, bool)
    if len(held):
        mass = spans.log_mass.astype(np.float64)
        with np.errstate(invalid="ignore"):  # `finite` reports logits that are not
            log_mass[held] = np.logaddexp.reduceat(mass, first)
            if spans.log_prior is not None:
                weighted[held] = np.logaddexp.reduceat(mass + spans.log_prior, first)
        null_score[held] = np.minimum.reduceat(spans.null_score, first)
        finite[held] = np.logical_and.reduceat(spans.finite, first)
    best = best_candidates(spans, pair, index, pairs, n_best, temperature)

    # The null option, where it is on, is one more term of the posterior's denominator.
    null_term = np.where(np.isnan(null_score), -np.inf, null_score.astype(np.float64) / temperature)
    with np.errstate(invalid="ignore"):
        log_normaliser = np.logaddexp(log_mass, null_term)
        null_probability = np.where(
            np.isnan(null_score), np.nan, np.exp(null_term - log_normaliser)
        )
        # The weighted mass of all spans takes the place of the mass that they have.
        if spans.log_prior is not None:
            log_normaliser += np.where(np.isfinite(log_mass), weighted - log_mass, 0.0)
    return PassageSpans(
        **_fields(best),
        probability=posterior(best, log_normaliser, temperature),
        log_normaliser=log_normaliser,
        null_score=null_score,
        null_probability=null_probability,
        finite=finite,
    )


def posterior(candidates: Candidates, log_normaliser: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probability of each candidate, float64 [pairs, k]; 0 beyond the last one."""
    with np.errstate(invalid="ignore"):
        scaled = candidates.span_score.astype(np.float64) / temperature + candidates.log_prior
        return np.where(np.isfinite(scaled), np.exp(scaled - log_normaliser[:, None]), 0.0)


def with_candidates(
    spans: PassageSpans, candidates: Candidates, temperature: float
) -> PassageSpans:
    """Return other candidates in the same posterior."""
    probability = posterior(candidates, spans.log_normaliser, temperature)
    return replace(spans, **_fields(candidates), probability=probability)


def by_place(spans: PassageSpans, least: float) -> PassageSpans:
    """Return the candidates of at least a probability, in the order of their starts.

    least  compared in float32, as columns have probabilities
    """
    enough = spans.probability.astype(np.float32) >= np.float32(least)
    order = np.argsort(np.where(enough, spans.start, np.iinfo(np.int64).max), 1, kind="stable")
    ordered: dict[str, Any] = {
        name: np.take_along_axis(getattr(spans, name), order, 1)
        for name in ("start", "end", "start_logit", "end_logit", "window_index", "probability")
    }
    return replace(spans, **ordered, found=enough.sum(1))


def best_candidates(
    spans: WindowSpans,
    pair: np.ndarray,
    index: np.ndarray,
    pairs: int,
    n_best: int,
    temperature: float,
) -> Candidates:
    """Return the n best candidates of each pair's windows. Arguments as in `merge_windows`."""
    shape = pairs, n_best
    start, end = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    start_logit = np.full(shape, -np.inf, np.float32)
    end_logit = np.full(shape, -np.inf, np.float32)
    window_index, log_prior = np.zeros(shape, np.int32), np.zeros(shape)
    found = np.zeros(pairs, np.int64)

    # Sort all candidates by pair, score, start and end; keep the first `n_best` of each pair.
    window, rank = np.nonzero(np.isfinite(spans.start_logit + spans.end_logit))
    s, e = spans.start[window, rank], spans.end[window, rank]
    score = spans.start_logit[window, rank] + spans.end_logit[window, rank]
    if spans.log_prior is not None:
        score = score.astype(np.float64) / temperature + spans.log_prior[window]
    order = np.lexsort((e, s, -score, pair[window]))
    owner = pair[window[order]]
    new_rank = np.arange(len(order)) - np.searchsorted(owner, owner)
    chosen = new_rank < n_best
    order, to = order[chosen], (owner[chosen], new_rank[chosen])

    # Move them from [windows, k] to [pairs, k].
    start[to], end[to] = s[order], e[order]
    start_logit[to] = spans.start_logit[window, rank][order]
    end_logit[to] = spans.end_logit[window, rank][order]
    window_index[to] = index[window[order]]
    if spans.log_prior is not None:
        log_prior[to] = spans.log_prior[window[order]]
    np.add.at(found, to[0], 1)
    return Candidates(start, end, start_logit, end_logit, window_index, log_prior, found)


def _fields(candidates: Candidates) -> dict[str, Any]:
    return {each.name: getattr(candidates, each.name) for each in fields(Candidates)}
