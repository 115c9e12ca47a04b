"""ChunkStep: which errors fail a chunk, and which end the run."""

from __future__ import annotations

import errno
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
import torch

# pytest would collect `Test...`.
from apache_beam.testing.test_pipeline import (
    TestPipeline as PipelineOfTests,
)
from apache_beam.testing.util import assert_that, equal_to

from model.checkpoint import CheckpointError
from tests.transforms.fakes import asked, make_chunk, run_step
from transforms.chunk_step import ChunkStep, is_systemic
from transforms.claim import ClaimLost
from transforms.records import Chunk, ChunkRun, Receipt


@dataclass
class FakeStep(ChunkStep):
    work: Callable[[Any], list[Any]]

    def apply(self, element: Any) -> Iterator[Any]:
        yield from self.work(element)


def fail_with(error: BaseException) -> FakeStep:
    def work(_: Any) -> list[Any]:
        raise error

    return FakeStep(work)


CHUNK = make_chunk(asked("a", "b"), row_group=1, row_start=4)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd"),
        MemoryError(),
        OSError(errno.EIO, "Input/output error"),
        torch.OutOfMemoryError("CUDA out of memory"),
        KeyError("x"),
    ],
)
def test_an_error_makes_a_failed_receipt(error: Exception):
    (receipt,) = run_step(fail_with(error), CHUNK)
    assert isinstance(receipt, Receipt)
    assert (receipt.path, receipt.row_group, receipt.row_start, receipt.rows) == (
        "/in/a.parquet",
        1,
        4,
        2,
    )
    assert receipt.part == CHUNK.spec.part
    assert receipt.failed_step == "FakeStep"
    assert receipt.error == f"{type(error).__name__}: {error}"
    assert receipt.counts == {}  # its rows are counted as failed only


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.EACCES, "Permission denied"),
        ClaimLost("the output is another run's"),
        CheckpointError("the checkpoint is gone"),
        torch.AcceleratorError("device lost", 1),
    ],
)
def test_a_systemic_error_is_raised(error: Exception):
    assert is_systemic(error)
    with pytest.raises(type(error)):
        run_step(fail_with(error), CHUNK)


def test_what_is_no_exception_is_never_caught():
    with pytest.raises(KeyboardInterrupt):
        run_step(fail_with(KeyboardInterrupt()), CHUNK)


def test_a_panic_of_the_tokenizer_is_of_this_chunk():
    """It is not an Exception: raised, it would end every run at this chunk."""
    panic = type("PanicException", (BaseException,), {})("index out of bounds")
    (receipt,) = run_step(fail_with(panic), CHUNK)
    assert receipt.error == "PanicException: index out of bounds"


def test_receipts_pass_through_untouched():
    receipt = Receipt(part="p", failed_step="ReadChunk", error="odd")
    (passed,) = run_step(fail_with(AssertionError("called")), receipt)
    assert passed is receipt


def test_time_is_added_to_the_chunk_under_the_name_of_the_step():
    chunk = replace(CHUNK, seconds={"ReadChunk": 1.5})
    (result,) = run_step(FakeStep(lambda given: [given.carrying("made")]), chunk)
    assert result.payload == "made"
    assert result.seconds.keys() == {"ReadChunk", "FakeStep"}
    assert result.seconds["ReadChunk"] == 1.5
    assert result.seconds["FakeStep"] >= 0
    assert chunk.seconds == {"ReadChunk": 1.5}


def test_time_is_added_to_every_receipt_of_a_last_step():
    def work(_: Any) -> list[Any]:
        time.sleep(0.01)
        return [Receipt(stage="audit"), Receipt(stage="annotate")]

    audit, annotate = run_step(FakeStep(work), CHUNK)
    assert (audit.stage, annotate.stage) == ("audit", "annotate")
    assert audit.seconds.keys() == {"FakeStep"}
    assert audit.seconds["FakeStep"] == annotate.seconds["FakeStep"] >= 0.01


