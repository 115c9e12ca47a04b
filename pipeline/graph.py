"""The graph of annotate and audit: the same steps, the audit's with one more."""

from __future__ import annotations

import apache_beam as beam

from pipeline.identity import input_ranges
from pipeline.job import Job
from transforms.decode_answers import DecodeAnswers
from transforms.make_windows import MakeWindows
from transforms.measure_loss import MeasureLoss
from transforms.merge_receipts import MergeReceipts
from transforms.plan_chunks import PlanChunks
from transforms.predict_spans import PredictSpans
from transforms.read_chunk import ReadChunk
from transforms.write_chunk import WriteChunk
from transforms.write_manifest import StageOutput, WriteManifest


def build(pipeline: beam.Pipeline, job: Job) -> None:
    """files -> runs -> | shuffle | -> chunk by chunk: read, cut, predict, decode, measure, write -> receipts -> manifest."""
    outputs = tuple(StageOutput(stage, folder, job.about(stage)) for stage, folder in job.outputs)
    process = _ProcessChunks(job)
    if job.accelerator:  # for all of them: a hint in their middle would split what a runner fuses
        process = process.with_resource_hints(accelerator=job.accelerator)
    _ = (
        pipeline
        | "ListFiles" >> beam.Create([None, *input_ranges(job)])  # None: the sentinel, so that zero rows have a manifest too
        | "PlanChunks" >> PlanChunks(job.expected, job.texts, job.chunk_size)
        | "Reshuffle" >> beam.Reshuffle()
        | "ProcessChunks" >> process
        | "MergeReceipts" >> MergeReceipts(job.stages)
        | "WriteManifest" >> WriteManifest(outputs, job.max_failed_fraction)
    )


class _ProcessChunks(beam.PTransform):
    """The steps that a runner fuses into one stage, so that resource hints can be put on all of them together."""

    def __init__(self, job: Job):
        super().__init__()
        self.job = job

    def expand(self, runs: beam.PCollection) -> beam.PCollection:
        job = self.job
        answered = (
            runs
            | "ReadChunk" >> ReadChunk(job.outputs, job.expected)
            | "MakeWindows" >> MakeWindows(job.reader, job.limits)
            | "PredictSpans" >> PredictSpans(job.reader, job.decoding, job.batch_tokens, job.audit.link)
            | "DecodeAnswers" >> DecodeAnswers(job.decoding, job.null_threshold, "annotate" in job.stages)
        )
        if "audit" in job.stages:
            answered |= "MeasureLoss" >> MeasureLoss(job.decoding, job.audit)
        return answered | "WriteChunk" >> WriteChunk(job.outputs, job.columns)
