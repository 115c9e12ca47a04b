"""Open the outputs of finished runs, for `show` and `convert export`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from model.reading.question_answers import QUESTION_ANSWERS
from model.reading.texts import NotUTF8, each_value
from pipeline.job.options import Refused
from transforms.parquet_files import open_parquet
from transforms.plan_chunks import is_answers
from transforms.run_files import RunFiles
from transforms.storage import exists, read


@dataclass(frozen=True)
class FinishedRun:
    """An output of annotate or audit.

    parts          names of its part files, in the order of the input
    schema         schema of the first part; all parts have the same
    configuration  the configuration in its run.json
    """

    folder: str
    stage: str
    parts: tuple[str, ...]
    schema: pa.Schema
    configuration: dict[str, Any]

    @property
    def files(self) -> RunFiles:
        """The paths of the run's files."""
        return RunFiles(self.folder)

    @property
    def columns(self) -> list[str]:
        """The names of all columns of the parts."""
        return list(self.schema.names)

    def output(self, name: str) -> str:
        """Return the name that an output column has in the parts, with the run's prefix."""
        return f"{self.configuration['output_prefix']}{name}"

    def input(self, kind: str) -> str | None:
        """Return the name of an input column; None if the run did not keep it.

        annotate does not read answers. A column of that name counts as golds if its type fits.

        kind  "id", "question", "context" or "answers"
        """
        # annotate's configuration does not name a column of answers: the name is then "answers".
        name = self.configuration.get(f"{kind}_column", kind)
        usable = name in self.columns and (
            kind != "answers" or is_answers(self.schema.field(name).type)
        )
        return name if usable else None

    @property
    def question_answers(self) -> str:
        """The name of the column of answers to a question list; "" if the run asked none."""
        name = self.output(QUESTION_ANSWERS)
        return name if "questions" in self.configuration else ""

    @property
    def questions(self) -> int:
        """The number of answers that each row has."""
        if not self.question_answers:
            return 1
        with open_parquet(self.files.part(self.parts[0])) as file:
            batch = next(file.iter_batches(batch_size=1, columns=[self.question_answers]), None)
        return len(batch.column(0)[0]) if batch is not None else 1

    @property
    def state(self) -> str:
        """The manifest's state, "complete" or "incomplete"; "" while there is no manifest."""
        return str(read_manifest(self.files)["state"]) if exists(self.files.manifest) else ""

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield all rows in order with the given columns, holding at most 256 in memory.

        Values with text that is not UTF-8 are null.
        """
        for part in self.parts:
            with open_parquet(self.files.part(part)) as file:
                for batch in file.iter_batches(batch_size=256, columns=list(columns)):
                    yield from as_rows(batch)

    def answers(
        self, inputs: Sequence[str], outputs: Sequence[str]
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield the input columns and an answer, for each row or for each ask of a question list.

        outputs  names of output columns without the run's prefix

        An answer has these columns; one to a question list also `question_id` and `question`.
        """
        listed = self.question_answers
        names = [listed] if listed else [self.output(name) for name in outputs]
        for row in self.rows([*inputs, *names]):
            if listed:
                for answer in row[listed]:
                    yield row, answer
            else:
                answer = {name: row[self.output(name)] for name in outputs}
                yield row, answer


def as_rows(table: pa.Table | pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield rows as dicts; values with text that is not UTF-8 are null."""
    # Values that are not UTF-8 can't be Python text.
    columns = [each_value(column) for column in table.columns]
    for values in zip(*columns, strict=True):
        readable = (None if isinstance(value, NotUTF8) else value for value in values)
        yield dict(zip(table.schema.names, readable, strict=True))


def read_manifest(files: RunFiles) -> dict[str, Any]:
    """Return the manifest of a run, with at least `state` and `content`.

    Raises FileNotFoundError if there is none, and Refused for a damaged one.
    """
    content = read(files.manifest)
    try:
        manifest = dict(json.loads(content))
        manifest["state"], manifest["content"]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{files.manifest} does not end a run: {error!r}") from error
    return manifest


def open_run(folder: str) -> FinishedRun:
    """Open an output. Raises Refused if the folder is not an output, or has no parts."""
    files = RunFiles(folder)
    if not exists(files.run):
        raise Refused(f"{folder} has no {files.RUN}: it is not an output of annotate or audit")
    try:
        configuration = json.loads(read(files.run))["configuration"]
        stage = configuration["stage"]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{files.run} does not describe a run: {error!r}") from error
    parts = tuple(files.part_names())
    if not parts:
        raise Refused(f"{folder} has no parts")
    with open_parquet(files.part(parts[0])) as file:
        schema = file.schema_arrow
    return FinishedRun(folder, stage, parts, schema, configuration)
