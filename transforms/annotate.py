"""Annotate: rows in, rows with annotate's columns out, in anyone's pipeline."""

from __future__ import annotations

from dataclasses import dataclass, replace

import apache_beam as beam
import pyarrow as pa

from model.reading.question_list import QuestionList
from model.reading.span_reader import SpanReader
from transforms.chunk_rows import ChunkRows
from transforms.decode_answers import DecodeAnswers
from transforms.make_windows import MakeWindows
from transforms.outcome_rows import OutcomeRows
from transforms.predict_spans import PredictSpans
from transforms.records import InputColumns


@dataclass
class Annotate(beam.PTransform):
    """Mapping -> dict: the row with annotate's columns.

    reader     the checkpoint and its settings, from `SpanReader.load`
    schema     the columns that rows keep, with their types. None: all keys of the rows, with the
               types that pyarrow infers for each chunk
    columns    names of the question and context columns, and of those of page starts and sections,
               which only a reader with `locate` reads
    prefix     put before the names of annotate's columns
    rows       maximum rows per chunk, see `ChunkRows`
    questions  asked of every row in place of its own question, from `QuestionList.of`; annotate's
               columns are then in the lists of the column `question_answers`

    A row that can't be answered has the status "rejected" and a reason. A chunk that fails as a
    whole raises ChunkFailed, a column name that both rows and annotate have raises ValueError.
    """

    reader: SpanReader
    schema: pa.Schema | None = None
    columns: InputColumns = InputColumns()
    prefix: str = ""
    rows: int = 512
    questions: QuestionList | None = None

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        columns = replace(self.columns, answers="")
        at_once = min(self.rows, self.questions.rows_at_once) if self.questions else self.rows
        return (
            rows
            | ChunkRows(self.schema, at_once)
            | MakeWindows(self.reader, columns, self.questions)
            | PredictSpans(self.reader)
            | DecodeAnswers(self.reader, columns=columns)
            | OutcomeRows("annotate", self.prefix, self.questions)
        )
