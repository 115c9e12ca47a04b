"""The annotate stage: its whole graph."""

from __future__ import annotations

import apache_beam as beam

from pipeline.job import Job
from transforms.decode_answers import DecodeAnswers
from transforms.make_windows import MakeWindows
from transforms.merge_receipts import MergeReceipts
from transforms.plan_chunks import PlanChunks
from transforms.predict_spans import PredictSpans
from transforms.read_chunk import ReadChunk
from transforms.write_chunk import WriteChunk
from transforms.write_manifest import WriteManifest


def build(pipeline: beam.Pipeline, job: Job) -> None:
    """files -> runs -> | shuffle | -> chunk by chunk: read, cut, predict, decode, write -> receipts -> manifest."""
    _ = (
        pipeline
        | "ListFiles" >> beam.Create([None, *job.files])  # None: the sentinel, so that zero rows have a manifest too
        | "PlanChunks" >> PlanChunks(job.expected, job.texts, job.chunk_size)
        | "Reshuffle" >> beam.Reshuffle()
        | "ProcessChunks" >> _ProcessChunks(job)
        | "MergeReceipts" >> MergeReceipts()
        | "WriteManifest" >> WriteManifest(job.output, job.about, job.max_failed_fraction)
    )


class _ProcessChunks(beam.PTransform):
    """The steps that a runner fuses into one stage, so that resource hints can be put on all of them together."""

    def __init__(self, job: Job):
        super().__init__()
        self.job = job

    def expand(self, runs: beam.PCollection) -> beam.PCollection:
        job = self.job
        return (
            runs
            | "ReadChunk" >> ReadChunk(job.output, job.expected)
            | "MakeWindows" >> MakeWindows(job.reader, job.limits)
            | "PredictSpans" >> PredictSpans(job.reader, job.decoding, job.batch_tokens)
            | "DecodeAnswers" >> DecodeAnswers(job.decoding, job.null_threshold)
            | "WriteChunk" >> WriteChunk(job.output, job.columns)
        )
