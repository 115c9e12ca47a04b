"""ReadChunk: from a run of chunks to the rows of each, one chunk at a time.

Chunks that are committed are not read: their receipts are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.chunk_step import NAMESPACE, ChunkStep, is_systemic
from transforms.claim import Output
from transforms.parquet_files import open_parquet
from transforms.records import (
    RECEIPT_KEY,
    Chunk,
    ChunkRun,
    ChunkSpec,
    Receipt,
    failed_receipts,
)
from transforms.sizes import CHUNK_BYTES, TooLarge, memory_of, rows_at_once
from transforms.storage import exists, is_local

_log = logging.getLogger(NAMESPACE)


class UnreadableColumn(ValueError):
    """Some columns of a row group can't be read while others can; the message names them."""


def committed_receipt(output: Output, part: str) -> Receipt | None:
    """Return the receipt of a part that an earlier try of this run committed.

    Returns None, so that the chunk is recomputed, if the part is missing, damaged or of another
    run, or if its file of rejections is missing.
    """
    path = output.files.part(part)
    if not exists(path):
        return None
    try:
        with open_parquet(path) as file:
            # The footer is read only: it contains the receipt.
            receipt = Receipt.from_json(json.loads((file.metadata.metadata or {})[RECEIPT_KEY]))
        rejects = receipt.counts.get("rejected", 0) > 0
        if rejects and not exists(output.files.rejection(part)):
            problem = "the file of its rejections is missing"
        elif receipt.run != output.run:
            problem = "it is a part of another run"
        else:
            return receipt
    # Recomputing a chunk is always correct; raising here would fail every rerun in the same way.
    except Exception as error:
        problem = f"it is damaged: {type(error).__name__}: {error}"
    _log.warning("recomputing %s: %s", path, problem)
    return None


def read_tables(
    chunk_run: ChunkRun, chunks: list[ChunkSpec], expected: pa.Schema
) -> Iterator[pa.Table]:
    """Yield the rows of some chunks of a run in order, with the columns and types of `expected`.

    Reads the row group in one pass, with about one chunk in memory.

    Raises pyarrow's error for unreadable data, UnreadableColumn, ValueError if the row group ends
    early, and TooLarge for a chunk that takes too much memory.
    """
    names = expected.names
    with open_parquet(chunk_run.parquet, chunk_run.state) as file:
        longest = max(spec.rows for spec in chunks)
        batch_rows = rows_at_once(
            chunk_run.parquet, file.metadata, chunk_run.row_group, names, longest
        )
        # Batches of Arrow cross the borders of chunks, so some rows are held for the next chunk.
        batches = _batches(file, batch_rows, chunk_run, names)
        held: list[pa.RecordBatch] = []
        begin = 0  # row of the row group at which `held` begins
        for spec in chunks:
            end = spec.row_start + spec.rows
            while begin + sum(batch.num_rows for batch in held) < end:
                batch = next(batches, None)
                if batch is None:
                    raise ValueError(f"row group {chunk_run.row_group} ends before row {end}")
                held.append(batch)
                # Drop the rows of committed chunks before this one.
                while held and begin + held[0].num_rows <= spec.row_start:
                    begin += held.pop(0).num_rows
                size = sum(map(memory_of, held))
                if size > CHUNK_BYTES:
                    raise TooLarge(
                        f"rows {spec.row_start} to {end} of row group {chunk_run.row_group} take "
                        f"at least {size} bytes in memory, more than the limit of {CHUNK_BYTES}: "
                        "give a smaller --chunk_rows"
                    )
            # Cut the chunk out, and keep the rows after it.
            table = pa.Table.from_batches(held)
            rows = _with_path_columns(
                table.slice(spec.row_start - begin, spec.rows), chunk_run, names
            )
            yield rows.select(names).cast(expected)
            used = end - begin
            begin += used
            held = table.slice(used).to_batches()


