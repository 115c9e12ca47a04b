"""The losses of windows: what each window reports, measured on the device.

The tokenwise loss with a softmax link needs sum_j log(1 - p_j), and p_j needs the passage's
normaliser L, which is known only after all windows. Instead of the logits, each window keeps its
TOPS largest logits, and for the others the log power sums lse(k a), k = 1..POWERS. The others have
p <= 1 / (TOPS + 1), so that the terms that log(1 - p) = -sum_k p^k / k loses add up to less than
1e-10 for a whole passage. The tokens of the TOPS are kept too, because the report shows them (see
`model.audit.losses.likely_tokens`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from model.audit.golds import Golds, GoldViews, gold_views
from model.audit.objective import log_normaliser, log_one_minus
from model.backends.errors import error_of, free_memory, of_values, reason_of
from model.reading.batching import Batch, Pending, to_device
from model.reading.decoding import Decoding
from model.reading.prediction import Logits, failures_of_pairs
from model.reading.spans import ValidSpans, span_log_mass
from model.reading.tokenizer import consecutive
from model.reading.windows import Windows

TOPS, POWERS = 16, 8


@dataclass(frozen=True, slots=True)
class WindowLosses:
    """What each window reports: its normalisers, its likeliest tokens, its golds. float32.

    W windows, V gold views. The leading axis, which `span_mass` lacks, is the side: 0 for the start
    network, 1 for the end network.

    context         [2, W] log normaliser over the context tokens, null not included
    owned           [2, W] the same over the tokens that the window owns
    null            [2, W] logit of the classifier token; nan where the null option is off
    negative        [2, W] sum over context tokens of the loss of a token with label 0
    owned_negative  [2, W] the same over owned tokens; sigmoid link only
    tops            [2, W, TOPS] the largest logits of owned tokens, -inf where there are fewer
    top_tokens      [2, W, TOPS] their passage tokens, int32; arbitrary where the logit is -inf
    rest            [2, W, POWERS] log power sums of the other owned tokens; softmax link only
    span_mass       [W] log of the sum of exp(span_score) over the valid spans that the window owns
    gold_logit      [2, V] logit of the gold's start (end) token; nan where it isn't in the window
    gold_negative   [2, V] loss of that token if its label were 0
    """

    context: np.ndarray
    owned: np.ndarray
    null: np.ndarray
    negative: np.ndarray
    owned_negative: np.ndarray
    tops: np.ndarray
    top_tokens: np.ndarray
    rest: np.ndarray
    span_mass: np.ndarray
    gold_logit: np.ndarray
    gold_negative: np.ndarray

    @classmethod
    def empty(cls, windows: int, views: int) -> WindowLosses:
        """Return losses of which nothing is known yet."""

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
            span_mass=np.full(windows, np.nan, np.float32),
            gold_logit=undefined(views),
            gold_negative=undefined(views),
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a chunk's golds.

    golds       the golds, and `views` of them in windows
    losses      what each window reports
    link        "softmax" or "sigmoid": what made probabilities of logits
    longest     tokens of the longest valid span
    unmeasured  pair -> (reason, message) of pairs with a window that could not be measured
    for_good    those of them whose values are the cause: another try would fail too
    """

    golds: Golds
    views: GoldViews
    losses: WindowLosses
    link: str
    longest: int
    unmeasured: dict[int, tuple[str, str]]
    for_good: frozenset[int] = frozenset()


