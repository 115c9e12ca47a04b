"""MergeReceipts: adds all receipts up to one total per stage.

The totals are the same for any order of receipts and any number of workers.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import apache_beam as beam

from model.audit.statistics import Statistics
from transforms.chunk_step import closing_failure
from transforms.claim import Output
from transforms.records import Receipt

MOST_FAILURES = 1000
"""Most failures that are listed; all are counted."""


@dataclass(slots=True)
class Totals:
    """What the receipts of one stage add up to.

    counts, reasons  sums over chunks
    seconds          time by step
    failed_steps     steps that failed after the chunks, where they close the stage
    failures         the first MOST_FAILURES of (path, row group, row start, rows, step, error),
                     and those of `failed_steps`
    content          XOR of the hashes of (part, digest): equal for runs with equal content
    statistics       of the audit
    corrected        ids of rows whose golds were corrected
    rejecting        chunks with rejected rows: each has a file of rejections
    retries          of all processes, as far as their receipts report them
    examples         texts of the rows that lists name (`transforms.read_examples`)
    """

    chunks: int = 0
    failed_chunks: int = 0
    failed_rows: int = 0
    refused_files: int = 0
    failed_steps: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: list[tuple[str, int, int, int, str, str]] = field(default_factory=list)
    content: int = 0
    statistics: Statistics | None = None
    corrected: set[str] = field(default_factory=set)
    rejecting: int = 0
    retries: int = 0
    examples: Mapping[tuple[str, int], Any] = field(default_factory=dict)

    @property
    def failures_not_listed(self) -> int:
        """Return how many failures are counted, but not in `failures`."""
        failed = self.failed_chunks + self.refused_files + len(self.failed_steps)
        return failed - len(self.failures)

    def add(self, receipt: Receipt) -> None:
        """Add a receipt.

        A receipt without a stage reports planning and counts for every stage.
        """
        self.retries += receipt.retries
        self._add_seconds(receipt.seconds)
        if receipt.failed_step:
            self._add_failed(receipt)
        elif receipt.part:
            self.chunks += 1
            self.counts.update(receipt.counts)
            self.reasons.update(receipt.reasons)
            self.corrected.update(receipt.corrected)
            self.rejecting += receipt.counts.get("rejected", 0) > 0
            # XOR ignores the order; names keep parts of equal content from cancelling out.
            named = hashlib.sha256(f"{receipt.part} {receipt.digest}".encode()).digest()
            self.content ^= int.from_bytes(named[:16])
            if receipt.statistics is not None:
                self._add_statistics(receipt.statistics)

    def _add_failed(self, receipt: Receipt) -> None:
        """Add a failed receipt.

        With a part it is a chunk. Without one it is a file that planning refused, for every stage,
        or a step that closes one stage.
        """
        rows = receipt.path, receipt.row_group, receipt.row_start, receipt.rows
        failure = (*rows, receipt.failed_step, receipt.error)
        if receipt.stage and not receipt.part:
            self.failed_steps.append(receipt.failed_step)
            self.failures = [*self.failures, failure]  # listed even if many chunks failed
            return
        self._add_failures([failure])
        if receipt.part:
            self.chunks += 1
            self.failed_chunks += 1
            self.failed_rows += receipt.rows
        else:
            self.refused_files += 1

    def _add_seconds(self, seconds: Mapping[str, float]) -> None:
        for step, spent in seconds.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + spent

    def merge(self, other: Self) -> None:
        """Add the totals of other receipts."""
        self.chunks += other.chunks
        self.failed_chunks += other.failed_chunks
        self.failed_rows += other.failed_rows
        self.refused_files += other.refused_files
        self.failed_steps += other.failed_steps
        self.counts.update(other.counts)
        self.reasons.update(other.reasons)
        self._add_seconds(other.seconds)
        self._add_failures(other.failures)
        self.content ^= other.content
        self.corrected |= other.corrected
        self.rejecting += other.rejecting
        self.retries += other.retries
        if other.statistics is not None:
            self._add_statistics(other.statistics)

    def _add_failures(self, failures: list[tuple[str, int, int, int, str, str]]) -> None:
        # The smallest, not the first to arrive: the list is the same for any order.
        self.failures = heapq.nsmallest(MOST_FAILURES, [*self.failures, *failures])

    def _add_statistics(self, statistics: Statistics) -> None:
        if self.statistics is None:
            self.statistics = Statistics()
        self.statistics.merge(statistics)


@contextmanager
def closing(totals: Totals, step: str, output: Output) -> Iterator[None]:
    """Add an error of a step that closes a stage to the totals of the stage, which continues.

    Raises an error that concerns more than this stage.
    """
    try:
        yield
    except BaseException as error:
        totals.add(closing_failure(output.stage, step, output.folder, error))


class ReceiptsCombineFn(beam.CombineFn):
    """Receipts -> Totals by stage."""

    def __init__(self, stages: tuple[str, ...]):
        self.stages = stages

    def create_accumulator(self) -> dict[str, Totals]:
        return {stage: Totals() for stage in self.stages}

    def add_input(self, totals: dict[str, Totals], receipt: Receipt) -> dict[str, Totals]:
        # Every stage reports the files that planning refused.
        for stage in [receipt.stage] if receipt.stage else self.stages:
            totals[stage].add(receipt)
        return totals

    def merge_accumulators(self, several: Iterable[dict[str, Totals]]) -> dict[str, Totals]:
        merged = self.create_accumulator()
        for totals in several:
            for stage, each in totals.items():
                merged[stage].merge(each)
        return merged

    def extract_output(self, totals: dict[str, Totals]) -> dict[str, Totals]:
        return totals


@dataclass
class MergeReceipts(beam.PTransform):
    """Receipts -> one dict of Totals by stage."""

    stages: tuple[str, ...]

    def expand(self, receipts: beam.PCollection) -> beam.PCollection:
        merged = beam.CombineGlobally(ReceiptsCombineFn(self.stages))
        # PlanChunks always yields one run, and so one receipt: there is always one result.
        return receipts | merged.without_defaults()
