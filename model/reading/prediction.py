"""The prediction loop: all windows of a chunk through the network, in batches, and what decoding leaves of each.

It exists once: device lock, lanes, padding, logits, halving when memory runs out, isolation of a window that can't be
computed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from model.audit.golds import Golds, GoldViews, gold_views
from model.audit.losses import WindowLosses, measure_windows
from model.backends.lanes import in_lanes
from model.reading.batching import Batch, Pending, assemble, plan_batches
from model.reading.reader import Reader
from model.reading.spans import PassageSpans, WindowSpans, decode_windows, merge_windows
from model.reading.windows import Windows
from model.settings import BOTH, number, one_of, setting, whole

_device_lock = threading.Lock()
"""One chunk at a time is given to the device: threads of one process share its network and its memory."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How spans are chosen.

    null is whether "no answer" is an option; it wins where null_score - best span_score > null_score_diff_threshold.
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


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network said of a chunk's windows.

    spans          decoded windows, in the order of the windows
    losses         what the golds of the windows cost, if golds were given
    failures       pair -> (reason, message) of pairs whose windows could not be computed
    unmeasured     the same of pairs whose windows were decoded, but could not be measured
    real_tokens    tokens of all windows
    padded_tokens  tokens of all batches with their padding
    """

    spans: WindowSpans
    losses: WindowLosses | None
    failures: dict[int, tuple[str, str]]
    real_tokens: int
    padded_tokens: int
    unmeasured: dict[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of each pair.

    no_answer  bool [pairs], whether the null option wins
    problems   row -> (reason, message) of rows whose pair could not be answered
    """

    spans: PassageSpans
    no_answer: np.ndarray
    problems: dict[int, tuple[str, str]]


def predict(
    reader: Reader,
    windows: Windows,
    decoding: Decoding,
    batch_tokens: int,
    golds: Golds | None = None,
    link: str = "softmax",
) -> Prediction:
    """Runs `each_batch` over all windows and decodes each on the device; the pair of a window that failed has a failure.

    With golds, their terms of the loss are measured on the same logits; `link` makes logits probabilities (tokenwise). An error
    in measuring leaves the decoded spans as they are. Raises what `each_batch` raises.
    """
    count = len(windows)
    spans = WindowSpans(
        start=np.zeros((count, decoding.n_best), np.int64),
        end=np.zeros((count, decoding.n_best), np.int64),
        start_logit=np.full((count, decoding.n_best), -np.inf, np.float32),
        end_logit=np.full((count, decoding.n_best), -np.inf, np.float32),
        log_mass=np.full(count, -np.inf, np.float32),
        null_score=np.full(count, np.nan, np.float32),
        finite=np.zeros(count, bool),
    )
    pending = Pending()
    measuring = _Measuring.of(windows, golds, link, decoding.null) if golds is not None else None

    def decode(
        batch: Batch, start_logits: torch.Tensor, end_logits: torch.Tensor, chosen: np.ndarray
    ) -> None:
        of_batch = Pending()  # a batch that fails on the way leaves nothing
        _decode(batch, start_logits, end_logits, chosen, decoding, spans, of_batch)
        if measuring:
            measuring.take(batch, start_logits, end_logits, chosen, of_batch)
        pending.add(of_batch)

    failed, padded_tokens = each_batch(reader, windows, batch_tokens, decode)
    pending.fetch()
    return Prediction(
        spans=spans,
        losses=measuring.losses if measuring else None,
        failures=_of_pairs(failed, windows),
        real_tokens=int(windows.lengths.sum()),
        padded_tokens=padded_tokens,
        unmeasured=_of_pairs(measuring.failed, windows) if measuring else {},
    )


