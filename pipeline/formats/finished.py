"""Finished runs: what `show` and `convert export` need to know of an output before they read its rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from model.reading.texts import NotUTF8, each_value
from pipeline.job.options import Refused
from transforms.plan_chunks import is_answers
from transforms.run_files import RunFiles
from transforms.storage import exists, open_parquet, read


@dataclass(frozen=True)
class FinishedRun:
    """An output of annotate or audit.

    parts          names of its parts, in the order of the input
    schema         of the first, which is that of all
    configuration  that of its run.json
    """

    folder: str
    stage: str
    parts: tuple[str, ...]
    schema: pa.Schema
    configuration: dict[str, Any]

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.folder)

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def output(self, name: str) -> str:
        """The name that an output column has in the parts."""
        return f"{self.configuration['output_prefix']}{name}"

    def input(self, kind: str) -> str | None:
        """The name of the column of the id, question, context or answers; None if the run did not keep it.

        annotate reads no answers: whatever is called so goes along, and is taken for golds if it can hold some.
        """
        name = self.configuration.get(f"{kind}_column", kind)
        usable = name in self.columns and (
            kind != "answers" or is_answers(self.schema.field(name).type)
        )
        return name if usable else None

    @property
    def state(self) -> str:
        """ "complete", "incomplete", or "" while there is no manifest."""
        path = self.files.manifest
        return str(json.loads(read(path))["state"]) if exists(path) else ""

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All rows in order, with these columns alone, few of them in memory; null for text that is no UTF-8."""
        for part in self.parts:
            with open_parquet(self.files.part(part)) as file:
                for batch in file.iter_batches(batch_size=256, columns=list(columns)):
                    yield from as_rows(batch)


def as_rows(table: pa.Table | pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Rows as dicts; null for a value with text that is no UTF-8."""
    columns = [each_value(column) for column in table.columns]
    for values in zip(*columns, strict=True):
        plain = (None if isinstance(value, NotUTF8) else value for value in values)
        yield dict(zip(table.schema.names, plain, strict=True))


def open_run(folder: str) -> FinishedRun:
    """Opens an output. Raises Refused if it is none, or has no parts."""
    files = RunFiles(folder)
    if not exists(files.run):
        raise Refused(f"{folder} has no {files.RUN}: it is no output of annotate or audit")
    try:
        configuration = json.loads(read(files.run))["configuration"]
        stage = configuration["stage"]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{files.run} does not describe a run: {error!r}") from error
    parts = tuple(files.part_names())
    if not parts:
        raise Refused(f"{folder} holds no parts")
    with open_parquet(files.part(parts[0])) as file:
        schema = file.schema_arrow
    return FinishedRun(folder, stage, parts, schema, configuration)
