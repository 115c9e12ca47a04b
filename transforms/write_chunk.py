"""WriteChunk: one chunk, one Parquet part per stage, with its receipt inside; rejections first."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics

from model.audit.rows import AUDIT_COLUMNS
from model.columns import exact_names
from model.reading.columns import ANSWER_COLUMNS
from model.reading.texts import as_texts
from transforms.chunk_step import NAMESPACE, ChunkStep, failures
from transforms.claim import Output
from transforms.records import (
    RECEIPT_KEY,
    Answered,
    Chunk,
    Outcome,
    OutputColumns,
    Receipt,
    Rejection,
    row_ids,
)
from transforms.run_files import RunFiles

EXACT_COLUMNS = {"annotate": exact_names(ANSWER_COLUMNS), "audit": exact_names(AUDIT_COLUMNS)}
"""Columns that agree to the bit wherever logits agree to rounding; the digest of a part covers them."""

COUNTED = ("rows", "windows", "real_tokens", "padded_tokens", "answered", "no_answer", "rejected")
"""What Beam's counters count, once per chunk, for dashboards."""

REJECTION_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("path", pa.string()),
        pa.field("row_group", pa.int32()),
        pa.field("row", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
    ]
)
"""`row` is the row within the file."""


def output_table(chunk: Chunk[Any], outcome: Outcome, columns: OutputColumns) -> pa.Table:
    """Input columns that are kept, then the output columns; one row per input row, in its place."""
    table = chunk.table.select(list(columns.keep))
    if columns.id not in chunk.table.column_names:
        table = table.add_column(0, columns.id, row_ids(chunk, columns.id))
    for name in outcome.columns.column_names:
        table = table.append_column(columns.prefix + name, outcome.columns.column(name))
    return table


def content_digest(table: pa.Table) -> str:
    """SHA-256 (hex) of some columns' values, whatever chunks they lie in and whatever bytes lie beneath their nulls."""
    values = {name: table.column(name).to_pylist() for name in table.column_names}
    return hashlib.sha256(json.dumps(values, default=bytes.hex).encode()).hexdigest()


def write_outcome(
    chunk: Chunk[Any], outcome: Outcome, output: Output, columns: OutputColumns
) -> Receipt:
    """Writes the rejections of one stage, if there are any, then its part. Returns the receipt that stands in the part."""
    spec = chunk.spec
    receipt = Receipt(
        stage=outcome.stage,
        path=spec.path,
        row_group=spec.row_group,
        row_start=spec.row_start,
        rows=spec.rows,
        part=spec.part,
        counts=dict(outcome.counts),
        reasons=dict(Counter(filter(None, outcome.columns.column("reason").to_pylist()))),
        seconds=dict(chunk.seconds),
        worker=f"{socket.gethostname()}:{os.getpid()}",
        digest=content_digest(outcome.columns.select(list(EXACT_COLUMNS[outcome.stage]))),
        statistics=outcome.statistics,
        corrected=outcome.corrected,
        run=output.run,
    )
    if outcome.rejections:
        table = _rejection_table(chunk, outcome.rejections, columns.id)
        output.commit(to_parquet(table), RunFiles.REJECTIONS, spec.part)
    else:
        output.remove(RunFiles.REJECTIONS, spec.part)  # an earlier try may have left some
    table = output_table(chunk, outcome, columns)
    output.commit(
        to_parquet(table, {RECEIPT_KEY: json.dumps(receipt.to_json()).encode()}),
        RunFiles.PARTS,
        spec.part,
    )
    return receipt


def to_parquet(table: pa.Table, metadata: Mapping[bytes, bytes] | None = None) -> pa.Buffer:
    """The bytes of a Parquet file with one row group, `metadata` in its footer."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", write_page_checksum=True
    ) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata(metadata or {})
    return sink.getvalue()


def _rejection_table(
    chunk: Chunk[Any], rejections: tuple[Rejection, ...], id_column: str
) -> pa.Table:
    spec = chunk.spec
    ids = as_texts(row_ids(chunk, id_column))
    values = [
        (
            ids[each.row],
            spec.path,
            spec.row_group,
            spec.first_row + each.row,
            each.stage,
            each.reason,
            each.message,
        )
        for each in rejections
    ]
    columns = zip(*values, strict=True)
    arrays = [
        pa.array(column, field.type)
        for column, field in zip(columns, REJECTION_SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=REJECTION_SCHEMA)


@dataclass
class WriteChunk(ChunkStep[Chunk[Answered], Receipt]):
    """Chunk[Answered] -> one Receipt per stage that the chunk wants, once its part is committed; failed if it can't be.

    outputs  in the order of writing
    """

    outputs: tuple[Output, ...]
    columns: OutputColumns

    def apply(self, chunk: Chunk[Answered]) -> Iterator[Receipt]:
        outcomes = {outcome.stage: outcome for outcome in chunk.payload.outcomes}
        counts: Mapping[str, int] = {}
        for output in self.outputs:
            if not chunk.wants(output.stage):
                continue
            try:
                receipt = write_outcome(chunk, outcomes[output.stage], output, self.columns)
            except Exception as error:  # the other stage's part is sound
                yield from failures(chunk, (output.stage,), type(self).__name__, error)
            else:
                counts = receipt.counts
                yield receipt
        for name in COUNTED:
            Metrics.counter(NAMESPACE, name).inc(counts.get(name, 0))