@dataclass(frozen=True, slots=True)
class _Measuring:
    """Measures the golds of a chunk's windows; what goes wrong there is never the spans' failure.

    failed  window -> (reason, message) of those that could not be measured
    """

    windows: Windows
    golds: Golds
    views: GoldViews
    link: str
    null: bool
    losses: WindowLosses
    failed: dict[int, tuple[str, str]]

    @classmethod
    def of(cls, windows: Windows, golds: Golds, link: str, null: bool) -> _Measuring:
        views = gold_views(windows, golds)
        return cls(
            windows, golds, views, link, null, WindowLosses.empty(len(windows), len(views.gold)), {}
        )

    def take(
        self,
        batch: Batch,
        start_logits: torch.Tensor,
        end_logits: torch.Tensor,
        chosen: np.ndarray,
        pending: Pending,
    ) -> None:
        """Measures one batch; one that fails is halved until it passes or is one window, which has then failed.

        Raises the error itself if the device is lost.
        """
        of_batch = Pending()

        def measure(chosen: np.ndarray) -> None:
            measure_windows(
                torch.stack([start_logits, end_logits]),
                batch,
                chosen,
                self.windows,
                self.golds,
                self.views,
                link=self.link,
                null=self.null,
                losses=self.losses,
                pending=of_batch,
            )

        error = _error_of(measure, chosen)
        if error is None:
            pending.add(of_batch)
            return
        _free_memory(error)
        if len(chosen) == 1:
            self.failed[int(chosen[0])] = _reason_of(error, "loss_error")
            return
        middle = len(chosen) // 2
        for half in (slice(middle), slice(middle, None)):
            self.take(batch[half], start_logits[half], end_logits[half], chosen[half], pending)


def _of_pairs(failed: dict[int, tuple[str, str]], windows: Windows) -> dict[int, tuple[str, str]]:
    """Failures of windows as those of their pairs; a pair's first counts."""
    return {int(windows.pair[window]): failed[window] for window in sorted(failed, reverse=True)}


