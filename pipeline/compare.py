"""The stage compare: two audits of the same examples, joined by id."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from pipeline.duplicates import audit_configuration
from pipeline.identity import claimed_outputs
from pipeline.options import Refused
from transforms.compare_audits import SCORE_COLUMNS, CompareAudits, ScoredPart
from transforms.records import InputFile
from transforms.storage import StorageError, absolute, join, list_names, open_parquet, read
from transforms.write_comparison import Gate, WriteComparison
from transforms.write_manifest import MANIFEST


@dataclass(frozen=True)
class CompareJob:
    """A comparison with everything resolved.

    parts    of both sides
    answers  name of the column of golds after; "" where its output does not keep it
    worst    regressions and improvements that are listed
    """

    output: str
    parts: tuple[ScoredPart, ...]
    answers: str
    gate: Gate
    worst: int
    configuration: dict[str, Any]

    @property
    def outputs(self) -> tuple[tuple[str, str], ...]:
        return (("compare", self.output),)

    @property
    def files(self) -> tuple[InputFile, ...]:
        return ()  # both audits are in the configuration, by what they are and what they hold

    def configuration_of(self, stage: str) -> dict[str, Any]:
        return {"stage": stage, **self.configuration}


def resolve(options: argparse.Namespace) -> CompareJob:
    """Finds both audits. Raises Refused for one that is none, is unfinished, or lacks columns that are needed."""
    try:
        output = absolute(options.output)
        sides = {name: absolute(getattr(options, name)) for name in ("before", "after")}
    except StorageError as error:
        raise Refused(str(error)) from error
    if output in sides.values():
        raise Refused(f"--output={options.output} is one of the audits that are compared")
    parts: list[ScoredPart] = []
    answers = ""
    configuration: dict[str, Any] = {}
    for name, folder in sides.items():
        found, answers = _parts(folder, name)
        parts += found
        content = json.loads(read(join(folder, MANIFEST)))["content"]
        run = hashlib.sha256(read(join(folder, "run.json"))).hexdigest()
        configuration |= {name: folder, f"{name}_run": run, f"{name}_content": content}
    worst = 50 if options.worst is None else options.worst
    gate = Gate(options.max_f1_drop, options.max_em_drop, options.max_loss_rise, options.max_failed_fraction)
    return CompareJob(output, tuple(parts), answers, gate, worst, {**configuration, "worst": worst})


def _parts(folder: str, option: str) -> tuple[list[ScoredPart], str]:
    """The parts of one side, and the name of its column of golds, if it is kept."""
    configuration = audit_configuration(folder, option)
    names = list_names(join(folder, "parts"))
    columns: list[str] = []
    if names:
        with open_parquet(join(folder, "parts", names[0])) as file:
            columns = file.schema_arrow.names
        prefix, id_column = configuration["output_prefix"], configuration["id_column"]
        for column in (id_column, *(prefix + name for name in SCORE_COLUMNS)):
            if column not in columns:
                raise Refused(f"--{option}={folder}: its rows have no column {column!r}, which a comparison needs")
    kept = {
        name: configuration[name] if configuration[name] in columns else "" for name in ("question_column", "answers_column")
    }
    slices = tuple(name for name in configuration["slice_by"] if name in columns)
    parts = [
        ScoredPart(
            path=join(folder, "parts", name),
            after=option == "after",
            index=index,
            id=configuration["id_column"],
            prefix=configuration["output_prefix"],
            question=kept["question_column"],
            slices=slices,
        )
        for index, name in enumerate(names)
    ]
    return parts, kept["answers_column"]


def build(pipeline: beam.Pipeline, job: CompareJob) -> None:
    """parts of two audits -> figures by id -> | shuffle | -> pairs -> differences -> comparison.json, report.html."""
    (output,) = claimed_outputs(job)
    about = {"stage": "compare", "configuration": job.configuration_of("compare")}
    _ = (
        pipeline
        | "ListParts" >> beam.Create(job.parts)
        | "CompareAudits" >> CompareAudits(job.worst)
        | "WriteComparison" >> WriteComparison(output, job.parts, job.answers, job.gate, about)
    )
