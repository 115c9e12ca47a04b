"""The graph of annotate and audit: the same steps; an audit adds its own."""

from __future__ import annotations

import apache_beam as beam

from pipeline.job.duplicates import list_parts
from pipeline.job.identity import claimed_outputs, input_ranges
from pipeline.job.resolve import Job
from transforms.accounting import StageOutput
from transforms.claim import Output
from transforms.correct_golds import CorrectGolds
from transforms.decode_answers import DecodeAnswers
from transforms.find_duplicates import FindDuplicates
from transforms.make_windows import MakeWindows
from transforms.measure_loss import MeasureLoss
from transforms.merge_receipts import MergeReceipts
from transforms.plan_chunks import PlanChunks
from transforms.predict_spans import PredictSpans
from transforms.read_chunk import ReadChunk
from transforms.read_examples import ReadExamples
from transforms.storage import absolute
from transforms.write_audit import WriteAudit
from transforms.write_chunk import WriteChunk
from transforms.write_manifest import WriteManifest


def build(pipeline: beam.Pipeline, job: Job) -> None:
    """Build the graph of a job.

    files -> runs of chunks -> | shuffle | -> chunk by chunk: read, cut, predict, decode, measure,
    write -> receipts -> the audit's files -> manifests

    The manifests come last: an audit's duplicates are found in its parts before. One local worker
    needs no shuffle, and so computes the first chunk before the last file is planned.
    """
    outputs = claimed_outputs(job)
    corrections = tuple(job.audit.corrections) if job.audit else ()
    manifests = tuple(StageOutput(each, job.about(each.stage), corrections) for each in outputs)
    process = _ProcessChunks(job, outputs)
    # A hint on some of the steps would split the stage that a runner fuses them into.
    if job.work.accelerator:
        process = process.with_resource_hints(accelerator=job.work.accelerator)
    runs = (
        pipeline
        | "ListFiles" >> beam.Create(input_ranges(job), reshuffle=not job.work.alone)
        | "PlanChunks" >> PlanChunks(job.inputs.expected, job.inputs.texts, job.work.chunk_size)
    )
    if not job.work.alone:
        runs |= "Reshuffle" >> beam.Reshuffle()
    totals = runs | "ProcessChunks" >> process | "MergeReceipts" >> MergeReceipts(job.stages)
    if job.audit:
        audit = next(each for each in manifests if each.output.stage == "audit")
        against = absolute(job.audit.against) if job.audit.against else ""
        totals |= "ReadExamples" >> ReadExamples(job.inputs.columns, audit.output, job.output)
        totals |= "WriteAudit" >> WriteAudit(audit)
        parts = totals | "ListParts" >> beam.FlatMap(list_parts, audit.output.folder, against)
        if not job.work.alone:
            parts |= "ReshuffleParts" >> beam.Reshuffle()
        totals = parts | "FindDuplicates" >> FindDuplicates(audit.output, job.audit.against)
    _ = totals | "WriteManifest" >> WriteManifest(manifests, job.work.max_failed_fraction)


class _ProcessChunks(beam.PTransform):
    """The steps that a runner fuses; resource hints apply to all of them."""

    def __init__(self, job: Job, outputs: tuple[Output, ...]):
        super().__init__()
        self.job, self.outputs = job, outputs

    def expand(self, runs: beam.PCollection) -> beam.PCollection:
        job = self.job
        read = job.inputs.columns
        chunks = runs | "ReadChunk" >> ReadChunk(self.outputs, job.inputs.expected)
        if job.audit and job.audit.corrections:
            chunks |= "CorrectGolds" >> CorrectGolds(
                job.audit.corrections, job.columns.id, read.context, read.answers
            )
        answered = (
            chunks
            | "MakeWindows" >> MakeWindows(job.reader, read, job.inputs.questions)
            | "PredictSpans" >> PredictSpans(job.reader)
            | "DecodeAnswers" >> DecodeAnswers(job.reader, "annotate" in job.stages, read)
        )
        if job.audit:
            answered |= "MeasureLoss" >> MeasureLoss(job.reader, job.audit.options)
        return answered | "WriteChunk" >> WriteChunk(
            self.outputs, job.columns, job.inputs.questions
        )
