"""ChunkStep: what every step on chunks has in common.

One DoFn runs any step. It passes receipts through, turns errors into failed receipts of the stages
they concern, and measures the time of each step.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

import apache_beam as beam
from apache_beam.metrics import Metrics

from model.backends.errors import device_lost, is_panic
from model.checkpoint import CheckpointError
from transforms.claim import ClaimLost
from transforms.records import Chunk, ChunkRun, Receipt, failed_receipts
from transforms.retries import take_retries

NAMESPACE = "spanmill"
"""The namespace of all Beam counters and distributions."""

_log = logging.getLogger(NAMESPACE)

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Element = TypeVar("Element", bound="Chunk[Any] | ChunkRun")
Result = TypeVar("Result", bound="Chunk[Any] | Receipt")


class ChunkStep(beam.PTransform, Generic[Element, Result]):
    """A step on chunks, or on runs of chunks: a dataclass with `setup` and `apply`.

    An Exception in `apply`, or a panic of the tokenizer (`is_panic`), becomes a failed receipt of
    each stage that the chunk still lacks. If the step does extra work for `stage`, the chunk is
    tried once more without that stage: if this succeeds, only `stage` fails, and the chunk
    continues for the other stages. Systemic errors are raised: the runner retries the bundle or
    ends the run.

    stage  the stage for which the step does extra work if the chunk wants it (`Chunk.wants`);
           "" if there is none
    """

    stage: ClassVar[str] = ""

    def setup(self) -> None:
        """Load what `apply` needs, once per DoFn instance. The default does nothing."""

    def apply(self, element: Element) -> Iterator[Result | Receipt]:
        """Yield the chunk for the next step, or the receipts of a finished chunk."""
        raise AssertionError(f"{type(self).__name__} has no apply")

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        return elements | beam.ParDo(_RunStep(self))


class _RunStep(beam.DoFn):
    """Runs any step."""

    def __init__(self, step: ChunkStep[Any, Any]):
        self.step, self.name = step, type(step).__name__
        self.milliseconds = Metrics.distribution(NAMESPACE, f"{self.name}_milliseconds")

    def setup(self) -> None:
        self.step.setup()

    def process(self, element: Chunk[Any] | ChunkRun | Receipt) -> Iterator[Chunk[Any] | Receipt]:
        # A finished chunk travels on to MergeReceipts as its receipt.
        if isinstance(element, Receipt):
            yield element
            return
        retries = 0
        for result, elapsed in self._timed_results(element):
            # The envelope is updated here, so that steps need not know about times or retries.
            seconds = {**result.seconds, self.name: elapsed}
            if isinstance(result, Chunk):
                yield replace(result, seconds=seconds)
            elif isinstance(element, ChunkRun) and result.failed_step != self.name:
                yield result  # a committed receipt of an earlier try, or a receipt of PlanChunks
            else:
                retries += take_retries()  # each stage of a chunk reports all of its retries
                yield replace(result, seconds=seconds, retries=retries)

    def _timed_results(
        self, element: Chunk[Any] | ChunkRun
    ) -> Iterator[tuple[Chunk[Any] | Receipt, float]]:
        """Yield the results of the step, each with its time in seconds."""
        started = time.perf_counter()
        if isinstance(element, Chunk):
            results = self._results(element)
            elapsed = time.perf_counter() - started
            self.milliseconds.update(int(elapsed * 1000))
            # The work on a chunk is done for all of its results: each has the whole time.
            yield from ((result, elapsed) for result in results)
            return
        # A step on runs reads one chunk at a time; `ReadChunk` handles the errors of each itself.
        for result in self.step.apply(element):
            elapsed = time.perf_counter() - started
            self.milliseconds.update(int(elapsed * 1000))
            yield result, elapsed
            started = time.perf_counter()

    def _results(self, chunk: Chunk[Any]) -> list[Chunk[Any] | Receipt]:
        """Return the results of the step, and failed receipts of the stages for which it fails."""
        try:
            # A list: an error must not leave some results of the chunk already passed on.
            return list(self.step.apply(chunk))
        except BaseException as error:
            failure = error
            raise_unless_of_chunk(error)
        # The error may come from the extra work for one stage: the other stages should not fail.
        others = tuple(stage for stage in chunk.stages if stage != self.step.stage)
        if others and others != chunk.stages:
            try:
                results = list(self.step.apply(replace(chunk, stages=others)))
            except BaseException as error:
                raise_unless_of_chunk(error)
            else:
                return [*report_failure(chunk, (self.step.stage,), self.name, failure), *results]
        return [*report_failure(chunk, chunk.stages, self.name, failure)]


def report_failure(
    chunk: Chunk[Any], stages: tuple[str, ...], step: str, error: BaseException
) -> list[Receipt]:
    """Log and count the failure of a chunk, and return the failed receipts of some of its stages.

    Raises an error that concerns more than this chunk.
    """
    raise_unless_of_chunk(error)
    _log.warning("%s failed on %s: %s", step, chunk.spec.part, error, exc_info=error)
    Metrics.counter(NAMESPACE, "failed_chunks").inc()
    return failed_receipts(chunk.spec, stages, step, error, chunk.seconds)


def closing_failure(stage: str, step: str, path: str, error: BaseException) -> Receipt:
    """Return the failed receipt of a step that closes a stage after its chunks, and log the error.

    path  the file or folder that the step worked on

    Raises an error that concerns more than this stage.
    """
    raise_unless_of_chunk(error)
    _log.warning("%s failed on %s: %s", step, path, error, exc_info=error)
    message = f"{type(error).__name__}: {error}"
    return Receipt(stage=stage, path=path, failed_step=step, error=message)


def raise_unless_of_chunk(error: BaseException) -> None:
    """Raise an error that concerns more than one chunk: a systemic error or an interrupt."""
    if is_systemic(error) or not (isinstance(error, Exception) or is_panic(error)):
        raise error


def is_systemic(error: BaseException) -> bool:
    """Return whether an error ends the run.

    Such errors are a full disk, a missing permission to write, a lost claim, a model that can't be
    loaded, and a lost device.
    """
    # These would fail every other chunk too: its rows should not count as failed.
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return True
    if isinstance(error, PermissionError | ClaimLost):
        return True
    return device_lost(error) or isinstance(error, CheckpointError)
