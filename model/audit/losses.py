"""Losses of gold answers: what each window tells on the device, and what the windows of a passage make of it.

Arrays have a leading axis `side`: 0 for the start network, 1 for the end network. Objective and names: `model.audit.objective`.

Two readings of a passage's loss over several windows:
native   per window, what the model was trained on; mean over the windows that hold the gold whole
passage  one normaliser over the union of tokens, each with the logits of its owner (shared normalisation, Clark & Gardner
         2018, arXiv:1710.10723); the null logits are both those of w* = argmin_w (a_0 + b_0)

The tokenwise loss with a softmax link needs sum_j log(1 - p_j), and p_j needs the passage's normaliser L, which is known
only when all windows are. It is carried without carrying logits: of each window the TOPS largest logits, and of the others
the log power sums lse(k a), k = 1..POWERS. The others have p <= 1 / (TOPS + 1), so that in
log(1 - p) = -sum_k p^k / k what is cut off is below 1e-10 for a whole passage. Where these TOPS stand is kept too: they are
the tokens that a person wants to see of an example (`likely_tokens`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.audit.golds import Golds, GoldViews
from model.audit.objective import log_normaliser, log_one_minus, merge_log_masses
from model.reading.batching import Batch, Pending, to_device
from model.reading.tokenizer import consecutive
from model.reading.windows import Windows

TOPS, POWERS = 16, 8

LEAST_PROBABILITY = 0.002
"""Of a likely token, of which at most TOPS are listed."""

LikelyToken = Sequence[float | None]
"""char_start, char_end in code points of the context, start probability, end probability."""


@dataclass(frozen=True, slots=True)
class WindowLosses:
    """What the network says of each window's golds; W windows, V gold views. float32.

    context         [2, W] log normaliser over the context tokens, null not included
    owned           [2, W] the same over the tokens that the window owns
    null            [2, W] logit of the classifier token; nan where the null option is off
    negative        [2, W] sum over context tokens of the loss of a token that is labelled 0
    owned_negative  [2, W] the same over owned tokens; sigmoid link only
    tops            [2, W, TOPS] the largest logits of owned tokens, -inf where there are fewer
    top_tokens      [2, W, TOPS] their passage tokens, int32; anything where the logit is -inf
    rest            [2, W, POWERS] log power sums of the other owned tokens; softmax link only
    gold_logit      [2, V] logit of the gold's start (end) token in the window; nan where it is not in it
    gold_negative   [2, V] loss of that token were it labelled 0
    """

    context: np.ndarray
    owned: np.ndarray
    null: np.ndarray
    negative: np.ndarray
    owned_negative: np.ndarray
    tops: np.ndarray
    top_tokens: np.ndarray
    rest: np.ndarray
    gold_logit: np.ndarray
    gold_negative: np.ndarray

    @classmethod
    def empty(cls, windows: int, views: int) -> WindowLosses:
        def undefined(*shape: int) -> np.ndarray:
            return np.full((2, *shape), np.nan, np.float32)

        return cls(
            context=undefined(windows),
            owned=undefined(windows),
            null=undefined(windows),
            negative=undefined(windows),
            owned_negative=undefined(windows),
            tops=np.full((2, windows, TOPS), -np.inf, np.float32),
            top_tokens=np.zeros((2, windows, TOPS), np.int32),
            rest=undefined(windows, POWERS),
            gold_logit=undefined(views),
            gold_negative=undefined(views),
        )


def measure_windows(
    logits: torch.Tensor,
    batch: Batch,
    chosen: np.ndarray,
    windows: Windows,
    golds: Golds,
    views: GoldViews,
    *,
    link: str,
    null: bool,
    losses: WindowLosses,
    pending: Pending,
) -> None:
    """Measures one batch on its device; what it finds is pending for the chosen rows of `losses`.

    logits float32 [2, B, L], batch on their device; chosen int64 [B], which windows the batch holds.
    """
    device = logits.device
    every = slice(None), chosen
    context = batch.in_context
    doubled = 2 * torch.arange(logits.shape[2], device=device)
    owned = context & (doubled >= batch.owned_low[:, None]) & (doubled < batch.owned_high[:, None])
    contexts, owneds = context.expand_as(logits), owned.expand_as(logits)
    normalised = context
    if null and batch.classifier is not None:
        at = batch.classifier[:, None]
        normalised = context.scatter(1, at, True)
        pending.put(losses.null, every, logits.gather(2, at.expand(2, -1, -1)).squeeze(2))
    pending.put(losses.context, every, log_normaliser(logits, contexts))
    pending.put(losses.owned, every, log_normaliser(logits, owneds))
    masked = torch.where(owneds, logits, -torch.inf)
    tops = masked.topk(min(TOPS, logits.shape[2]), 2)
    found = *every, slice(tops.values.shape[2])
    passage_shift = batch.passage_start - batch.context_start
    pending.put(losses.tops, found, tops.values)
    pending.put(losses.top_tokens, found, tops.indices + passage_shift[:, None])
    if link == "sigmoid":
        negative = torch.nn.functional.softplus(logits)
        pending.put(losses.owned_negative, every, torch.where(owneds, negative, 0.0).sum(2))
    else:
        negative = -log_one_minus(logits, normalised.expand_as(logits))
        others = masked.scatter(2, tops.indices, -torch.inf)
        pending.put(losses.rest, every, log_power_sums(others))
    pending.put(losses.negative, every, torch.where(contexts, negative, 0.0).sum(2))

    counts = (views.bounds[chosen + 1] - views.bounds[chosen]).astype(np.int64)
    row = np.repeat(np.arange(len(chosen)), counts)
    view = consecutive(views.bounds[chosen], counts)
    for side, token in enumerate((golds.first, golds.last)):
        token = token[views.gold[view]]
        window = chosen[row]
        held = (token >= windows.start[window]) & (token < windows.stop[window])
        at_row = to_device(torch.from_numpy(row[held]), device)
        at_place = (
            to_device(torch.from_numpy(token[held].astype(np.int64)), device)
            - passage_shift[at_row]
        )
        pending.put(losses.gold_logit, (side, view[held]), logits[side, at_row, at_place])
        pending.put(losses.gold_negative, (side, view[held]), negative[side, at_row, at_place])


def log_power_sums(logits: torch.Tensor) -> torch.Tensor:
    """lse(k a) over the last axis for k = 1..POWERS, [..., POWERS]; -inf for none. One exponential for all: exp(a - max a)."""
    top = logits.amax(-1, keepdim=True)
    scaled = torch.exp(logits - torch.where(torch.isfinite(top), top, 0.0))
    power, sums = torch.ones_like(scaled), []
    for _ in range(POWERS):
        power *= scaled
        sums.append(power.sum(-1))
    return torch.arange(1, POWERS + 1, device=logits.device) * top + torch.log(
        torch.stack(sums, -1)
    )


@dataclass(frozen=True, slots=True)
class PassageLosses:
    """Losses of every gold, and of the null target, over the passage; G golds, P pairs, float64, nan where undefined.

    nll, null_nll                [2, G], [2, P]  categorical, passage normaliser
    native, null_native          [2, G], [2, P]  categorical, mean over the windows that hold the gold whole (null: all)
    tokenwise, null_tokenwise    [2, G], [2, P]  passage
    native_tokenwise             [2, G]          mean over the windows that hold the gold whole
    null_window                  [G]             nll of the null target, mean over the windows without the gold
    whole, partly                int64 [G]       windows that hold the gold whole, that hold part of it
    score                        [G]             start_logit + end_logit in the window that owns the span
    normaliser                   [2, P]          log normaliser of the passage
    """

    nll: np.ndarray
    null_nll: np.ndarray
    native: np.ndarray
    null_native: np.ndarray
    tokenwise: np.ndarray
    null_tokenwise: np.ndarray
    native_tokenwise: np.ndarray
    null_window: np.ndarray
    whole: np.ndarray
    partly: np.ndarray
    score: np.ndarray
    normaliser: np.ndarray


@np.errstate(invalid="ignore")  # nan means undefined here, and stays so
def passage_losses(
    windows: Windows, golds: Golds, views: GoldViews, losses: WindowLosses, link: str
) -> PassageLosses:
    """Makes the losses of passages of those of their windows."""
    pairs = len(windows.pair_passage)
    pair = windows.pair
    null = losses.null.astype(np.float64)
    null_mass = np.where(np.isnan(null), -np.inf, null)
    window, gold = views.window, views.gold
    first, last = golds.first[gold], golds.last[gold]
    start, stop = windows.start[window], windows.stop[window]
    low, high = windows.owned_low[window], windows.owned_high[window]
    whole = (first >= start) & (last < stop)
    apart = (last < start) | (first >= stop)
    gold_logit = losses.gold_logit.astype(np.float64)

    # Native: each window's own normaliser.
    native_normaliser = np.logaddexp(losses.context.astype(np.float64), null_mass)
    native = native_normaliser[:, window] - gold_logit
    null_native = native_normaliser - null
    native_tokenwise = (
        losses.negative.astype(np.float64)[:, window]
        - losses.gold_negative
        + _positive(link, gold_logit, native)
    )
    native_tokenwise = np.where(
        np.isfinite(losses.gold_negative), native_tokenwise, 0.0
    )  # one token, p = 1

    # Passage: one normaliser over owned tokens, the null logits of w*.
    best_null = np.full((2, pairs), np.nan)
    if len(pair):
        order = np.lexsort((np.arange(len(pair)), null.sum(0), pair))
        held, at = np.unique(pair[order], return_index=True)
        best_null[:, held] = null[:, order[at]]
    masses = np.stack([_log_sum(side, pair, pairs) for side in losses.owned.astype(np.float64)])
    best_null_mass = np.where(np.isnan(best_null), -np.inf, best_null)
    normaliser = np.logaddexp(masses, best_null_mass)
    null_nll = normaliser - best_null
    owner = [
        (low <= 2 * token) & (2 * token < high) & (token >= start) & (token < stop)
        for token in (first, last)
    ]
    owned_logit = np.stack(
        [_pick(gold_logit[side], owner[side], gold, len(golds)) for side in (0, 1)]
    )
    nll = normaliser[:, golds.pair] - owned_logit

    if link == "sigmoid":
        negative = np.stack(
            [_sum(side, pair, pairs) for side in losses.owned_negative.astype(np.float64)]
        )
        gold_negative = np.logaddexp(0.0, owned_logit)
    else:
        both = [
            _one_minus_sums(losses, side, pair, pairs, best_null_mass[side], normaliser[side])
            for side in (0, 1)
        ]
        negative = np.stack([total for total, _, _ in both])
        gold_negative = np.stack(
            [
                _negative_of(
                    owned_logit[side],
                    normaliser[side][golds.pair],
                    top[golds.pair],
                    left_out[golds.pair],
                )
                for side, (_, top, left_out) in enumerate(both)
            ]
        )
    tokenwise = negative[:, golds.pair] - gold_negative + _positive(link, owned_logit, nll)
    tokenwise = np.where(np.isinf(gold_negative), 0.0, tokenwise)

    span_owner = whole & (low <= first + last) & (first + last < high)
    return PassageLosses(
        nll=nll,
        null_nll=null_nll,
        native=_mean(native, whole, gold, len(golds)),
        null_native=_mean(null_native, np.ones(len(pair), bool), pair, pairs),
        tokenwise=tokenwise,
        null_tokenwise=np.where(np.isnan(best_null), np.nan, negative),
        native_tokenwise=_mean(native_tokenwise, whole, gold, len(golds)),
        null_window=_mean(null_native[:, window].sum(0)[None], apart, gold, len(golds))[0],
        whole=np.bincount(gold[whole], minlength=len(golds)),
        partly=np.bincount(gold[~whole & ~apart], minlength=len(golds)),
        score=_pick(gold_logit.sum(0), span_owner, gold, len(golds)),
        normaliser=normaliser,
    )


def likely_tokens(
    windows: Windows, losses: WindowLosses, normaliser: np.ndarray, pair: int
) -> list[LikelyToken]:
    """The TOPS likeliest starts and the TOPS likeliest ends of a passage, of at least LEAST_PROBABILITY, in their order.

    One softmax over the passage (`PassageLosses.normaliser`), whatever the link, so that a gold's first token starts with
    exp(-nll_start). A probability is None where only the other network has the token among its likeliest.
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


