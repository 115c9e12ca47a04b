"""The losses of passages: what their windows report of the golds, put together.

Arrays have a leading axis `side`: 0 for the start network, 1 for the end network. The objective and
the names are those of `model.audit.objective`.

A passage of several windows has two losses:
native   per window, with the normaliser that the model was trained with; mean over the windows that
         hold the gold whole
passage  one normaliser over the union of the tokens, each with the logits of the window that owns
         it (shared normalisation, Clark & Gardner 2018, arXiv:1710.10723); both null logits are
         those of w* = argmin_w (a_0 + b_0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.audit.objective import merge_log_masses
from model.audit.window_losses import POWERS, TOPS, Measured, WindowLosses
from model.reading.windows import Windows

LEAST_PROBABILITY = 0.002
"""The least probability of a token that `likely_tokens` lists."""

LikelyToken = Sequence[float | None]
"""char_start, char_end in code points of the context, start probability, end probability."""


@dataclass(frozen=True, slots=True)
class PassageLosses:
    """The losses of every gold, and of the null target, over the passage; nan where undefined.

    G golds, P pairs; float64 but for the counts.

    nll, null_nll              [2, G], [2, P]  categorical, passage normaliser
    native, null_native        [2, G], [2, P]  categorical, mean over the windows that hold the gold
                                               whole (null: over all windows)
    tokenwise, null_tokenwise  [2, G], [2, P]  passage
    native_tokenwise           [2, G]          mean over the windows that hold the gold whole
    joint, null_joint          [G], [P]        -log P(gold span), a softmax over all valid spans;
                                               nan for a gold that is not a valid span
    null_window                [G]             nll of the null target, mean over the windows without
                                               the gold
    whole, partly              int64 [G]       windows that hold the gold whole, or part of it
    score, log_prior           [G]             start_logit + end_logit in the window that owns the
                                               span, and the window's prior (0 without one), which
                                               no loss has
    normaliser                 [2, P]          log normaliser of the passage
    """

    nll: np.ndarray
    null_nll: np.ndarray
    native: np.ndarray
    null_native: np.ndarray
    tokenwise: np.ndarray
    null_tokenwise: np.ndarray
    native_tokenwise: np.ndarray
    joint: np.ndarray
    null_joint: np.ndarray
    null_window: np.ndarray
    whole: np.ndarray
    partly: np.ndarray
    score: np.ndarray
    log_prior: np.ndarray
    normaliser: np.ndarray


@np.errstate(invalid="ignore")  # nan means undefined here, and stays so
def passage_losses(windows: Windows, measured: Measured) -> PassageLosses:
    """Return the losses of passages, from those of their windows."""
    golds, views, losses = measured.golds, measured.views, measured.losses
    pairs, pair = len(windows.pair_passage), windows.pair
    null = losses.null.astype(np.float64)
    gold_logit = losses.gold_logit.astype(np.float64)

    # How each window holds each gold of its pair: whole, not at all, or (neither) in part.
    window, gold = views.window, views.gold
    first, last = golds.first[gold], golds.last[gold]
    start, stop = windows.start[window], windows.stop[window]
    low, high = windows.owned_low[window], windows.owned_high[window]
    whole = (first >= start) & (last < stop)
    apart = (last < start) | (first >= stop)

    # Native: the normaliser of each window.
    native_normaliser = np.logaddexp(losses.context.astype(np.float64), _mass(null))
    native = native_normaliser[:, window] - gold_logit
    null_native = native_normaliser - null
    others = losses.negative.astype(np.float64)[:, window] - losses.gold_negative
    native_tokenwise = others + _positive(measured.link, gold_logit, native)
    one_token = ~np.isfinite(losses.gold_negative)  # its p is 1
    native_tokenwise = np.where(one_token, 0.0, native_tokenwise)

    # Passage: one normaliser over the tokens that windows own, and the null logits of w*.
    best_null = _best_null(null, pair, pairs)
    masses = np.stack([_log_sum(side, pair, pairs) for side in losses.owned.astype(np.float64)])
    normaliser = np.logaddexp(masses, _mass(best_null))
    owned_logit = np.full((2, len(golds)), np.nan)
    for side, token in enumerate((first, last)):
        owner = (low <= 2 * token) & (2 * token < high) & (token >= start) & (token < stop)
        owned_logit[side] = _pick(gold_logit[side], owner, gold, len(golds))
    nll = normaliser[:, golds.pair] - owned_logit
    negative, gold_negative = _negatives(windows, measured, best_null, normaliser, owned_logit)
    tokenwise = negative[:, golds.pair] - gold_negative + _positive(measured.link, owned_logit, nll)
    tokenwise = np.where(np.isinf(gold_negative), 0.0, tokenwise)

    # Joint: one normaliser over the valid spans, each in the window that owns it.
    span_owner = whole & (low <= first + last) & (first + last < high)
    score = _pick(gold_logit.sum(0), span_owner, gold, len(golds))
    joint, null_joint = _joint(windows, measured, best_null.sum(0), score)

    log_prior = np.zeros(len(pair)) if windows.log_prior is None else windows.log_prior
    return PassageLosses(
        nll=nll,
        null_nll=normaliser - best_null,
        native=_mean(native, whole, gold, len(golds)),
        null_native=_mean(null_native, np.ones(len(pair), bool), pair, pairs),
        tokenwise=tokenwise,
        null_tokenwise=np.where(np.isnan(best_null), np.nan, negative),
        native_tokenwise=_mean(native_tokenwise, whole, gold, len(golds)),
        joint=joint,
        null_joint=null_joint,
        null_window=_mean(null_native[:, window].sum(0)[None], apart, gold, len(golds))[0],
        whole=np.bincount(gold[whole], minlength=len(golds)),
        partly=np.bincount(gold[~whole & ~apart], minlength=len(golds)),
        score=score,
        log_prior=_pick(log_prior[window], span_owner, gold, len(golds)),
        normaliser=normaliser,
    )


def _best_null(null: np.ndarray, pair: np.ndarray, pairs: int) -> np.ndarray:
    """Return the null logits of w*, the window of least a_0 + b_0, of equal ones the first.

    null  [2, windows]

    Returns [2, P], nan for a pair without windows.
    """
    best_null = np.full((2, pairs), np.nan)
    order = np.lexsort((np.arange(len(pair)), null.sum(0), pair))
    held, at = np.unique(pair[order], return_index=True)
    best_null[:, held] = null[:, order[at]]
    return best_null


def _joint(
    windows: Windows, measured: Measured, null_score: np.ndarray, score: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the joint losses of golds and of the null option, [G] and [P].

    null_score  [P], nan where the null option is off
    score       [G], of the gold spans in the windows that own them; nan without one
    """
    golds, mass = measured.golds, measured.losses.span_mass.astype(np.float64)
    normaliser = _log_sum(mass, windows.pair, len(windows.pair_passage))
    normaliser = np.logaddexp(normaliser, _mass(null_score))
    too_long = golds.last - golds.first >= measured.longest
    return np.where(too_long, np.nan, normaliser[golds.pair] - score), normaliser - null_score


