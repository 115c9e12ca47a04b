"""OutcomeRows: the rows of a chunk with the output columns of a stage, as dicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from model.reading.question_answers import QUESTION_ANSWERS, question_answers
from model.reading.question_list import QuestionList
from transforms.records import Answered, Chunk, Receipt


class ChunkFailed(RuntimeError):
    """A step failed on a chunk; the message names the step and its error."""


def outcome_rows(
    chunk: Chunk[Answered] | Receipt,
    stage: str,
    prefix: str = "",
    questions: QuestionList | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a chunk in order, each with the output columns of a stage.

    questions  were asked of every row, whose answers become one column of lists

    Raises ChunkFailed for a chunk that failed, because no manifest would report it. Raises
    ValueError if the stage was not run, or if a column of it has the name of a column of the rows.
    """
    if isinstance(chunk, Receipt):
        raise ChunkFailed(f"{chunk.failed_step} failed on {chunk.rows} rows: {chunk.error}")
    by_stage = {outcome.stage: outcome.columns for outcome in chunk.payload.outcomes}
    if stage not in by_stage:
        raise ValueError(
            f"stage={stage!r} was not run: the chunk has outcomes of "
            f"{', '.join(map(repr, by_stage)) or 'no stage'}"
        )
    table = chunk.table
    output = by_stage[stage]
    if questions:
        output = pa.table({QUESTION_ANSWERS: question_answers(output, questions)})
    clash = sorted({prefix + name for name in output.column_names} & set(table.column_names))
    # Silently overwriting a column of the user would lose data.
    if clash:
        raise ValueError(
            f"prefix={prefix!r}: the rows already have a column {clash[0]!r}; give another prefix"
        )
    for row, columns in zip(table.to_pylist(), output.to_pylist(), strict=True):
        yield row | {prefix + name: value for name, value in columns.items()}


@dataclass
class OutcomeRows(beam.PTransform):
    """Chunk[Answered] -> dicts: each row with the output columns of a stage.

    stage      "annotate" or "audit"
    prefix     goes before the names of the output columns
    questions  those that MakeWindows asked of every row, if it did
    """

    stage: str = "annotate"
    prefix: str = ""
    questions: QuestionList | None = None

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        return chunks | beam.FlatMap(outcome_rows, self.stage, self.prefix, self.questions)