def _positive(link: str, logit: np.ndarray, nll: np.ndarray) -> np.ndarray:
    """The loss of a token that is labelled 1: -log p."""
    return np.logaddexp(0.0, -logit) if link == "sigmoid" else nll


def _log_sum(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """logsumexp of each group's values, float64 [groups]; -inf for an empty group."""
    return merge_log_masses(
        torch.from_numpy(values), torch.from_numpy(group.astype(np.int64)), groups
    ).numpy()


def _sum(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sum of each group's values, float64 [groups]; 0 for an empty group."""
    return np.bincount(group, values, groups).astype(
        np.float64
    )  # bincount of no values is int64, whatever their type


def _pick(values: np.ndarray, chosen: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """The one chosen value of each group; nan where there is none."""
    result = np.full(groups, np.nan)
    result[group[chosen]] = values[chosen]
    return result


def _mean(values: np.ndarray, chosen: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Mean of the chosen values of each group, [sides, groups]; nan where there is none."""
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
    """-sum_j log(1 - p_j) of each pair, its largest logit, and the log mass of everything but that, [pairs] each."""
    tops, rest = losses.tops[side].astype(np.float64), losses.rest[side].astype(np.float64)
    values, group = tops.ravel(), np.repeat(pair, TOPS)
    top = np.full(pairs, -np.inf)
    np.maximum.at(top, group, values)
    is_top = np.zeros(len(values), bool)
    ties = np.flatnonzero(values == top[group])
    is_top[ties[np.unique(group[ties], return_index=True)[1]]] = True

    left_out = _log_sum(np.where(is_top, -np.inf, values), group, pairs)
    left_out = np.logaddexp(left_out, _log_sum(rest[:, 0], pair, pairs))
    left_out = np.logaddexp(left_out, null_mass)
    others = np.flatnonzero(~is_top & np.isfinite(values))
    total = _sum(
        -np.log1p(-np.exp(values[others] - normaliser[group[others]])), group[others], pairs
    )
    for k in range(1, POWERS + 1):
        total += _sum(np.exp(rest[:, k - 1] - k * normaliser[pair]) / k, pair, pairs)
    top_negative = (
        normaliser - left_out
    )  # inf for a passage of one token without a null option, whose p is 1
    return total + top_negative, top, left_out


def _negative_of(
    logit: np.ndarray, normaliser: np.ndarray, top: np.ndarray, left_out: np.ndarray
) -> np.ndarray:
    """-log(1 - p) of one token of a passage; exact for the largest logit too."""
    with np.errstate(divide="ignore"):
        direct = -np.log1p(-np.exp(np.minimum(logit - normaliser, 0.0)))
    return np.where(logit == top, normaliser - left_out, direct)
