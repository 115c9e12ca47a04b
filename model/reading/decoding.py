"""Decoding: from the logits of windows to one answer, or no answer, per question and context."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from model.reading.batching import Batch, Pending, to_device
from model.reading.distinct import KeptLogits, distinct_spans
from model.reading.posterior import PassageSpans, WindowSpans, merge_windows, with_candidates
from model.reading.prediction import Logits
from model.reading.spans import ValidSpans, decode_windows
from model.reading.windows import TokenizedPairs, Windows
from model.settings import ANNOTATE, BOTH, flag, number, one_of, probability, setting, whole


@dataclass(frozen=True, slots=True)
class Decoding:
    """How spans are chosen.

    With `null`, "no answer" is an option. It wins where null_score - best span_score is above
    null_score_diff_threshold. Elsewhere the best span is the answer if its probability is at least
    min_probability.
    """

    n_best: int = setting(5, whole(1, 1000), "candidate answers to keep per row", identity=BOTH)
    max_answer_length: int = setting(
        30, whole(1, 10**4), "longest answer, in tokens", identity=BOTH
    )
    temperature: float = setting(
        1.0, number(0, math.inf), "T of the posterior", identity=BOTH, option=False
    )
    null: bool = setting(
        False,
        one_of(auto=None, on=True, off=False),
        "whether 'no answer' is an option",
        unset="auto: as the checkpoint's config says, else off",
        identity=BOTH,
    )
    null_score_diff_threshold: float = setting(
        0.0,
        number(-1e6, 1e6),
        "predict no answer when null_score - best span_score is above X",
        unset="the checkpoint's, else 0",
        identity=BOTH,
    )
    min_probability: float = setting(
        0.0,
        probability(),
        "hide answers whose probability is below X (their status is below_threshold); "
        "precision:0.9 means the threshold that the checkpoint stores for that precision",
        stages=(ANNOTATE,),
        identity=(ANNOTATE,),
        optional=True,
    )
    distinct: bool = setting(
        False,
        flag(),
        "keep only candidates that share no token with a better one",
        identity=BOTH,
        optional=True,
    )
    all_answers: float | None = setting(
        None,
        number(0.001, 1),
        "write every distinct span of at least this probability, in the column all_answers",
        unset="no such column",
        identity=BOTH,
        optional=True,
    )

    @property
    def thresholds(self) -> Thresholds:
        """Return the thresholds of all pairs."""
        return Thresholds(self.null_score_diff_threshold, self.min_probability)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a best span must pass to be the answer; each a number, or float64 [pairs].

    null_score_diff  no answer where null_score - span_score is above it
    min_probability  below_threshold where the probability is below it; both are compared in
                     float32, as the column `probability` has it
    """

    null_score_diff: float | np.ndarray
    min_probability: float | np.ndarray


@dataclass(frozen=True, slots=True)
class PairSettings:
    """Settings of `Decoding` that differ between the pairs of a question list; all [pairs]."""

    n_best: np.ndarray
    max_answer_length: np.ndarray
    null_score_diff_threshold: np.ndarray
    min_probability: np.ndarray

    @property
    def thresholds(self) -> Thresholds:
        """Return the thresholds of each pair."""
        return Thresholds(self.null_score_diff_threshold, self.min_probability)

    def largest(self, decoding: Decoding) -> Decoding:
        """Return settings that keep what any of the pairs asks for."""
        return replace(
            decoding,
            n_best=int(self.n_best.max(initial=1)),
            max_answer_length=int(self.max_answer_length.max(initial=1)),
        )


