"""The prediction loop: every window of a chunk passes through the network once, in batches.

The loop owns the device lock, the lanes, the halving of a batch that fails, and the isolation of a
window that can't be computed. It doesn't know what the logits are for: observers do.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from model.backends.errors import error_of, free_memory, out_of_memory, reason_of
from model.backends.lanes import in_lanes
from model.reading.batching import Batch, Pending, assemble, plan_windows
from model.reading.progress import current
from model.reading.reader import Reader
from model.reading.windows import Windows

_device_lock = threading.Lock()
"""Held while a chunk is computed: threads of a process share its network and its memory."""

Logits = tuple[torch.Tensor, torch.Tensor]
"""Start and end logits of a batch, float32 [B, L] each."""

Found = TypeVar("Found", covariant=True)
Failure = TypeVar("Failure")


class Observer(Protocol[Found]):
    """Takes what it wants from the logits of each batch, and has a result once all are computed."""

    def take(self, batch: Batch, logits: Logits, chosen: np.ndarray) -> Pending:
        """Compute on the device what the observer wants from one batch.

        batch   on the device of its logits
        chosen  int64 [B], the windows that the batch holds

        Must not wait for the device. Several lanes may call it at the same time. An exception is
        handled like one from the network: the batch is halved and computed again, so that windows
        may come a second time.
        """
        ...

    def result(self) -> Found:
        """Return what was found in all windows, after `predict`."""
        ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a pass of all windows through the network reports; results are the observers'.

    failures       pair -> (reason, message) of pairs with a window that could not be computed
    real_tokens    tokens of all windows
    padded_tokens  tokens of all batches with their padding
    """

    failures: dict[int, tuple[str, str]]
    real_tokens: int
    padded_tokens: int


def predict(
    reader: Reader, windows: Windows, batch_tokens: int, observers: Sequence[Observer[Any]]
) -> Prediction:
    """Compute the logits of all windows and show every batch of them to the observers.

    Raises the error itself if there are several windows and not one of them could be computed, and
    what `try_predict` raises.
    """
    prediction, error = try_predict(reader, windows, batch_tokens, observers)
    if error is not None and len(windows) > 1:
        raise error
    return prediction


def try_predict(
    reader: Reader, windows: Windows, batch_tokens: int, observers: Sequence[Observer[Any]]
) -> tuple[Prediction, BaseException | None]:
    """Do as `predict`, but return the error if not one window could be computed.

    Windows are sorted by length; a batch has at most `batch_tokens` padded tokens. If there are
    enough batches, as many lanes work on them as the reader takes.

    A batch that fails is halved until it passes or is one window. That window has then failed:
    "out_of_memory" or "model_error". A batch that runs out of memory while other lanes work is
    first retried alone. Observers leave nothing of a batch that fails.

    Raises the error itself if the device is lost.
    """
    pending = Pending()
    failed: dict[int, tuple[str, str]] = {}
    errors: list[BaseException] = []
    computed: list[int] = []
    again: list[np.ndarray] = []
    lengths, work_done = windows.lengths, current()
    waiting = plan_windows(windows, batch_tokens)[::-1]

    @torch.inference_mode()
    def compute(chosen: np.ndarray) -> None:
        batch = assemble(windows, chosen)
        logits = reader.logits(batch)
        batch = batch.to(logits[0].device)
        found = [observer.take(batch, logits, chosen) for observer in observers]
        # Only now that all have passed, because half of a failed batch's results may not stay.
        for each in found:
            pending.add(each)
        computed.append(batch.input_ids.numel())
        if work_done is not None:
            work_done.add(len(windows) * float(lengths[chosen].sum() / lengths.sum()))

    def work(chosen: np.ndarray, together: bool) -> None:
        error = error_of(partial(compute, chosen))
        if error is None:
            return
        free_memory(error)
        if together and out_of_memory(error):
            again.append(chosen)  # it may fit without other lanes
            return
        errors[:] = [error]
        if len(chosen) > 1:
            middle = len(chosen) // 2
            waiting.extend([chosen[middle:], chosen[:middle]])
        else:
            failed[int(chosen[0])] = reason_of(error, "model_error")

    with _device_lock:
        lanes = min(reader.lanes(), len(waiting) // 2)
        in_lanes(partial(work, together=lanes > 1), waiting, lanes)
        waiting.extend(sorted(again, key=lambda chosen: int(chosen[0]), reverse=True))
        in_lanes(partial(work, together=False), waiting, 1)
    pending.fetch()
    failures = failures_of_pairs(failed, windows)
    prediction = Prediction(failures, int(windows.lengths.sum()), sum(computed))
    return prediction, errors[0] if errors and not computed else None


def failures_of_pairs(failed: Mapping[int, Failure], windows: Windows) -> dict[int, Failure]:
    """Return failures of windows as failures of their pairs; each pair has that of its first."""
    return {int(windows.pair[window]): failed[window] for window in sorted(failed, reverse=True)}
