"""ReadChunk: from a run of chunks to the rows of each, one chunk at a time; committed chunks are not read again."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.chunk_step import NAMESPACE, ChunkStep, is_systemic
from transforms.claim import Output
from transforms.records import (
    RECEIPT_KEY,
    Chunk,
    ChunkRun,
    ChunkSpec,
    Receipt,
    failed_receipts,
    path_columns,
)
from transforms.sizes import MOST_BYTES, TooLarge, memory_of, rows_at_once
from transforms.storage import exists, is_local, open_parquet

_log = logging.getLogger(NAMESPACE)


class UnreadableColumn(ValueError):
    """Some columns of a row group that can be read otherwise; the message names them."""


def committed_receipt(output: Output, part: str) -> Receipt | None:
    """The receipt of a part that an earlier try of this run committed.

    None if there is none, or a damaged one, or if its rejections are missing.
    """
    path = output.files.part(part)
    if not exists(path):
        return None
    try:
        with open_parquet(path) as file:
            receipt = Receipt.from_json(json.loads((file.metadata.metadata or {})[RECEIPT_KEY]))
        rejects = receipt.counts.get("rejected", 0) > 0
        whole = not rejects or exists(output.files.rejection(part))
        if whole and receipt.run == output.run:
            return receipt
        _log.warning(
            "%s %s and is made again",
            path,
            "is of another run" if whole else "has lost its rejections",
        )
        return None
    except Exception as error:  # making a chunk again is always right, and a run that stumbles here could never end
        _log.warning("%s is damaged and is made again: %s: %s", path, type(error).__name__, error)
        return None


def read_tables(run: ChunkRun, chunks: list[ChunkSpec], expected: pa.Schema) -> Iterator[pa.Table]:
    """The rows of some chunks of a run, in order, in one pass over its row group and with one chunk in memory.

    Raises what pyarrow raises for unreadable data, ValueError if the row group ends early, and TooLarge.
    """
    names = expected.names
    with open_parquet(run.path, run.state) as file:
        at_once = rows_at_once(
            run.path, file.metadata, run.row_group, names, max(c.rows for c in chunks)
        )
        batches = _batches(file, at_once, run, names)
        held: list[pa.RecordBatch] = []
        begin = 0
        for spec in chunks:
            while begin + sum(batch.num_rows for batch in held) < spec.row_start + spec.rows:
                batch = next(batches, None)
                if batch is None:
                    raise ValueError(
                        f"row group {run.row_group} ends before row {spec.row_start + spec.rows}"
                    )
                held.append(batch)
                while (
                    held and begin + held[0].num_rows <= spec.row_start
                ):  # rows of chunks that are committed
                    begin += held.pop(0).num_rows
                size = sum(map(memory_of, held))
                if size > MOST_BYTES:
                    raise TooLarge(
                        f"rows {spec.row_start} to {spec.row_start + spec.rows} of row group {run.row_group} take "
                        f"{size} bytes and more in memory, {MOST_BYTES} at most are held: give a smaller --chunk_rows"
                    )
            table = pa.Table.from_batches(held)
            rows = _with_path_columns(
                table.slice(spec.row_start - begin, spec.rows), run.path, names
            )
            yield rows.select(names).cast(expected)
            used = spec.row_start + spec.rows - begin
            begin += used
            held = table.slice(used).to_batches()


def _batches(
    file: pq.ParquetFile, rows: int, run: ChunkRun, names: list[str]
) -> Iterator[pa.RecordBatch]:
    """The row group of a run, so many rows at once. Raises UnreadableColumn, or what pyarrow raises."""
    try:
        yield from file.iter_batches(batch_size=rows, row_groups=[run.row_group], columns=names)
    except Exception as error:
        if not (
            isinstance(error, pa.ArrowException) or is_local(run.path)
        ):  # a store that fails, fails for all
            raise
        here = [field for field in file.schema_arrow if field.name in names]
        bad = [
            f"{field.name!r} ({field.type})"
            for field in here
            if not _is_readable(file, run.row_group, field.name)
        ]
        if not bad or len(bad) == len(here):
            raise
        raise UnreadableColumn(
            f"of {len(here)} columns, {', '.join(bad)} can't be read ({type(error).__name__}: {error}): "
            "what is only passed on can be left out of --keep_columns"
        ) from error


def _is_readable(file: pq.ParquetFile, row_group: int, name: str) -> bool:
    try:
        for _ in file.iter_batches(row_groups=[row_group], columns=[name], batch_size=1024):
            pass
    except Exception:
        return False
    return True


def _with_path_columns(table: pa.Table, path: str, names: Collection[str]) -> pa.Table:
    """A table with those columns of its path that are asked for. Raises ValueError for one that holds something else."""
    for name, value in path_columns(path).items():
        if name in names and name not in table.column_names:
            table = table.append_column(
                name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows)
            )
        elif name in names and not _holds_only(table.column(name), value):
            raise ValueError(
                f"column {name!r} holds other values than {value!r}, which its path says: {path}"
            )
    return table


def _holds_only(column: pa.ChunkedArray, text: str | None) -> bool:
    """Whether all values of a column are the one that this text stands for in the column's type."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    try:
        value = pa.scalar(text, pa.string()).cast(kind)
    except pa.ArrowException:
        return False
    return all(held == value.as_py() for held in column.cast(kind).unique().to_pylist())


def read_run(
    run: ChunkRun, outputs: tuple[Output, ...], expected: pa.Schema
) -> Iterator[Chunk[None] | Receipt]:
    """Chunks of a run that still have to be done, and the receipts of those that are committed.

    outputs: in the order of writing. A chunk is done if it has a part of every stage; one that lacks some is computed for those
    alone, and the others' receipts are taken.

    A read error fails the chunk at hand and the rest of the run: what comes after it can't be reached.
    """
    if not run.chunks:
        yield Receipt(
            path=run.path, failed_step="PlanChunks" if run.refused else "", error=run.refused
        )
        return
    missing = []
    lacking = []
    for spec in run.chunks:
        receipts = [committed_receipt(output, spec.part) for output in outputs]
        yield from filter(None, receipts)
        if None in receipts:
            missing.append(spec)
            lacking.append(
                tuple(
                    output.stage
                    for output, made in zip(outputs, receipts, strict=True)
                    if made is None
                )
            )
    if not missing:
        return
    done = 0
    try:
        for table in read_tables(run, missing, expected):
            yield Chunk(missing[done], table, None, stages=lacking[done])
            done += 1
    except Exception as error:
        if is_systemic(error) and not isinstance(
            error, PermissionError
        ):  # a file that must not be read is its own matter
            raise
        _log.warning("reading %s, row group %d failed: %s", run.path, run.row_group, error)
        for spec, stages in zip(missing[done:], lacking[done:], strict=True):
            yield from failed_receipts(spec, stages, "ReadChunk", error, {})


@dataclass
class ReadChunk(ChunkStep[ChunkRun, Chunk[None]]):
    """ChunkRun -> Chunk, or Receipt where there is nothing left to do."""

    outputs: tuple[Output, ...]
    expected: pa.Schema

    def apply(self, run: ChunkRun) -> Iterator[Chunk[None] | Receipt]:
        yield from read_run(run, self.outputs, self.expected)