def _negatives(
    windows: Windows,
    measured: Measured,
    best_null: np.ndarray,
    normaliser: np.ndarray,
    owned_logit: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return losses of label 0 over the passage: summed over its tokens, [2, P]; golds', [2, G].

    best_null, normaliser  [2, P]
    owned_logit            [2, G], the golds' logits in the windows that own their tokens
    """
    losses, of_gold = measured.losses, measured.golds.pair
    pair, pairs = windows.pair, len(windows.pair_passage)
    if measured.link == "sigmoid":
        sums = losses.owned_negative.astype(np.float64)
        negative = np.stack([_sum(side, pair, pairs) for side in sums])
        return negative, np.logaddexp(0.0, owned_logit)
    negative, gold_negative = np.zeros(normaliser.shape), np.zeros(owned_logit.shape)
    for side in (0, 1):
        whole, null_mass = normaliser[side], _mass(best_null[side])
        total, top, left_out = _one_minus_sums(losses, side, pair, pairs, null_mass, whole)
        negative[side] = total
        gold_negative[side] = _negative_of(
            owned_logit[side], whole[of_gold], top[of_gold], left_out[of_gold]
        )
    return negative, gold_negative


def likely_tokens(
    windows: Windows, losses: WindowLosses, normaliser: np.ndarray, pair: int
) -> list[LikelyToken]:
    """Return the tokens of a passage that the model most likely starts or ends an answer with.

    These are at most TOPS starts and TOPS ends of at least LEAST_PROBABILITY, in the order of the
    passage. There is one softmax over the passage (`PassageLosses.normaliser`), whatever the link,
    so that the first token of a gold has the start probability exp(-nll_start). A probability is
    None where only the other network has the token among its likeliest.
    """
    first, after = np.searchsorted(windows.pair, [pair, pair + 1])
    found: dict[int, list[float | None]] = {}
    for side in (0, 1):
        tokens = losses.top_tokens[side, first:after].ravel()
        probability = np.exp(losses.tops[side, first:after].ravel() - normaliser[side, pair])
        likely = np.argsort(-probability, kind="stable")[:TOPS]
        for token, share in zip(tokens[likely].tolist(), probability[likely].tolist(), strict=True):
            if share >= LEAST_PROBABILITY:
                found.setdefault(token, [None, None])[side] = round(share, 6)
    passages = windows.passages
    base = passages.bounds[windows.pair_passage[pair]]
    starts, ends = passages.char_start, passages.char_end
    return [
        [int(starts[base + token]), int(ends[base + token]), *found[token]]
        for token in sorted(found)
    ]


def _mass(null: np.ndarray) -> np.ndarray:
    """Return null logits as terms of a normaliser: -inf where the null option is off."""
    return np.where(np.isnan(null), -np.inf, null)


def _positive(link: str, logit: np.ndarray, nll: np.ndarray) -> np.ndarray:
    """Return the loss of a token with label 1: -log p."""
    return np.logaddexp(0.0, -logit) if link == "sigmoid" else nll


def _log_sum(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Return the logsumexp of each group's values, float64 [groups]; -inf for an empty group."""
    return merge_log_masses(
        torch.from_numpy(values), torch.from_numpy(group.astype(np.int64)), groups
    ).numpy()


def _sum(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Return the sum of each group's values, float64 [groups]; 0 for an empty group."""
    # The bincount of no values is int64, whatever their type.
    return np.bincount(group, values, groups).astype(np.float64)


def _pick(values: np.ndarray, chosen: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Return the one chosen value of each group; nan where there is none."""
    result = np.full(groups, np.nan)
    result[group[chosen]] = values[chosen]
    return result


def _mean(values: np.ndarray, chosen: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Return the mean of each group's chosen values, [sides, groups]; nan where there is none."""
    count = np.bincount(group[chosen], minlength=groups)
    total = np.stack([_sum(side[chosen], group[chosen], groups) for side in values])
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _one_minus_sums(
    losses: WindowLosses,
    side: int,
    pair: np.ndarray,
    pairs: int,
    null_mass: np.ndarray,
    normaliser: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return -sum_j log(1 - p_j) of each pair, its largest logit and the log mass of all others.

    Each is [pairs]. See `model.audit.window_losses` for the series.
    """
    tops, rest = losses.tops[side].astype(np.float64), losses.rest[side].astype(np.float64)
    values, group = tops.ravel(), np.repeat(pair, TOPS)
    top = np.full(pairs, -np.inf)
    np.maximum.at(top, group, values)
    is_top = np.zeros(len(values), bool)
    ties = np.flatnonzero(values == top[group])
    is_top[ties[np.unique(group[ties], return_index=True)[1]]] = True

    # log(1 - p) of the largest logit is that of all others' mass: log1p would lose its digits.
    left_out = _log_sum(np.where(is_top, -np.inf, values), group, pairs)
    left_out = np.logaddexp(left_out, _log_sum(rest[:, 0], pair, pairs))
    left_out = np.logaddexp(left_out, null_mass)
    # The other tops one by one, then the series over the rest.
    others = np.flatnonzero(~is_top & np.isfinite(values))
    total = _sum(
        -np.log1p(-np.exp(values[others] - normaliser[group[others]])), group[others], pairs
    )
    for k in range(1, POWERS + 1):
        total += _sum(np.exp(rest[:, k - 1] - k * normaliser[pair]) / k, pair, pairs)
    # Infinite for a passage of one token without a null option, whose p is 1.
    top_negative = normaliser - left_out
    return total + top_negative, top, left_out


def _negative_of(
    logit: np.ndarray, normaliser: np.ndarray, top: np.ndarray, left_out: np.ndarray
) -> np.ndarray:
    """Return -log(1 - p) of one token of a passage; exact for the largest logit too."""
    with np.errstate(divide="ignore"):
        direct = -np.log1p(-np.exp(np.minimum(logit - normaliser, 0.0)))
    return np.where(logit == top, normaliser - left_out, direct)