def test_of_a_run_only_what_the_step_made_is_timed():
    """A receipt of an earlier try, or of planning, stays as it is."""
    earlier = Receipt(part="p", seconds={"ReadChunk": 1.5})
    refused = Receipt(failed_step="PlanChunks")
    failed = Receipt(part="q", failed_step="FakeStep")
    results = run_step(
        FakeStep(lambda _: [earlier, refused, CHUNK, failed]), ChunkRun("/in/a.parquet", 0, ())
    )
    assert results[0] is earlier
    assert results[1] is refused
    assert results[2].seconds.keys() == results[3].seconds.keys() == {"FakeStep"}


def test_chunks_and_receipts_can_be_pickled():
    """Beam's size sampler pickles some elements, even if they never leave the process."""
    assert pickle.loads(pickle.dumps(CHUNK)) == CHUNK
    receipt = Receipt(part="p", counts={"rows": 2}, seconds={"ReadChunk": 0.5})
    assert pickle.loads(pickle.dumps(receipt)) == receipt


class FailOnB(ChunkStep):
    def apply(self, chunk: Chunk) -> Iterator[Receipt]:
        if "b" in chunk.table.column("context").to_pylist():
            raise ValueError("a b")
        yield Receipt(part="done")


def test_in_a_pipeline_one_failed_chunk_is_counted_and_the_others_go_on():
    pipeline = PipelineOfTests()
    chunks = [make_chunk(asked("a")), make_chunk(asked("b"), row_group=2)]
    found = pipeline | beam.Create(chunks, reshuffle=False) | FailOnB()
    assert_that(
        found | beam.Map(lambda receipt: (receipt.part, receipt.failed_step)),
        equal_to([("done", ""), (chunks[1].spec.part, "FailOnB")]),
    )
    result = pipeline.run()
    result.wait_until_finish()
    counters = {
        each.key.metric.name: each.committed for each in result.metrics().query()["counters"]
    }
    assert counters["failed_chunks"] == 1
    times = {each.key.metric.name for each in result.metrics().query()["distributions"]}
    assert "FailOnB_milliseconds" in times


class MeasureFake(ChunkStep):
    """Does extra work for the audit, which fails, and common work, which fails on a "b"."""

    stage = "audit"

    def apply(self, chunk: Chunk) -> Iterator[Chunk]:
        if chunk.wants("audit"):
            raise ValueError("the audit")
        if "b" in chunk.table.column("context").to_pylist():
            raise KeyError("all")
        yield chunk


def results_of(*contexts: str, stages: tuple[str, ...]) -> list[Any]:
    chunk = replace(make_chunk(asked(*contexts)), stages=stages)
    return run_step(MeasureFake(), chunk)


class TestStages:
    def test_what_a_step_does_for_one_stage_fails_for_that_alone(self):
        receipt, chunk = results_of("a", stages=("audit", "annotate"))
        assert (receipt.stage, receipt.failed_step, receipt.error) == (
            "audit",
            "MeasureFake",
            "ValueError: the audit",
        )
        assert chunk.stages == ("annotate",)
        assert chunk.seconds["MeasureFake"] == receipt.seconds["MeasureFake"]

    def test_what_it_does_for_all_fails_for_all_that_are_still_wanted(self):
        receipts = results_of("a", "b", stages=("audit", "annotate"))
        assert [(receipt.stage, receipt.error) for receipt in receipts] == [
            ("audit", "ValueError: the audit"),
            ("annotate", "ValueError: the audit"),
        ]
        (receipt,) = results_of("b", stages=("annotate",))  # the audit's part is committed
        assert (receipt.stage, receipt.error) == ("annotate", "KeyError: 'all'")

    def test_a_stage_alone_and_rows_of_no_file_have_one_failed_receipt(self):
        (receipt,) = results_of("a", stages=("audit",))
        assert receipt.stage == "audit"
        (receipt,) = results_of("a", stages=())
        assert receipt.stage == ""

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
    def test_what_is_not_of_the_chunk_is_raised_from_the_second_try_too(self, error: BaseException):
        class Step(ChunkStep):
            stage = "audit"

            def apply(self, chunk: Chunk) -> Iterator[Chunk]:
                raise ValueError("the audit") if chunk.wants("audit") else error

        with pytest.raises(type(error)):
            run_step(Step(), replace(CHUNK, stages=("audit", "annotate")))


def test_a_step_without_work_says_so():
    (receipt,) = run_step(ChunkStep(), make_chunk(pa.table({"a": [1]})))
    assert "has no apply" in receipt.error
