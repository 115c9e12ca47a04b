"""Audit in a pipeline: equal to its steps by hand; answers are those of SpanReader.answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that

from model import SpanReader
from model.audit.columns import AUDIT_SCHEMA
from transforms.audit import Audit
from transforms.chunk_rows import ChunkRows
from transforms.decode_answers import DecodeAnswers
from transforms.make_windows import MakeWindows
from transforms.measure_loss import MeasureLoss
from transforms.outcome_rows import OutcomeRows
from transforms.predict_spans import PredictSpans
from transforms.records import InputColumns

GOLDS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
SCHEMA = pa.schema([("question", pa.string()), ("context", pa.string()), ("answers", GOLDS)])

CONTEXT = "Ada Kern lit the lamp at dusk."
ROWS: list[dict[str, Any]] = [
    {"question": "Who lit the lamp?", "context": context, "answers": golds}
    for context, golds in (
        (CONTEXT, {"text": ["Ada Kern"], "answer_start": [0]}),
        (CONTEXT, {"text": ["dusk"], "answer_start": [25]}),
        (CONTEXT, {"text": [], "answer_start": []}),
        (CONTEXT, {"text": ["dawn"], "answer_start": [25]}),
        (None, {"text": ["dusk"], "answer_start": [25]}),
    )
]


@pytest.fixture(scope="module")
def reader(bert_folder: Path) -> SpanReader:
    return SpanReader.load(str(bert_folder))


def test_rows_are_those_of_the_reader_and_of_the_steps_by_hand(reader: SpanReader):
    questions, contexts = ([row[name] for row in ROWS] for name in ("question", "context"))
    answers = reader.answer(questions, contexts)
    predictions = [each.answer_text for each in answers]

    def check(found: list[dict[str, Any]], by_hand: list[dict[str, Any]]) -> None:
        assert sorted(map(repr, found)) == sorted(map(repr, by_hand))
        assert [row["question"] for row in found] == questions
        for row, prediction in zip(found, predictions, strict=True):
            assert row["prediction"] == (prediction if row["status"] != "rejected" else None)
        reasons = [None, None, "no_null_option", "gold_misaligned", "context_missing"]
        assert [row["reason"] for row in found] == reasons
        assert [row["nll"] is not None for row in found] == [True, True, False, False, False]

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows = pipeline | beam.Create(ROWS, reshuffle=False)
        by_hand = (
            rows
            | ChunkRows(SCHEMA)
            | MakeWindows(reader, InputColumns(answers="answers"))
            | PredictSpans(reader)
            | DecodeAnswers(reader, annotate=False)
            | MeasureLoss(reader)
            | OutcomeRows("audit")
        )
        for name, audit in (("inferred", Audit(reader)), ("schema", Audit(reader, SCHEMA))):
            audited = rows | name >> audit | f"List {name}" >> beam.combiners.ToList()
            _ = audited | f"Check {name}" >> beam.Map(check, beam.pvalue.AsList(by_hand))


def test_names_schema_and_prefix_are_chosen(reader: SpanReader):
    schema = pa.schema([("q", pa.string()), ("passage", pa.string()), ("golds", GOLDS)])
    rows = [dict(zip(schema.names, row.values(), strict=True)) | {"status": 1} for row in ROWS]
    names = InputColumns("q", "passage", "golds")

    def check(found: list[dict[str, Any]]) -> None:
        assert [tuple(row) for row in found] == [
            (*schema.names, *(f"audit_{name}" for name in AUDIT_SCHEMA.names))
        ] * len(ROWS)

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        measured = pipeline | beam.Create(rows, reshuffle=False)
        measured |= Audit(reader, schema, names, prefix="audit_", rows=2)
        assert_that(measured, check)


def test_without_a_column_of_golds_nothing_can_be_measured(reader: SpanReader):
    with pytest.raises(ValueError, match="an audit needs a column of golds"):
        beam.Pipeline() | beam.Create(ROWS) | Audit(reader, columns=InputColumns())


def test_a_reader_that_leaves_windows_unread_can_not_be_audited(bert_folder: Path):
    reader = SpanReader.load(str(bert_folder), read_windows=2)
    with pytest.raises(ValueError, match="read_windows=2: an audit reads all windows"):
        Audit(reader).expand(None)