class DecodeSpans:
    """The observer that decodes the n-best spans of every window; its result is `WindowSpans`.

    It keeps the logits of all windows if distinct spans are asked for.

    longest  int [pairs], the longest answer of each pair in tokens, at most that of `decoding`;
             None if that is the limit of every pair
    """

    def __init__(self, windows: Windows, decoding: Decoding, longest: np.ndarray | None = None):
        self.windows, self.decoding, self.longest = windows, decoding, longest
        keeps = decoding.distinct or decoding.all_answers is not None
        self.kept = KeptLogits(windows) if keeps else None
        count, n_best = len(windows), decoding.n_best
        self.spans = WindowSpans(
            start=np.zeros((count, n_best), np.int64),
            end=np.zeros((count, n_best), np.int64),
            start_logit=np.full((count, n_best), -np.inf, np.float32),
            end_logit=np.full((count, n_best), -np.inf, np.float32),
            log_mass=np.full(count, -np.inf, np.float32),
            null_score=np.full(count, np.nan, np.float32),
            finite=np.zeros(count, bool),
            log_prior=windows.log_prior,
        )

    def take(self, batch: Batch, logits: Logits, chosen: np.ndarray) -> Pending:
        """Decode one batch on its device."""
        decoding, spans, pending = self.decoding, self.spans, Pending()
        start_logits, end_logits = logits
        valid = ValidSpans(
            batch.can_start,
            batch.can_end,
            batch.owned_low,
            batch.owned_high,
            decoding.max_answer_length,
            self._longest_of(chosen, start_logits.device),
        )
        start, end, start_logit, end_logit, log_mass = decode_windows(
            start_logits,
            end_logits,
            valid,
            n_best=decoding.n_best,
            temperature=decoding.temperature,
        )
        both_finite = torch.isfinite(start_logits) & torch.isfinite(end_logits)
        finite = (both_finite | ~batch.in_context).all(1)
        if decoding.null and batch.classifier is not None:
            at = batch.classifier[:, None]
            null = (start_logits.gather(1, at) + end_logits.gather(1, at)).squeeze(1)
            finite &= torch.isfinite(null)
            pending.put(spans.null_score, chosen, null)
        # Batch positions become passage tokens.
        shift = (batch.passage_start - batch.context_start)[:, None]
        pending.put(spans.start, chosen, start + shift)
        pending.put(spans.end, chosen, end + shift)
        pending.put(spans.start_logit, chosen, start_logit)
        pending.put(spans.end_logit, chosen, end_logit)
        pending.put(spans.log_mass, chosen, log_mass)
        pending.put(spans.finite, chosen, finite)
        if self.kept is not None:
            self.kept.keep(batch, logits, chosen, pending)
        return pending

    def _longest_of(self, chosen: np.ndarray, device: torch.device) -> torch.Tensor | None:
        """Return the longest answers of the windows of a batch, int64 [B, 1]."""
        if self.longest is None:
            return None
        longest = self.longest[self.windows.pair[chosen], None]
        return to_device(torch.from_numpy(longest.astype(np.int64)), device)

    def result(self) -> WindowSpans:
        """Return the decoded spans of all windows; those of failed windows are not `finite`."""
        if self.kept is None:
            return self.spans
        decoding = self.decoding
        distinct = distinct_spans(
            self.windows,
            self.kept,
            self.spans,
            self.longest,
            wanted=decoding.n_best if decoding.distinct else 0,
            least=decoding.all_answers,
            max_answer_length=decoding.max_answer_length,
            temperature=decoding.temperature,
        )
        return replace(self.spans, distinct=distinct)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of each pair.

    no_answer        bool [pairs], whether the null option wins
    below_threshold  bool [pairs], whether it does not, but the best span is too improbable
    problems         row -> (reason, message) of rows whose pair could not be answered
    """

    no_answer: np.ndarray
    below_threshold: np.ndarray
    problems: dict[int, tuple[str, str]]


def merge_spans(spans: WindowSpans, windows: Windows, decoding: Decoding) -> PassageSpans:
    """Merge the windows of each pair to its passage; its candidates are those that are wanted."""
    merged = merge_windows(
        spans,
        windows.pair,
        windows.index,
        len(windows.pair_passage),
        n_best=decoding.n_best,
        temperature=decoding.temperature,
    )
    if spans.distinct is None:
        return merged
    distinct = with_candidates(merged, spans.distinct, decoding.temperature)
    if decoding.distinct:
        merged = distinct.resized(decoding.n_best)
    return replace(merged, distinct=distinct)


def decide(
    spans: PassageSpans,
    failures: Mapping[int, tuple[str, str]],
    pairs: TokenizedPairs,
    row_pair: np.ndarray,
    thresholds: Thresholds,
) -> Decision:
    """Decide, per pair, between the best span and no answer.

    failures  pair -> (reason, message), of the prediction
    row_pair  int64 [rows], the pair that each row asks; -1 for none

    Rows have the failures of their pairs, or the reasons non_finite_logits or no_admissible_span.
    """
    of_pair = dict(failures)
    for pair in np.flatnonzero(pairs.counts > 0).tolist():
        if pair in of_pair:
            continue
        if not spans.finite[pair]:
            of_pair[pair] = "non_finite_logits", "the network's logits are not all finite"
        elif not spans.found[pair]:
            message = "no token of the context can start and end an answer"
            of_pair[pair] = "no_admissible_span", message
    problems = {}
    if of_pair:
        problems = {
            row: of_pair[pair] for row, pair in enumerate(row_pair.tolist()) if pair in of_pair
        }
    with np.errstate(invalid="ignore"):
        margin = spans.null_score - spans.span_score[:, 0]
        no_answer = margin > thresholds.null_score_diff
        probability = spans.probability[:, 0].astype(np.float32)
        improbable = probability < np.float32(thresholds.min_probability)
    return Decision(no_answer, improbable & ~no_answer, problems)
