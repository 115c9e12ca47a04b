"""The stage compare: two audits of the same examples, joined by id."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipeline.formats.finished import read_manifest
from pipeline.job.duplicates import audit_configuration
from pipeline.job.identity import claimed_outputs, output_folder, refuse_removed
from pipeline.job.options import Refused
from transforms.compare_audits import SCORE_COLUMNS, AuditSide, CompareAudits
from transforms.parquet_files import open_parquet
from transforms.records import InputFile
from transforms.run_files import RunFiles
from transforms.storage import StorageError, absolute, read
from transforms.write_comparison import Gate, WriteComparison


@dataclass(frozen=True)
class CompareJob:
    """A comparison with every default resolved.

    sides  the audits before and after
    worst  number of regressions, and of improvements, to list
    """

    output: str
    sides: tuple[AuditSide, AuditSide]
    gate: Gate
    worst: int
    configuration: dict[str, Any]

    @property
    def outputs(self) -> tuple[tuple[str, str], ...]:
        """The one (stage, folder) that a comparison writes."""
        return (("compare", self.output),)

    @property
    def files(self) -> tuple[InputFile, ...]:
        """No input files: the configuration identifies both audits by their digests."""
        return ()

    def configuration_of(self, stage: str) -> dict[str, Any]:
        """Return the configuration as run.json holds it."""
        return {"stage": stage, **self.configuration}


def resolve(options: argparse.Namespace) -> CompareJob:
    """Find both audits. Raises Refused unless both are finished audits with the needed columns."""
    try:
        output = output_folder(options.output)
        before, after = absolute(options.before), absolute(options.after)
    except StorageError as error:
        raise Refused(str(error)) from error
    refuse_removed("before", before, output)
    refuse_removed("after", after, output)
    sides = _side(before, "before"), _side(after, "after")
    # The audits are identified by what they are (run.json) and by what they hold (the manifest).
    configuration: dict[str, Any] = {}
    for name, folder in (("before", before), ("after", after)):
        files = RunFiles(folder)
        content = read_manifest(files)["content"]
        run = hashlib.sha256(read(files.run)).hexdigest()
        configuration |= {name: folder, f"{name}_run": run, f"{name}_content": content}
    gate = Gate(
        options.max_f1_drop, options.max_em_drop, options.max_loss_rise, options.max_failed_fraction
    )
    return CompareJob(output, sides, gate, options.worst, {**configuration, "worst": options.worst})


def _side(folder: str, option: str) -> AuditSide:
    """Return one audit with the columns that its output keeps. Raises Refused.

    option  "before" or "after"
    """
    configuration = audit_configuration(folder, option)
    side = AuditSide(
        folder=folder,
        after=option == "after",
        id=configuration["id_column"],
        prefix=configuration["output_prefix"],
        question=configuration["question_column"],
        answers=configuration["answers_column"],
        slices=tuple(configuration["slice_by"]),
    )
    # The first part shows which of these columns the audit kept.
    columns: list[str] = []
    if paths := side.paths():
        try:
            with open_parquet(paths[0]) as file:
                columns = file.schema_arrow.names
        except (OSError, pa.ArrowException) as error:
            raise Refused(f"--{option}={folder}: {paths[0]} can't be read: {error}") from error
        for column in (side.id, *(side.prefix + name for name in SCORE_COLUMNS)):
            if column not in columns:
                raise Refused(
                    f"--{option}={folder}: its rows lack the column {column!r}, "
                    "which a comparison needs"
                )
    return replace(
        side,
        question=side.question if side.question in columns else "",
        answers=side.answers if side.answers in columns else "",
        slices=tuple(name for name in side.slices if name in columns),
    )


def build(pipeline: beam.Pipeline, job: CompareJob) -> None:
    """Build the graph of a comparison.

    Two audits -> figures of their rows by id -> shuffle -> pairs -> differences -> comparison.json
    and report.html.
    """
    (output,) = claimed_outputs(job)
    about = {"stage": "compare", "configuration": job.configuration_of("compare")}
    _ = (
        pipeline
        | "Sides" >> beam.Create(job.sides)
        | "CompareAudits" >> CompareAudits(job.worst)
        | "WriteComparison" >> WriteComparison(output, job.sides, job.gate, about)
    )
