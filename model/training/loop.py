"""The training loop: batches, the learning rate, and what happens between steps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from model.backends.memory import return_memory
from model.reading.reader import bfloat16_is_faster
from model.training.data import plan_epoch, usable_windows
from model.training.state import Training

_log = logging.getLogger("spanmill.train")


@dataclass(slots=True)
class _Progress:
    """What has happened since the last line of the log.

    losses   of each step, nats
    windows  trained on
    since    value of `time.monotonic` at the last line
    """

    since: float
    losses: list[float] = field(default_factory=list)
    windows: int = 0

    def report(self, done: float, step: int, rate: float, now: float) -> None:
        """Log the mean loss and the speed, then reset."""
        _log.info(
            "%4.1f %% step %d loss %.4f lr %.2e %.1f windows/s",
            100 * done,
            step,
            float(np.mean(self.losses)),
            rate,
            self.windows / (now - self.since),
        )
        self.losses, self.windows, self.since = [], 0, now


def take_steps(training: Training) -> None:
    """Train until the epochs or the minutes are used up; log, save and evaluate in between."""
    options = training.options
    usable = usable_windows(training.examples, options.null, options.shared_normalisation)
    planned = _planned_steps(training, usable)
    # A short training has reached the learning rate after a tenth of its steps.
    warmup = min(options.warmup, max(1, planned // 10))
    autocast = _autocast(training.network.device)
    clock = last_save = last_eval = time.monotonic()
    progress = _Progress(clock)
    for chosen in _batches(training, usable, skip=training.step):
        now = time.monotonic()
        training.seconds, clock = training.seconds + now - clock, now

        # How much of the training is done decides when it ends, and the linear decay of the rate.
        minutes = training.seconds / 60 / options.max_minutes if options.max_minutes else 0.0
        done = max(training.step / planned, minutes)
        if done >= 1:
            break
        rate = options.learning_rate * min(1.0, (training.step + 1) / warmup) * (1 - done)
        loss = training.loss(chosen, autocast)
        training.step += 1
        if loss is None:
            continue
        progress.losses.append(loss.item())
        # Such a loss would spoil every weight, and their average.
        if not math.isfinite(progress.losses[-1]):
            raise RuntimeError(
                f"the loss of step {training.step} is {progress.losses[-1]}: try a smaller "
                f"--learning_rate; {options.output} has the last saved state"
            )
        training.update(loss, rate)
        progress.windows += len(chosen)

        # Between steps: a line of the log, memory, the state, an evaluation.
        if now - progress.since > options.log_seconds:
            progress.report(done, training.step, rate, now)
            return_memory()
        if now - last_save > options.save_minutes * 60:
            training.save_state()
            last_save = now
        if training.eval_rows and now - last_eval > options.eval_minutes * 60:
            training.evaluate()
            _log.info("step %d evaluation %s", training.step, training.result)
            # An evaluation is not time spent training: restart the clock and the speed.
            last_eval = clock = progress.since = time.monotonic()


def _planned_steps(training: Training, usable: np.ndarray) -> int:
    """Return the number of steps of all epochs, estimated from the batches of one."""
    options = training.options
    order = np.random.default_rng(options.seed)
    first_epoch = plan_epoch(training.examples, usable, options.batch_tokens, order)
    return max(1, int(len(first_epoch) * options.epochs))


def _batches(training: Training, usable: np.ndarray, skip: int) -> Iterator[np.ndarray]:
    """Yield the batches of endless epochs, from batch number `skip` on, as int64 [B] windows.

    The sequence depends on the seed only, so that a resumed training takes the batches it would
    have taken.
    """
    options, epoch = training.options, 0
    while True:
        order = np.random.default_rng([options.seed, epoch])
        batches = plan_epoch(training.examples, usable, options.batch_tokens, order)
        yield from batches[skip:]
        skip = max(0, skip - len(batches))
        epoch += 1


def _autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a reusable context that computes in bfloat16 where that is faster."""
    if bfloat16_is_faster(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
