"""Sizes: impossible figures in footers, and small files with large data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms import read_chunk, sizes
from transforms.claim import Output
from transforms.find_inputs import find_inputs
from transforms.plan_chunks import ChunkSize, plan_chunks
from transforms.read_chunk import read_run
from transforms.records import Chunk, Receipt
from transforms.sizes import TooLarge, implausible, memory_of, rows_at_once

SCHEMA = pa.schema([("question", pa.string()), ("context", pa.string())])
MB = 2**20

COUNTED = pa.proxy_memory_pool(pa.default_memory_pool())
"""Counts what is allocated through it. Never freed: buffers may outlive a test."""


@pytest.fixture
def allocated() -> Iterator[pa.MemoryPool]:
    """Return the pool that Arrow allocates from during the test, whatever other tests did."""
    usual = pa.default_memory_pool()
    pa.set_memory_pool(COUNTED)
    yield COUNTED
    pa.set_memory_pool(usual)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """Lower the limit, so that small files exceed it."""
    for module in (sizes, read_chunk):
        monkeypatch.setattr(module, "CHUNK_BYTES", 16 * MB)
    return 16 * MB


def write(path: Path, table: pa.Table, **options: object) -> str:
    pq.write_table(table, path, compression="zstd", **options)
    return str(path)


def repeated(value: str, rows: int) -> pa.Table:
    """Return the same context in every row: a dictionary of one value."""
    indices = pa.array([0] * rows, pa.int32())
    context = pa.DictionaryArray.from_arrays(indices, pa.array([value]))
    return pa.table({"question": pa.array(["Who?"] * rows), "context": context})


def records(path: str, rows: int = 2048) -> list[Chunk | Receipt]:
    (file,) = find_inputs(path)
    return [
        record
        for run in plan_chunks(file, SCHEMA, SCHEMA.names, ChunkSize(rows, 2**40))
        for record in read_run(run, (Output("annotate", f"{path}.out", "run"),), SCHEMA)
    ]


@pytest.mark.parametrize("stored_as", ["dictionary", "string"])
def test_a_dictionary_that_would_be_gigabytes_of_text_is_refused_before_it_is(
    tmp_path: Path, limit: int, stored_as: str, allocated: pa.MemoryPool
):
    """A file of kilobytes holds 8 MB of text 20,000 times, as Arrow dictionaries or plain text."""
    table = repeated("x" * (8 * MB), 20_000)
    path = write(tmp_path / "bomb.parquet", table, store_schema=stored_as == "dictionary")
    assert Path(path).stat().st_size < 100_000
    found = records(path)
    assert len(found) == 10
    for receipt in found:
        assert isinstance(receipt, Receipt)
        assert receipt.failed_step == "ReadChunk"
        assert f"more than the limit of {limit}: give a smaller --chunk_rows" in receipt.error
    assert 8 * MB < allocated.max_memory() < 200 * MB


def test_with_smaller_chunks_the_same_text_can_be_read(tmp_path: Path, limit: int):
    path = write(tmp_path / "a.parquet", repeated("x" * (2 * MB), 12))
    (refused,) = records(path)
    assert isinstance(refused, Receipt)
    chunks = records(path, rows=4)
    assert [chunk.table.num_rows for chunk in chunks if isinstance(chunk, Chunk)] == [4, 4, 4]


def test_a_dictionary_beyond_the_limit_is_refused_by_its_declared_size(tmp_path: Path, limit: int):
    path = write(tmp_path / "a.parquet", repeated("x" * (17 * MB), 3))
    metadata = pq.ParquetFile(path).metadata
    with pytest.raises(
        TooLarge, match=f"row group 0 has a dictionary of 1782\\d+ bytes: more than {limit}"
    ):
        rows_at_once(path, metadata, 0, SCHEMA.names, 2048)
    assert rows_at_once(path, metadata, 0, ["question"], 2048) == 2048


def test_one_value_of_a_plain_page_beyond_the_limit_is_refused(tmp_path: Path, limit: int):
    table = pa.table({"question": ["Who?"] * 2, "context": ["x" * (40 * MB), "small"]})
    (file,) = find_inputs(write(tmp_path / "a.parquet", table, use_dictionary=False))
    (run,) = plan_chunks(file, SCHEMA, ("question", "context"), ChunkSize(10, 2**40))
    assert "declares 4194" in run.refused
    assert f"more than {limit} per row" in run.refused


@pytest.mark.parametrize("dictionary", [True, False])
def test_ordinary_files_are_decoded_a_thousand_rows_at_once(tmp_path: Path, dictionary: bool):
    table = pa.table(
        {
            "question": [f"q {n}" for n in range(3000)],
            "context": [f"c {n}" * 50 for n in range(3000)],
        }
    )
    path = write(tmp_path / "a.parquet", table, use_dictionary=dictionary)
    metadata = pq.ParquetFile(path).metadata
    # Writers end a dictionary at 1 MiB.
    assert rows_at_once(path, metadata, 0, SCHEMA.names, 2048) > 1000
    assert implausible(metadata, Path(path).stat().st_size, SCHEMA.names) == ""


def test_many_rows_in_few_bytes_are_implausible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nulls take no space: planning would make a million empty chunks."""
    monkeypatch.setattr(sizes, "_PLAUSIBLE_ROWS", 100_000)
    table = pa.table(
        {"question": pa.nulls(400_000, pa.string()), "context": pa.nulls(400_000, pa.string())}
    )
    path = write(tmp_path / "a.parquet", table)
    size = Path(path).stat().st_size
    assert (
        implausible(pq.ParquetFile(path).metadata, size, SCHEMA.names)
        == f"it declares 400000 rows in {size} bytes"
    )


def test_memory_counts_the_text_that_rows_share():
    (batch,) = repeated("x" * 1000, 50).select(["context"]).to_batches()
    assert 50_000 <= memory_of(batch) < 52_000
    plain = pa.record_batch({"context": pa.array(["x" * 1000] * 50)})
    assert 50_000 <= memory_of(plain) < 52_000


@pytest.mark.parametrize(
    "header", [b"\x16" * 16, b"\x15" + b"\xff" * 15, b"\x15\x04\x00" + b"\0" * 13]
)
def test_a_damaged_page_header_is_told(header: bytes):
    with pytest.raises(ValueError, match="page header is damaged"):
        sizes._dictionary_size(header)
