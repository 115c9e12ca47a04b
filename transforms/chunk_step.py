"""What every chunk step has in common: errors become failed receipts, receipts pass through, time is measured."""

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
from model.prediction import device_lost
from transforms.claim import ClaimLost
from transforms.records import Chunk, Receipt, failed_receipt
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

    An Exception in `apply` turns the chunk into a failed receipt, which passes through the later steps. Systemic errors
    are raised: the runner retries or ends the run.
    """

    def __init__(self) -> None:
        self.name = type(self).__name__.lstrip("_")
        self.milliseconds = Metrics.distribution(NAMESPACE, f"{self.name}_milliseconds")
        self.failed_chunks = Metrics.counter(NAMESPACE, "failed_chunks")

    def apply(self, record: Any) -> Any:
        raise AssertionError(f"{self.name} has no apply")

    def process(self, record: Any) -> Iterator[Any]:
        if isinstance(record, Receipt):
            yield record
            return
        chunk: Chunk = record.chunk if hasattr(record, "chunk") else record
        started = time.perf_counter()
        try:
            result = self.apply(record)
        except BaseException as error:
            if is_systemic(error) or not (isinstance(error, Exception) or is_panic(error)):
                raise
            _log.warning("%s failed on %s: %s", self.name, chunk.spec.part, error, exc_info=True)
            self.failed_chunks.inc()
            yield failed_receipt(chunk.spec, self.name, error, chunk.seconds, take_retries())
            return
        elapsed = time.perf_counter() - started
        self.milliseconds.update(int(elapsed * 1000))
        if isinstance(result, list):
            retries = take_retries()
            for receipt in result:
                yield replace(receipt, seconds={**receipt.seconds, self.name: elapsed}, retries=retries)
        else:
            chunk = result if isinstance(result, Chunk) else result.chunk
            chunk = replace(chunk, seconds={**chunk.seconds, self.name: elapsed})
            yield chunk if isinstance(result, Chunk) else replace(result, chunk=chunk)
