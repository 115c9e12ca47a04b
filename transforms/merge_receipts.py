"""MergeReceipts: all receipts into one total, the same for any order and any number of workers."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import apache_beam as beam

from transforms.records import Receipt

MOST_FAILURES = 1000
"""How many failures are listed one by one; all are counted."""


@dataclass(slots=True)
class Totals:
    """What the receipts of a run add up to.

    counts, reasons  sums over chunks
    seconds          time by step
    failures         the first MOST_FAILURES by path, row group and row
    content          XOR of the digests of (part, digest): says whether two runs hold the same content
    """

    chunks: int = 0
    failed_chunks: int = 0
    failed_rows: int = 0
    refused_files: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)  # type: ignore[type-var]  # a Counter of floats
    failures: list[tuple[str, int, int, int, str, str]] = field(default_factory=list)
    content: int = 0

    def add(self, receipt: Receipt) -> None:
        self.seconds.update(receipt.seconds)  # type: ignore[arg-type]
        if receipt.failed_stage:
            if receipt.part:
                self.chunks += 1
                self.failed_chunks += 1
                self.failed_rows += receipt.rows
            else:
                self.refused_files += 1
            place = receipt.path, receipt.row_group, receipt.row_start, receipt.rows
            self.failures.append((*place, receipt.failed_stage, receipt.error))
            self._trim()
        elif receipt.part:
            self.chunks += 1
            self.counts.update(receipt.counts)
            self.reasons.update(receipt.reasons)
            named = hashlib.sha256(f"{receipt.part} {receipt.digest}".encode()).digest()
            self.content ^= int.from_bytes(named[:16])

    def merge(self, other: Totals) -> None:
        self.chunks += other.chunks
        self.failed_chunks += other.failed_chunks
        self.failed_rows += other.failed_rows
        self.refused_files += other.refused_files
        self.counts.update(other.counts)
        self.reasons.update(other.reasons)
        self.seconds.update(other.seconds)
        self.failures += other.failures
        self._trim()
        self.content ^= other.content

    def _trim(self) -> None:
        if len(self.failures) > 2 * MOST_FAILURES:
            self.failures = heapq.nsmallest(MOST_FAILURES, self.failures)


class ReceiptsCombineFn(beam.CombineFn):
    """Receipts -> Totals."""

    def create_accumulator(self) -> Totals:
        return Totals()

    def add_input(self, totals: Totals, receipt: Receipt) -> Totals:
        totals.add(receipt)
        return totals

    def merge_accumulators(self, several: Iterable[Totals]) -> Totals:
        merged = Totals()
        for totals in several:
            merged.merge(totals)
        return merged

    def extract_output(self, totals: Totals) -> Totals:
        totals.failures = heapq.nsmallest(MOST_FAILURES, totals.failures)
        return totals


class MergeReceipts(beam.PTransform):
    """All Receipts -> one Totals."""

    def expand(self, receipts: beam.PCollection) -> beam.PCollection:
        return receipts | beam.CombineGlobally(ReceiptsCombineFn())
