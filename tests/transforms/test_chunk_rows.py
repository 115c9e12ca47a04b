"""ChunkRows: rows as dicts become chunks of a bounded size."""

from __future__ import annotations

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import FixedWindows, GlobalWindows, TimestampedValue

from transforms.chunk_rows import ChunkRows, chunk_rows
from transforms.records import Chunk

SCHEMA = pa.schema([("question", pa.string()), ("context", pa.string()), ("page", pa.int32())])


def test_the_columns_of_the_schema_go_along_and_missing_keys_are_null():
    chunk = chunk_rows([{"question": "Who?", "page": 7, "other": 1}, {"context": "Ada"}], SCHEMA)
    assert chunk.table.schema == SCHEMA
    assert chunk.table.to_pylist() == [
        {"question": "Who?", "context": None, "page": 7},
        {"question": None, "context": "Ada", "page": None},
    ]
    assert chunk.spec.rows == 2


def test_without_a_schema_all_keys_of_all_rows_go_along():
    chunk = chunk_rows([{"question": "Who?"}, {"context": "Ada", "page": 7}])
    assert chunk.table.to_pylist() == [
        {"question": "Who?", "context": None, "page": None},
        {"question": None, "context": "Ada", "page": 7},
    ]


def test_a_value_that_does_not_fit_its_column_is_an_error():
    with pytest.raises(pa.ArrowInvalid):
        chunk_rows([{"page": "seven"}], SCHEMA)


def test_chunks_are_bounded():
    def check(chunks: list[Chunk]) -> None:
        assert sorted(chunk.spec.rows for chunk in chunks) == [1, 3, 3]
        assert sorted(row["page"] for chunk in chunks for row in chunk.table.to_pylist()) == list(
            range(7)
        )

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows = pipeline | beam.Create([{"page": page} for page in range(7)], reshuffle=False)
        assert_that(rows | ChunkRows(SCHEMA, rows=3), check)


def test_rows_of_different_beam_windows_are_not_mixed():
    def check(chunks: list[Chunk]) -> None:
        assert sorted(chunk.table.column("page").to_pylist() for chunk in chunks) == [
            [1, 2],
            [12, 13],
            [25],
        ]

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows = pipeline | beam.Create([1, 2, 12, 13, 25], reshuffle=False)
        rows |= "Stamp" >> beam.Map(lambda page: TimestampedValue({"page": page}, page))
        chunks = rows | beam.WindowInto(FixedWindows(10)) | ChunkRows(SCHEMA, rows=3)
        assert_that(chunks | "Global" >> beam.WindowInto(GlobalWindows()), check)