class MeasureLosses:
    """The observer that measures every window; its result is `Measured`.

    The step MeasureLoss turns this result into losses of rows.

    link      "softmax" or "sigmoid": what makes probabilities of logits in the tokenwise loss
    decoding  says whether the null option takes part in the softmax, and which spans are valid

    An error in measuring never fails the windows, so that other observers keep what they found.
    """

    def __init__(self, windows: Windows, golds: Golds, link: str, decoding: Decoding):
        self.windows, self.golds, self.link = windows, golds, link
        self.null, self.longest = decoding.null, decoding.max_answer_length
        self.views = gold_views(windows, golds)
        self.losses = WindowLosses.empty(len(windows), len(self.views.gold))
        self.failed: dict[int, BaseException] = {}

    def take(self, batch: Batch, logits: Logits, chosen: np.ndarray) -> Pending:
        """Measure one batch. If that fails, halve it until it passes or is one window.

        That window has then failed. Raises the error itself if the device is lost.
        """
        found = Pending()
        error = error_of(partial(self.measure, batch, logits, chosen, found))
        if error is None:
            for window in chosen.tolist():  # may have failed in a batch that was computed again
                self.failed.pop(window, None)
            return found
        free_memory(error)
        found = Pending()
        if len(chosen) == 1:
            self.failed[int(chosen[0])] = error
            return found
        middle = len(chosen) // 2
        for half in (slice(middle), slice(middle, None)):
            halves = logits[0][half], logits[1][half]
            found.add(self.take(batch[half], halves, chosen[half]))
        return found

    def result(self) -> Measured:
        """Return the losses of all windows, and which pairs have none."""
        errors = failures_of_pairs(self.failed, self.windows)
        return Measured(
            golds=self.golds,
            views=self.views,
            losses=self.losses,
            link=self.link,
            longest=self.longest,
            unmeasured={pair: reason_of(error, "loss_error") for pair, error in errors.items()},
            for_good=frozenset(pair for pair, error in errors.items() if of_values(error)),
        )

    def measure(self, batch: Batch, logits: Logits, chosen: np.ndarray, pending: Pending) -> None:
        """Measure one batch on its device; arguments as in `Observer.take`."""
        losses, both = self.losses, torch.stack(logits)
        every = slice(None), chosen
        context = batch.in_context
        doubled = 2 * torch.arange(both.shape[2], device=both.device)
        owned = (doubled >= batch.owned_low[:, None]) & (doubled < batch.owned_high[:, None])
        contexts, owneds = context.expand_as(both), (context & owned).expand_as(both)

        # Normalisers of the window: over its context, and over what it owns of the passage.
        normalised = context
        if self.null and batch.classifier is not None:
            at = batch.classifier[:, None]
            normalised = context.scatter(1, at, True)
            pending.put(losses.null, every, both.gather(2, at.expand(2, -1, -1)).squeeze(2))
        pending.put(losses.context, every, log_normaliser(both, contexts))
        pending.put(losses.owned, every, log_normaliser(both, owneds))

        # The mass of all valid spans at T = 1. Decoding has it at the checkpoint's temperature.
        valid = ValidSpans(
            batch.can_start, batch.can_end, batch.owned_low, batch.owned_high, self.longest
        )
        pending.put(losses.span_mass, chosen, span_log_mass(*logits, valid))

        # The largest logits one by one.
        masked = torch.where(owneds, both, -torch.inf)
        tops = masked.topk(min(TOPS, both.shape[2]), 2)
        kept = *every, slice(tops.values.shape[2])
        passage_shift = batch.passage_start - batch.context_start
        pending.put(losses.tops, kept, tops.values)
        pending.put(losses.top_tokens, kept, tops.indices + passage_shift[:, None])

        # The loss of every token if its label were 0, summed.
        if self.link == "sigmoid":
            negative = torch.nn.functional.softplus(both)
            pending.put(losses.owned_negative, every, torch.where(owneds, negative, 0.0).sum(2))
        else:
            negative = -log_one_minus(both, normalised.expand_as(both))
            others = masked.scatter(2, tops.indices, -torch.inf)
            pending.put(losses.rest, every, log_power_sums(others))
        pending.put(losses.negative, every, torch.where(contexts, negative, 0.0).sum(2))
        self._measure_golds(both, negative, passage_shift, chosen, pending)

    def _measure_golds(
        self,
        logits: torch.Tensor,
        negative: torch.Tensor,
        passage_shift: torch.Tensor,
        chosen: np.ndarray,
        pending: Pending,
    ) -> None:
        """Pick what belongs to the golds' tokens out of logits and losses, float32 [2, B, L]."""
        views, golds, windows, device = self.views, self.golds, self.windows, logits.device
        counts = (views.bounds[chosen + 1] - views.bounds[chosen]).astype(np.int64)
        row = np.repeat(np.arange(len(chosen)), counts)
        view = consecutive(views.bounds[chosen], counts)
        window = chosen[row]
        for side, tokens in enumerate((golds.first, golds.last)):
            token = tokens[views.gold[view]]
            held = (token >= windows.start[window]) & (token < windows.stop[window])
            at_row = to_device(torch.from_numpy(row[held]), device)
            held_tokens = to_device(torch.from_numpy(token[held].astype(np.int64)), device)
            position = held_tokens - passage_shift[at_row]
            at = side, view[held]
            pending.put(self.losses.gold_logit, at, logits[side, at_row, position])
            pending.put(self.losses.gold_negative, at, negative[side, at_row, position])


def log_power_sums(logits: torch.Tensor) -> torch.Tensor:
    """Return lse(k a) over the last axis for k = 1..POWERS, [..., POWERS]; -inf for no logits.

    One exponential, exp(a - max a), serves all powers.
    """
    top = logits.amax(-1, keepdim=True)
    scaled = torch.exp(logits - torch.where(torch.isfinite(top), top, 0.0))
    power, sums = torch.ones_like(scaled), []
    for _ in range(POWERS):
        power *= scaled
        sums.append(power.sum(-1))
    return torch.arange(1, POWERS + 1, device=logits.device) * top + torch.log(
        torch.stack(sums, -1)
    )
