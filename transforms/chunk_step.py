"""What every chunk step has in common: errors become failed receipts of the stages that they concern, receipts pass
through, time is measured."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from model.checkpoint import CheckpointError
from model.reading.prediction import device_lost
from transforms.claim import ClaimLost
from transforms.records import Chunk, Receipt, failed_receipts
from transforms.retries import take_retries

NAMESPACE = "spanmill"
"""Of all Beam counters and distributions."""

_log = logging.getLogger(NAMESPACE)

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def is_systemic(error: BaseException) -> bool:
    """Whether an error is not of this chunk but of all: disk full, no permission to write, model gone, device lost.

    It ends the run.
    """
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return True
    if isinstance(error, PermissionError | ClaimLost):
        return True
    return device_lost(error) or isinstance(error, CheckpointError)


def is_panic(error: BaseException) -> bool:
    """Whether a Rust library (the tokenizer) gave up on this input: what it raises then is no Exception."""
    return type(error).__name__ == "PanicException"


class ChunkStep(beam.DoFn):
    """A step on chunks: subclasses load what they need in `setup` and work in `apply`.

    An Exception in `apply` becomes a failed receipt of each stage that the chunk still lacks; receipts pass through the later
    steps. Where the step does something for `stage` alone, it is first tried without that: if this succeeds, only `stage`
    fails, and the chunk goes on for the others. Systemic errors are raised: the runner retries or ends the run.

    stage  the stage for which alone the step does something if the chunk wants it (`Chunk.wants`), "" if there is none
    """

    stage = ""

    def __init__(self) -> None:
        self.name = type(self).__name__.lstrip("_")
        self.milliseconds = Metrics.distribution(NAMESPACE, f"{self.name}_milliseconds")
        self.failed_chunks = Metrics.counter(NAMESPACE, "failed_chunks")

    def apply(self, record: Any) -> Any:
        """The next record, or the receipts of the chunk if the step is the last."""
        raise AssertionError(f"{self.name} has no apply")

    def process(self, record: Any) -> Iterator[Any]:
        if isinstance(record, Receipt):
            yield record
            return
        started = time.perf_counter()
        results = self._results(record)
        elapsed = time.perf_counter() - started
        self.milliseconds.update(int(elapsed * 1000))
        done = all(isinstance(result, Receipt) for result in results)
        retries = take_retries() if done else 0
        for result in results:
            if isinstance(result, Receipt):
                yield replace(result, seconds={**result.seconds, self.name: elapsed}, retries=retries)
            else:
                chunk = _chunk_of(result)
                yield _with_chunk(result, replace(chunk, seconds={**chunk.seconds, self.name: elapsed}))

    def failed(self, chunk: Chunk, stages: tuple[str, ...], error: BaseException) -> list[Receipt]:
        """The failed receipts of these stages. Raises an error that concerns more than this chunk."""
        _raise_unless_of_chunk(error)
        _log.warning("%s failed on %s: %s", self.name, chunk.spec.part, error, exc_info=error)
        self.failed_chunks.inc()
        return failed_receipts(chunk.spec, stages, self.name, error, chunk.seconds)

    def _results(self, record: Any) -> list[Any]:
        """What `apply` makes of a record, and the failed receipts of the stages for which it can't."""
        chunk = _chunk_of(record)
        try:
            result = self.apply(record)
            return result if isinstance(result, list) else [result]
        except BaseException as error:
            _raise_unless_of_chunk(error)
            others = tuple(stage for stage in chunk.stages if stage != self.stage)
            if others and others != chunk.stages:
                try:
                    result = self.apply(_with_chunk(record, replace(chunk, stages=others)))
                    return [*self.failed(chunk, (self.stage,), error), result]
                except BaseException as again:
                    _raise_unless_of_chunk(again)
            return self.failed(chunk, chunk.stages, error)


def _raise_unless_of_chunk(error: BaseException) -> None:
    if is_systemic(error) or not (isinstance(error, Exception) or is_panic(error)):
        raise error


def _chunk_of(record: Any) -> Chunk:
    return record if isinstance(record, Chunk) else record.chunk


def _with_chunk(record: Any, chunk: Chunk) -> Any:
    return chunk if isinstance(record, Chunk) else replace(record, chunk=chunk)
