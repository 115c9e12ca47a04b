"""A job of one small file and the tiny checkpoint, from a command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.job.options import parse
from pipeline.job.resolve import Job, resolve
from tests.runs import examples, write_input

Resolve = Callable[..., Job]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_input(tmp_path / "a.parquet", examples(3))


@pytest.fixture
def job(bert_folder: Path, source: Path, tmp_path: Path) -> Resolve:
    """Return a function that resolves a command line on one small file.

    It uses the tiny checkpoint; later arguments replace earlier ones.
    """

    def resolve_job(*arguments: str, stage: str = "annotate") -> Job:
        files = (f"--input={source}", f"--output={tmp_path}/out", f"--model={bert_folder}")
        options, rest = parse([stage, *files, *arguments])
        return resolve(options, PipelineOptions(rest))

    return resolve_job
