"""ChunkRows: rows of anyone's pipeline, as dicts, become the chunks that the steps work on."""

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
    pyarrow infers. Raises what pyarrow raises for a value that does not fit its column.
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

    schema  the columns that go along; `OutcomeRows` gives them back, with what was made of them.
            None: all keys of the chunk's rows, with the types that pyarrow infers
    rows    at most so many rows in a chunk, all of one Beam window; a bundle's last chunk has fewer

    As with `beam.BatchElements`, which makes them, a chunk's timestamp is the end of its window.
    """

    schema: pa.Schema | None = None
    rows: int = 512

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        batches = rows | beam.BatchElements(min_batch_size=self.rows, max_batch_size=self.rows)
        return batches | "ToChunk" >> beam.Map(chunk_rows, self.schema)
