"""What every step does with errors: this chunk fails, that run ends."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
import torch
from apache_beam.testing.test_pipeline import TestPipeline as PipelineOfTests  # pytest would collect `Test...`
from apache_beam.testing.util import assert_that, equal_to

from model.checkpoint import CheckpointError
from tests.transforms.fakes import asked, make_chunk
from transforms.chunk_step import ChunkStep, is_systemic
from transforms.claim import ClaimLost
from transforms.records import Chunk, Receipt


class _FakeStep(ChunkStep):
    def __init__(self, work: Callable[[Any], Any]):
        super().__init__()
        self.work = work

    def apply(self, record: Any) -> Any:
        return self.work(record)


@dataclass(frozen=True)
class FakeRecord:
    """What a step hands on: a record with its chunk."""

    chunk: Chunk


def fail_with(error: BaseException) -> Callable[[Any], Any]:
    def work(_: Any) -> Any:
        raise error

    return work


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
    (receipt,) = _FakeStep(fail_with(error)).process(CHUNK)
    assert isinstance(receipt, Receipt)
    assert (receipt.path, receipt.row_group, receipt.row_start, receipt.rows) == ("/in/a.parquet", 1, 4, 2)
    assert receipt.part == CHUNK.spec.part
    assert receipt.failed_step == "FakeStep"
    assert receipt.error == f"{type(error).__name__}: {error}"
    assert receipt.counts == {}  # its rows are counted as failed, and as nothing else


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
        list(_FakeStep(fail_with(error)).process(CHUNK))


def test_what_is_no_exception_is_never_caught():
    with pytest.raises(KeyboardInterrupt):
        list(_FakeStep(fail_with(KeyboardInterrupt())).process(CHUNK))


def test_a_panic_of_the_tokenizer_is_of_this_chunk():
    """It is no Exception: the run would end at this chunk every time."""
    panic = type("PanicException", (BaseException,), {})("index out of bounds")
    (receipt,) = _FakeStep(fail_with(panic)).process(CHUNK)
    assert receipt.error == "PanicException: index out of bounds"


def test_receipts_pass_through_untouched():
    receipt = Receipt(part="p", failed_step="ReadChunk", error="odd")
    (passed,) = _FakeStep(fail_with(AssertionError("called"))).process(receipt)
    assert passed is receipt


def test_time_is_added_to_the_chunk_under_the_name_of_the_step():
    record = FakeRecord(Chunk(CHUNK.spec, CHUNK.table, {"ReadChunk": 1.5}))
    for given in (record, record.chunk):
        (result,) = _FakeStep(lambda _: record).process(given)
        assert result.chunk.seconds.keys() == {"ReadChunk", "FakeStep"}
        assert result.chunk.seconds["ReadChunk"] == 1.5
        assert result.chunk.seconds["FakeStep"] >= 0
    assert record.chunk.seconds == {"ReadChunk": 1.5}


def test_time_is_added_to_every_receipt_of_a_last_step():
    receipts = list(_FakeStep(lambda _: [Receipt(stage="audit"), Receipt(stage="annotate")]).process(CHUNK))
    assert [receipt.stage for receipt in receipts] == ["audit", "annotate"]
    assert all(receipt.seconds.keys() == {"FakeStep"} for receipt in receipts)


def test_chunks_and_receipts_can_be_pickled():
    """Beam's size sampler pickles a share even of what never leaves its process."""
    assert pickle.loads(pickle.dumps(CHUNK)) == CHUNK
    receipt = Receipt(part="p", counts={"rows": 2}, seconds={"ReadChunk": 0.5})
    assert pickle.loads(pickle.dumps(receipt)) == receipt


class _FailOnB(ChunkStep):
    def apply(self, chunk: Chunk) -> list[Receipt]:
        if "b" in chunk.table.column("context").to_pylist():
            raise ValueError("a b")
        return [Receipt(part="done")]


def test_in_a_pipeline_one_failed_chunk_is_counted_and_the_others_go_on():
    pipeline = PipelineOfTests()
    chunks = [make_chunk(asked("a")), make_chunk(asked("b"), row_group=2)]
    found = pipeline | beam.Create(chunks, reshuffle=False) | beam.ParDo(_FailOnB())
    assert_that(
        found | beam.Map(lambda receipt: (receipt.part, receipt.failed_step)),
        equal_to([("done", ""), (chunks[1].spec.part, "FailOnB")]),
    )
    result = pipeline.run()
    result.wait_until_finish()
    counters = {each.key.metric.name: each.committed for each in result.metrics().query()["counters"]}
    assert counters["failed_chunks"] == 1
    times = {each.key.metric.name for each in result.metrics().query()["distributions"]}
    assert "FailOnB_milliseconds" in times


class _MeasureFake(ChunkStep):
    """Does something for the audit, which fails; and something for all, which fails where the chunk has a "b"."""

    stage = "audit"

    def apply(self, record: FakeRecord) -> FakeRecord:
        if record.chunk.wants("audit"):
            raise ValueError("the audit")
        if "b" in record.chunk.table.column("context").to_pylist():
            raise KeyError("all")
        return record


def results_of(*contexts: str, stages: tuple[str, ...]) -> list[Any]:
    chunk = replace(make_chunk(asked(*contexts)), stages=stages)
    return list(_MeasureFake().process(FakeRecord(chunk)))


class TestStages:
    def test_what_a_step_does_for_one_stage_fails_for_that_alone(self):
        receipt, record = results_of("a", stages=("audit", "annotate"))
        assert (receipt.stage, receipt.failed_step, receipt.error) == ("audit", "MeasureFake", "ValueError: the audit")
        assert record.chunk.stages == ("annotate",)
        assert "MeasureFake" in record.chunk.seconds

    def test_what_it_does_for_all_fails_for_all_that_are_still_wanted(self):
        receipts = results_of("a", "b", stages=("audit", "annotate"))
        assert [(receipt.stage, receipt.error) for receipt in receipts] == [
            ("audit", "ValueError: the audit"),
            ("annotate", "ValueError: the audit"),
        ]
        (receipt,) = results_of("b", stages=("annotate",))  # the audit has its receipt already
        assert (receipt.stage, receipt.error) == ("annotate", "KeyError: 'all'")

    def test_a_stage_alone_and_rows_of_no_file_have_one_failed_receipt(self):
        (receipt,) = results_of("a", stages=("audit",))
        assert receipt.stage == "audit"
        (receipt,) = results_of("a", stages=())
        assert receipt.stage == ""

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
    def test_what_is_not_of_the_chunk_is_raised_from_the_second_try_too(self, error: BaseException):
        class _Step(ChunkStep):
            stage = "audit"

            def apply(self, chunk: Chunk) -> Chunk:
                raise ValueError("the audit") if chunk.wants("audit") else error

        with pytest.raises(type(error)):
            list(_Step().process(replace(CHUNK, stages=("audit", "annotate"))))


def test_a_step_without_work_says_so():
    (receipt,) = ChunkStep().process(make_chunk(pa.table({"a": [1]})))
    assert "has no apply" in receipt.error
