"""WriteChunk: writes a chunk as one Parquet part per stage.

The part contains the receipt, and its commit finishes the chunk: rejections are written before.
"""

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

from model.audit.columns import AUDIT_COLUMNS
from model.columns import exact_names
from model.reading.columns import ANSWER_COLUMNS
from model.reading.question_answers import QUESTION_ANSWERS, question_answers
from model.reading.question_list import QuestionList
from model.reading.texts import as_texts
from transforms.chunk_step import NAMESPACE, ChunkStep, report_failure
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
"""Columns that are equal to the bit if the logits are equal up to rounding.

The digest of a part covers those that it has.
"""

COUNTED = (
    *("rows", "windows", "real_tokens", "padded_tokens"),
    *("answered", "no_answer", "below_threshold", "rejected"),
)
"""Counts of a chunk that become Beam counters, for dashboards; once, whatever the stages."""

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
"""`row` is counted within the file. `stage` holds `Rejection.step`.

Rejections of a question list have a column `question_id` after these.
"""


def output_table(
    chunk: Chunk[Any],
    outcome: Outcome,
    columns: OutputColumns,
    questions: QuestionList | None = None,
) -> pa.Table:
    """Return the table of a part: the kept input columns, then the output columns of the stage.

    questions  were asked of every row: their answers become one column of lists
    """
    table = chunk.table.select(list(columns.keep))
    if columns.id not in chunk.table.column_names:
        # Made-up ids go first, where input files usually have them.
        table = table.add_column(0, columns.id, row_ids(chunk, columns.id))
    if questions:
        answers = question_answers(outcome.columns, questions)
        return table.append_column(columns.prefix + QUESTION_ANSWERS, answers)
    for name in outcome.columns.column_names:
        table = table.append_column(columns.prefix + name, outcome.columns.column(name))
    return table


def content_digest(table: pa.Table) -> str:
    """Return the SHA-256 (hex) of a table's values.

    Arrow's chunks, and the bytes below nulls, don't influence it.
    """
    values = {name: table.column(name).to_pylist() for name in table.column_names}
    return hashlib.sha256(json.dumps(values, default=bytes.hex).encode()).hexdigest()


def write_outcome(
    chunk: Chunk[Any],
    outcome: Outcome,
    output: Output,
    columns: OutputColumns,
    questions: QuestionList | None = None,
) -> Receipt:
    """Write the rejections of one stage, if there are any, then its part.

    Returns the receipt that the part contains. Raises ClaimLost, OSError.
    """
    spec = chunk.spec
    made = outcome.columns.column_names
    exact = [name for name in EXACT_COLUMNS[outcome.stage] if name in made]
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
        digest=content_digest(outcome.columns.select(exact)),
        statistics=outcome.statistics,
        corrected=outcome.corrected,
        run=output.run,
    )
    # The part is committed last: it marks the chunk as done.
    if outcome.rejections:
        table = _rejection_table(chunk, outcome.rejections, columns.id, questions)
        output.commit(to_parquet(table), RunFiles.REJECTIONS, spec.part)
    else:
        output.remove(RunFiles.REJECTIONS, spec.part)  # of an earlier try
    table = output_table(chunk, outcome, columns, questions)
    output.commit(
        to_parquet(table, {RECEIPT_KEY: json.dumps(receipt.to_json()).encode()}),
        RunFiles.PARTS,
        spec.part,
    )
    return receipt


def to_parquet(table: pa.Table, metadata: Mapping[bytes, bytes] | None = None) -> pa.Buffer:
    """Return a Parquet file with one row group, and with `metadata` in its footer."""
    sink = pa.BufferOutputStream()
    # One row group: a part has at most --chunk_rows rows.
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", write_page_checksum=True
    ) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata(metadata or {})
    return sink.getvalue()


def _rejection_table(
    chunk: Chunk[Any],
    rejections: tuple[Rejection, ...],
    id_column: str,
    questions: QuestionList | None,
) -> pa.Table:
    """Return the rejections of a chunk in REJECTION_SCHEMA, with `question_id` for asks."""
    spec, per_row = chunk.spec, len(questions) if questions else 1
    ids = as_texts(row_ids(chunk, id_column))
    values = [
        (
            ids[each.row // per_row],
            spec.path,
            spec.row_group,
            spec.first_row + each.row // per_row,
            each.step,
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
    table = pa.Table.from_arrays(arrays, schema=REJECTION_SCHEMA)
    if questions:
        question_ids = questions.ids
        of_asks = [question_ids[each.row % per_row] for each in rejections]
        table = table.append_column("question_id", pa.array(of_asks, pa.string()))
    return table


@dataclass
class WriteChunk(ChunkStep[Chunk[Answered], Receipt]):
    """Chunk[Answered] -> one Receipt per stage that the chunk wants.

    A part that can't be written becomes a failed receipt of its stage, unless the error is systemic
    (`is_systemic`): that is raised.

    outputs    in the order of writing
    questions  were asked of every row
    """

    outputs: tuple[Output, ...]
    columns: OutputColumns
    questions: QuestionList | None = None

    def apply(self, chunk: Chunk[Answered]) -> Iterator[Receipt]:
        outcomes = {outcome.stage: outcome for outcome in chunk.payload.outcomes}
        counts: Mapping[str, int] = {}
        for output in self.outputs:
            if not chunk.wants(output.stage):
                continue
            try:
                receipt = write_outcome(
                    chunk, outcomes[output.stage], output, self.columns, self.questions
                )
            except Exception as error:  # the part of the other stage is not affected
                yield from report_failure(chunk, (output.stage,), type(self).__name__, error)
            else:
                counts = receipt.counts
                yield receipt
        # Rows are the same for all stages: count the last one that was written.
        for name in COUNTED:
            Metrics.counter(NAMESPACE, name).inc(counts.get(name, 0))