def each_batch(
    reader: Reader,
    windows: Windows,
    batch_tokens: int,
    take: Callable[[Batch, torch.Tensor, torch.Tensor, np.ndarray], None],
) -> tuple[dict[int, tuple[str, str]], int]:
    """Calls `take(batch, start_logits, end_logits, chosen)` for all windows, at most `batch_tokens` padded tokens at a time.

    Windows are sorted by length; `chosen` are those of the batch, which stands on the device of its logits. Where there are
    batches enough, as many lanes work on them as the reader takes. A batch that fails is halved until it passes or is one
    window, which has then failed: "out_of_memory" or "model_error"; one that runs out of memory beside other lanes is first
    tried alone. What `take` raises is as if the network had. Returns window -> (reason, message) of those that failed, and the
    tokens of all batches with their padding.
    Raises the error itself if the device is lost, or if not one of several windows could be computed.
    """
    failed: dict[int, tuple[str, str]] = {}
    errors: list[Exception] = []
    computed: list[int] = []
    again: list[np.ndarray] = []
    waiting = plan_batches(windows.lengths, batch_tokens)[::-1]

    @torch.inference_mode()
    def compute(chosen: np.ndarray) -> None:
        batch = assemble(windows, chosen)
        start_logits, end_logits = reader.logits(batch)
        take(batch.to(start_logits.device), start_logits, end_logits, chosen)
        computed.append(batch.input_ids.numel())

    def work(chosen: np.ndarray, together: bool) -> None:
        error = _error_of(compute, chosen)
        if error is None:
            return
        _free_memory(error)
        if together and _out_of_memory(error):
            again.append(chosen)  # alone it may have room
            return
        errors[:] = [error]
        if len(chosen) > 1:
            middle = len(chosen) // 2
            waiting.extend([chosen[middle:], chosen[:middle]])
        else:
            failed[int(chosen[0])] = _reason_of(error, "model_error")

    with _device_lock:
        lanes = min(reader.lanes(), len(waiting) // 2)
        in_lanes(partial(work, together=lanes > 1), waiting, lanes)
        waiting.extend(sorted(again, key=lambda chosen: int(chosen[0]), reverse=True))
        in_lanes(partial(work, together=False), waiting, 1)
    if errors and not computed and len(windows) > 1:
        raise errors[0]
    return failed, sum(computed)


def decide(
    prediction: Prediction, windows: Windows, row_pair: np.ndarray, decoding: Decoding
) -> Decision:
    """Merge windows to passages and decide, per distinct pair, between the best span and no answer.

    Problems, of the rows that ask the pair (`row_pair` int64
    [rows], -1 for none): non_finite_logits, no_admissible_span, and those of the prediction.
    """
    spans = merge_windows(
        prediction.spans,
        windows.pair,
        windows.index,
        len(windows.pair_passage),
        n_best=decoding.n_best,
        temperature=decoding.temperature,
    )
    of_pair = dict(prediction.failures)
    for pair in np.flatnonzero(windows.counts > 0).tolist():
        if pair in of_pair:
            continue
        if not spans.finite[pair]:
            of_pair[pair] = "non_finite_logits", "the network's logits are not all finite"
        elif not spans.found[pair]:
            of_pair[pair] = (
                "no_admissible_span",
                "no token of the context can start and end an answer",
            )
    problems = (
        {row: of_pair[pair] for row, pair in enumerate(row_pair.tolist()) if pair in of_pair}
        if of_pair
        else {}
    )
    with np.errstate(invalid="ignore"):
        no_answer = spans.null_score - spans.span_score[:, 0] > decoding.null_score_diff_threshold
    return Decision(spans, no_answer, problems)


def _decode(
    batch: Batch,
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    chosen: np.ndarray,
    decoding: Decoding,
    spans: WindowSpans,
    pending: Pending,
) -> None:
    """Decodes one batch on its device; what is left is pending for the chosen rows of `spans`."""
    start, end, start_logit, end_logit, log_mass = decode_windows(
        start_logits,
        end_logits,
        batch.can_start,
        batch.can_end,
        batch.owned_low,
        batch.owned_high,
        max_answer_length=decoding.max_answer_length,
        n_best=decoding.n_best,
        temperature=decoding.temperature,
    )
    finite = (torch.isfinite(start_logits) & torch.isfinite(end_logits) | ~batch.in_context).all(1)
    if decoding.null and batch.classifier is not None:
        at = batch.classifier[:, None]
        null = (start_logits.gather(1, at) + end_logits.gather(1, at)).squeeze(1)
        finite &= torch.isfinite(null)
        pending.put(spans.null_score, chosen, null)
    shift = (batch.passage_start - batch.context_start)[:, None]
    pending.put(spans.start, chosen, start + shift)
    pending.put(spans.end, chosen, end + shift)
    pending.put(spans.start_logit, chosen, start_logit)
    pending.put(spans.end_logit, chosen, end_logit)
    pending.put(spans.log_mass, chosen, log_mass)
    pending.put(spans.finite, chosen, finite)


def _error_of(compute: Callable[[np.ndarray], None], chosen: np.ndarray) -> Exception | None:
    """What the computation raised, without its traceback, which would keep the batch in memory; a lost device is raised."""
    try:
        compute(chosen)
    except Exception as error:
        if device_lost(error):
            raise
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    return None


def _reason_of(error: Exception, otherwise: str) -> tuple[str, str]:
    """The reason (out_of_memory or another) and message of a window that failed."""
    return "out_of_memory" if _out_of_memory(
        error
    ) else otherwise, f"{type(error).__name__}: {error}"


def _out_of_memory(error: BaseException) -> bool:
    said = (
        "can't allocate memory",
        "CUDA error: out of memory",
    )  # of a CPU's memory; of pinned memory
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        each in str(error) for each in said
    )


def device_lost(error: BaseException) -> bool:
    """Whether an error says that the device computes nothing any more."""
    return isinstance(error, getattr(torch, "AcceleratorError", ())) and not _out_of_memory(error)


def _free_memory(error: Exception) -> None:
    if _out_of_memory(error) and torch.cuda.is_available():
        torch.cuda.empty_cache()
