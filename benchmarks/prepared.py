"""Prepare a job as `run_pipeline` does, to measure its work without its start-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.graph import build
from pipeline.job.identity import claim
from pipeline.job.options import parse
from pipeline.job.resolve import Job, resolve
from pipeline.job.runners import make_runner


def prepare(
    arguments: Sequence[str], reader_of: Callable[[Any], Any] = lambda reader: reader
) -> tuple[Job, Callable[[], None]]:
    """Return the job of a command line, and a function that claims its output and runs it.

    reader_of  returns the reader to use in place of the job's
    """
    options, rest = parse(arguments)
    beam_options = PipelineOptions(rest)
    resolved = resolve(options, beam_options)
    job = replace(
        resolved, reader=replace(resolved.reader, reader=reader_of(resolved.reader.reader))
    )

    def run() -> None:
        claim(job, options.overwrite)
        pipeline = beam.Pipeline(runner=make_runner(beam_options), options=beam_options)
        build(pipeline, job)
        pipeline.run().wait_until_finish()

    return job, run