def _batches(
    file: pq.ParquetFile, rows: int, chunk_run: ChunkRun, names: list[str]
) -> Iterator[pa.RecordBatch]:
    """Yield batches of the row group of a run.

    Raises UnreadableColumn if some columns can't be read but others can, else pyarrow's error.
    """
    try:
        yield from file.iter_batches(
            batch_size=rows, row_groups=[chunk_run.row_group], columns=names
        )
    except Exception as error:
        # An error of the store has nothing to do with a column.
        if not (isinstance(error, pa.ArrowException) or is_local(chunk_run.parquet)):
            raise
        fields = [field for field in file.schema_arrow if field.name in names]
        bad = [field for field in fields if not _is_readable(file, chunk_run.row_group, field.name)]
        if not bad or len(bad) == len(fields):
            raise
        described = ", ".join(f"{field.name!r} ({field.type})" for field in bad)
        raise UnreadableColumn(
            f"of {len(fields)} columns, {described} can't be read "
            f"({type(error).__name__}: {error}): leave columns that are only passed on out of "
            "--keep_columns"
        ) from error


def _is_readable(file: pq.ParquetFile, row_group: int, name: str) -> bool:
    """Return whether a column can be read, by reading it."""
    try:
        for _ in file.iter_batches(row_groups=[row_group], columns=[name], batch_size=1024):
            pass
    except Exception:
        return False
    return True


def _with_path_columns(table: pa.Table, chunk_run: ChunkRun, names: Collection[str]) -> pa.Table:
    """Return a table with those of the given columns that its path holds.

    Raises ValueError if the table has such a column with other values.
    """
    for name, value in chunk_run.path_columns.items():
        if name in names and name not in table.column_names:
            table = table.append_column(
                name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows)
            )
        elif name in names and not _holds_only(table.column(name), value):
            raise ValueError(
                f"column {name!r} has other values than {value!r} in the path {chunk_run.path}"
            )
    return table


def _holds_only(column: pa.ChunkedArray, text: str | None) -> bool:
    """Return whether all values of a column equal a text that is cast to the column's type."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    try:
        value = pa.scalar(text, pa.string()).cast(kind)
    except pa.ArrowException:
        return False
    return all(distinct == value.as_py() for distinct in column.cast(kind).unique().to_pylist())


def read_run(
    chunk_run: ChunkRun, outputs: tuple[Output, ...], expected: pa.Schema
) -> Iterator[Chunk[None] | Receipt]:
    """Yield the receipts of a run's committed parts, then the chunks that still lack a part.

    A chunk that lacks the parts of some stages is computed for these stages only.

    outputs  in the order of writing

    A read error fails the current chunk and all that follow in the run, which can't be reached.
    """
    # A refused file, or planning itself: there is nothing to read.
    if not chunk_run.chunks:
        yield Receipt(
            path=chunk_run.path,
            failed_step="PlanChunks" if chunk_run.refused else "",
            error=chunk_run.refused,
        )
        return
    missing: list[tuple[ChunkSpec, tuple[str, ...]]] = []
    for spec in chunk_run.chunks:
        # A rerun computes only what an earlier try has not committed.
        receipts = [committed_receipt(output, spec.part) for output in outputs]
        yield from filter(None, receipts)
        lacking = []
        for output, receipt in zip(outputs, receipts, strict=True):
            if receipt is None:
                lacking.append(output.stage)
        if lacking:
            missing.append((spec, tuple(lacking)))
    if not missing:
        return
    done = 0
    try:
        for table in read_tables(chunk_run, [spec for spec, _ in missing], expected):
            spec, stages = missing[done]
            yield Chunk(spec, table, None, stages=stages)
            done += 1
    except Exception as error:
        # A missing permission to write is systemic, but one to read concerns this file only.
        if is_systemic(error) and not isinstance(error, PermissionError):
            raise
        _log.warning(
            "reading %s, row group %d failed: %s", chunk_run.path, chunk_run.row_group, error
        )
        for spec, stages in missing[done:]:
            yield from failed_receipts(spec, stages, "ReadChunk", error, {})


@dataclass
class ReadChunk(ChunkStep[ChunkRun, Chunk[None]]):
    """ChunkRun -> Chunks that lack parts, and Receipts of committed parts and refused files."""

    outputs: tuple[Output, ...]
    expected: pa.Schema

    def apply(self, chunk_run: ChunkRun) -> Iterator[Chunk[None] | Receipt]:
        yield from read_run(chunk_run, self.outputs, self.expected)
