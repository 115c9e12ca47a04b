"""Audit: rows with gold answers in, rows with the audit's columns out, in anyone's pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from model.reading.span_reader import SpanReader
from transforms.chunk_rows import ChunkRows
from transforms.decode_answers import DecodeAnswers
from transforms.make_windows import MakeWindows
from transforms.measure_loss import AuditOptions, MeasureLoss
from transforms.outcome_rows import OutcomeRows
from transforms.predict_spans import PredictSpans
from transforms.records import InputColumns

_ROWS_ALONE = AuditOptions(worst=0, suspects=0)
"""No lists of examples: only a run's report shows them."""


@dataclass
class Audit(beam.PTransform):
    """Mapping -> dict: the row with the audit's columns.

    reader   the checkpoint and its settings, from `SpanReader.load`
    schema   the columns that rows keep, with their types. None: all keys of the rows, with the
             types that pyarrow infers for each chunk
    columns  names of the columns of question, context and golds; golds are
             struct<text: list<string>, answer_start: list<int32>>, starts in code points
    prefix   put before the names of the audit's columns
    rows     maximum rows per chunk, see `ChunkRows`

    A row that can't be answered has the status "rejected" and a reason. Raises ValueError without
    a column of golds, for a reader that leaves windows unread, and if both rows and the audit have
    a column of one name; ChunkFailed for a chunk that fails as a whole.
    """

    reader: SpanReader
    schema: pa.Schema | None = None
    columns: InputColumns = InputColumns(answers="answers")
    prefix: str = ""
    rows: int = 512

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        if not self.columns.answers:
            raise ValueError("columns: an audit needs a column of golds, but answers is ''")
        if self.reader.limits.read_windows != "all":
            raise ValueError(
                f"read_windows={self.reader.limits.read_windows}: an audit reads all windows"
            )
        return (
            rows
            | ChunkRows(self.schema, self.rows)
            | MakeWindows(self.reader, self.columns)
            | PredictSpans(self.reader)
            | DecodeAnswers(self.reader, annotate=False)
            | MeasureLoss(self.reader, _ROWS_ALONE)
            | OutcomeRows("audit", self.prefix)
        )
