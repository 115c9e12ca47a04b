"""OutcomeRows: what a stage made of a chunk, as dicts, for the rest of anyone's pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from transforms.records import Answered, Chunk, Receipt


class ChunkFailed(RuntimeError):
    """A step could not do a chunk; the message names the step and its error."""


def outcome_rows(
    chunk: Chunk[Answered] | Receipt, stage: str, prefix: str = ""
) -> Iterator[dict[str, Any]]:
    """The rows of a chunk, each with the columns of a stage, in their order.

    Raises ChunkFailed for a chunk that failed (without files there is no manifest that would tell), ValueError if the
    stage was not run or one of its columns has the name of a column that the rows have already.
    """
    if isinstance(chunk, Receipt):
        raise ChunkFailed(f"{chunk.failed_step} failed on {chunk.rows} rows: {chunk.error}")
    made = {outcome.stage: outcome.columns for outcome in chunk.payload.outcomes}
    if stage not in made:
        raise ValueError(
            f"stage={stage!r}: the chunk has outcomes of {', '.join(map(repr, made)) or 'no stage'} only"
        )
    table = chunk.table
    clash = sorted({prefix + name for name in made[stage].column_names} & set(table.column_names))
    if clash:
        raise ValueError(
            f"prefix={prefix!r}: the column {clash[0]!r} is one of the rows already; give another prefix"
        )
    for row, columns in zip(table.to_pylist(), made[stage].to_pylist(), strict=True):
        yield row | {prefix + name: value for name, value in columns.items()}


@dataclass
class OutcomeRows(beam.PTransform):
    """Chunk[Answered] -> dict: the row, and the columns of "annotate" or "audit" with `prefix` before their names."""

    stage: str = "annotate"
    prefix: str = ""

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        return chunks | beam.FlatMap(outcome_rows, self.stage, self.prefix)
