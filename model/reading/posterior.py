"""The posterior of a passage: the spans of its windows, merged on the host to one distribution.

The posterior of a span, given its passage, is exp(span_score / T) / (sum over the passage's valid
spans of exp(span_score / T) + exp(null_score / T)). A window prior moves mass between the windows
of a passage (see `merge_windows`). docs/posterior.md says what it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np


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


def by_start(spans: PassageSpans, least: float) -> PassageSpans:
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
    """Return the fields of `Candidates` by name."""
    return {each.name: getattr(candidates, each.name) for each in fields(Candidates)}
