"""ChunkRows: rows of another pipeline, as dicts, become the chunks that the steps work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from transforms.records import Chunk, ChunkSpec


def chunk_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema | None = None) -> Chunk[None]:
    """Return rows as one chunk that belongs to no file, null where a row lacks a column's key.

    The columns are those of the schema; without one, all keys of the rows, with the types that
    pyarrow infers. Raises pyarrow's error for a value of a wrong type.
    """
    if schema is None:
        names = dict.fromkeys(name for row in rows for name in row)
        table = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    else:
        table = pa.Table.from_pylist(list(rows), schema=schema)
    spec = ChunkSpec(
        "rows", label="rows", row_group=0, row_start=0, first_row=0, rows=len(rows), part="rows"
    )
    return Chunk(spec, table, None)


@dataclass
class ChunkRows(beam.PTransform):
    """Mapping -> Chunk.

    schema  the columns to keep; `OutcomeRows` returns them with the output columns of a stage.
            None keeps all keys of the chunk's rows, with the types that pyarrow infers
    rows    most rows of a chunk; all rows of a chunk belong to one Beam window

    `beam.BatchElements` makes the chunks: the last chunk of a bundle may have fewer rows, and the
    timestamp of a chunk is the end of its window.
    """

    schema: pa.Schema | None = None
    rows: int = 512

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        # Equal bounds switch off the tuning of batch sizes by measured times.
        batches = rows | beam.BatchElements(min_batch_size=self.rows, max_batch_size=self.rows)
        return batches | "ToChunk" >> beam.Map(chunk_rows, self.schema)
