"""ChunkRows: rows of anyone's pipeline, as dicts, become the chunks that the steps work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from transforms.records import Chunk, ChunkSpec


def chunk_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> Chunk[None]:
    """The columns that the schema names, null where a row has no such key, as one chunk that belongs to no file.

    Raises what pyarrow raises for a value that does not fit its column.
    """
    table = pa.Table.from_pylist(list(rows), schema=schema)
    spec = ChunkSpec(
        "rows", label="rows", row_group=0, row_start=0, first_row=0, rows=len(rows), part="rows"
    )
    return Chunk(spec, table, None)


@dataclass
class ChunkRows(beam.PTransform):
    """Mapping -> Chunk.

    schema  the columns that go along; `OutcomeRows` gives them back, with what was made of them
    rows    at most so many rows in a chunk, all of one Beam window; a bundle's last chunk has fewer

    As with `beam.BatchElements`, which makes them, a chunk's timestamp is the end of its window.
    """

    schema: pa.Schema
    rows: int = 512

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        batches = rows | beam.BatchElements(min_batch_size=self.rows, max_batch_size=self.rows)
        return batches | "ToChunk" >> beam.Map(chunk_rows, self.schema)
