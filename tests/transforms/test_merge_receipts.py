"""MergeReceipts: equal totals for any order of receipts and any merging, stage by stage."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import apache_beam as beam
import pytest

# pytest would collect `Test...`.
from apache_beam.testing.test_pipeline import (
    TestPipeline as PipelineOfTests,
)
from apache_beam.testing.util import assert_that

from transforms.merge_receipts import MOST_FAILURES, MergeReceipts, ReceiptsCombineFn, Totals
from transforms.records import Receipt


def done(number: int, stage: str = "annotate") -> Receipt:
    return Receipt(
        stage=stage,
        path="/in/a.parquet",
        row_group=number,
        rows=10,
        part=f"part {number}",
        counts={"rows": 10, "answered": 10 - number % 3, "rejected": number % 3},
        reasons={"question_blank": number % 3} if number % 3 else {},
        seconds={"ReadChunk": 0.5, "PredictSpans": 0.25 * number},
        digest=f"digest {number}",
        corrected=(f"row {number}", "row 0"),
    )


def failed(number: int) -> Receipt:
    return Receipt(
        path=f"/in/{number % 7}.parquet",
        row_group=number,
        rows=4,
        part=f"failed {number}",
        failed_step="ReadChunk",
        error=f"error {number}",
    )


def refused(number: int) -> Receipt:
    return Receipt(path=f"/in/bad {number}.parquet", failed_step="PlanChunks", error="no Parquet")


def combine(
    receipts: list[Receipt], stages: tuple[str, ...] = ("annotate",), pieces: int = 1
) -> dict[str, Totals]:
    """Return the totals of receipts that a runner distributes over several accumulators."""
    fn = ReceiptsCombineFn(stages)
    accumulators = [fn.create_accumulator() for _ in range(pieces)]
    for place, receipt in enumerate(receipts):
        accumulators[place % pieces] = fn.add_input(accumulators[place % pieces], receipt)
    return fn.extract_output(fn.merge_accumulators(accumulators))


def test_sums():
    receipts = [*(done(number) for number in range(6)), failed(1), failed(2), refused(1), Receipt()]
    totals = combine(receipts)["annotate"]
    assert (totals.chunks, totals.failed_chunks, totals.failed_rows, totals.refused_files) == (
        8,
        2,
        8,
        1,
    )
    assert totals.counts == {"rows": 60, "answered": 54, "rejected": 6}
    assert totals.corrected == {f"row {number}" for number in range(6)}
    assert totals.reasons == {"question_blank": 6}
    assert totals.seconds == {"ReadChunk": 3.0, "PredictSpans": 3.75}
    assert totals.failures == [
        ("/in/1.parquet", 1, 0, 4, "ReadChunk", "error 1"),
        ("/in/2.parquet", 2, 0, 4, "ReadChunk", "error 2"),
        ("/in/bad 1.parquet", -1, 0, 0, "PlanChunks", "no Parquet"),
    ]


@pytest.mark.parametrize("pieces", [1, 2, 5, 40])
def test_order_and_number_of_workers_do_not_matter(pieces: int):
    receipts = [*map(done, range(25)), *map(failed, range(9)), *map(refused, range(3)), Receipt()]
    wanted = combine(receipts)
    shuffled = list(receipts)
    random.Random(pieces).shuffle(shuffled)
    assert combine(shuffled, pieces=pieces) == wanted


def test_no_receipts_are_no_rows():
    assert combine([]) == combine([Receipt()]) == {"annotate": Totals()}


def test_all_failures_are_counted_and_the_first_listed():
    numbers = list(range(3 * MOST_FAILURES))
    random.Random(0).shuffle(numbers)
    totals = combine(
        [replace(failed(number), path="/in/a.parquet") for number in numbers], pieces=3
    )["annotate"]
    assert totals.failed_chunks == 3 * MOST_FAILURES
    assert [failure[1] for failure in totals.failures] == list(range(MOST_FAILURES))


def test_a_step_that_closes_a_stage_is_listed_after_any_number_of_chunks():
    numbers = range(MOST_FAILURES + 5)
    totals = combine([failed(number) for number in numbers])["annotate"]
    totals.add(Receipt(stage="annotate", path="/out", failed_step="WriteAudit", error="odd"))
    assert totals.failed_steps == ["WriteAudit"]
    assert totals.failures[MOST_FAILURES:] == [("/out", -1, 0, 0, "WriteAudit", "odd")]
    assert (totals.failed_chunks, totals.refused_files) == (len(numbers), 0)


class TestContent:
    def content(self, *receipts: Receipt) -> int:
        return combine(list(receipts))["annotate"].content

    def test_it_says_which_part_holds_what(self):
        one, two = done(1), done(2)
        swapped = replace(one, digest=two.digest), replace(two, digest=one.digest)
        assert self.content(one, two) == self.content(two, one) != self.content(*swapped)
        assert self.content(one) != self.content(one, two) != self.content(two)

    def test_equal_digests_of_two_parts_do_not_cancel_out(self):
        one, twin = done(1), replace(done(2), digest=done(1).digest)
        assert self.content(one, twin) != self.content()

    def test_times_and_counts_play_no_part(self):
        assert self.content(done(1)) == self.content(replace(done(1), seconds={}, counts={}))


def test_stages_are_kept_apart_and_failures_are_of_each():
    receipts = [done(1, "audit"), done(1, "annotate"), done(2, "audit"), failed(3), refused(1)]
    totals = combine(receipts, ("audit", "annotate"), pieces=2)
    assert totals["audit"].counts["rows"] == 20
    assert totals["annotate"].counts["rows"] == 10
    for each in totals.values():
        assert (each.failed_chunks, each.refused_files) == (1, 1)


def test_in_a_pipeline_plannings_own_receipt_is_a_total_of_nothing():
    def check(found: list[Any]) -> None:
        assert found == [{"annotate": Totals()}]

    with PipelineOfTests() as pipeline:
        assert_that(
            pipeline | beam.Create([Receipt()], reshuffle=False) | MergeReceipts(("annotate",)),
            check,
        )
