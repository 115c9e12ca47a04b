"""Annotate in a pipeline: equal to its steps by hand, and to SpanReader.answer."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from model import SpanReader
from model.reading.columns import ANSWER_SCHEMA
from model.reading.question_list import QuestionList
from model.reading.span_reader import Answer
from transforms.annotate import Annotate
from transforms.chunk_rows import ChunkRows
from transforms.decode_answers import DecodeAnswers
from transforms.make_windows import MakeWindows
from transforms.outcome_rows import OutcomeRows
from transforms.predict_spans import PredictSpans
from transforms.records import InputColumns

ROWS: list[dict[str, Any]] = [
    {"page": 1, "question": "Who lit the lamp?", "context": "Ada Kern lit the lamp at dusk."},
    {"page": 2, "question": "Who rang the bell?", "context": None},
    {"page": 3, "question": "When?", "context": "The sea was calm 🌊 at dusk. " * 9},
]


@pytest.fixture(scope="module")
def reader(bert_folder: Path) -> SpanReader:
    return SpanReader.load(str(bert_folder))


def values(answer: Answer) -> dict[str, Any]:
    """An answer as the columns of a row."""
    row = {name: getattr(answer, name) for name in ANSWER_SCHEMA.names}
    candidates = [
        {field.name: getattr(each, field.name) for field in fields(each)} for each in answer.n_best
    ]
    return row | {"n_best": candidates if answer.status != "rejected" else None}


def test_rows_are_those_of_the_reader_and_of_the_steps_by_hand(reader: SpanReader):
    answers = reader.answer([row["question"] for row in ROWS], [row["context"] for row in ROWS])
    wanted = [row | values(answer) for row, answer in zip(ROWS, answers, strict=True)]
    schema = pa.schema([("page", pa.int64()), ("question", pa.string()), ("context", pa.string())])
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows = pipeline | beam.Create(ROWS, reshuffle=False)
        by_hand = (
            rows
            | ChunkRows(schema)
            | MakeWindows(reader)
            | PredictSpans(reader)
            | DecodeAnswers(reader)
            | OutcomeRows()
        )
        assert_that(rows | Annotate(reader), equal_to(wanted), "composite")
        assert_that(by_hand, equal_to(wanted), "by hand")


def test_names_schema_and_prefix_are_chosen(reader: SpanReader):
    schema = pa.schema([("page", pa.int8()), ("q", pa.string()), ("passage", pa.string())])
    rows = [
        {"page": row["page"], "q": row["question"], "passage": row["context"], "status": "mine"}
        for row in ROWS
    ]

    def check(found: list[dict[str, Any]]) -> None:
        assert {tuple(row) for row in found} == {
            ("page", "q", "passage", *(f"qa_{name}" for name in ANSWER_SCHEMA.names))
        }
        assert {(row["page"], row["qa_reason"]) for row in found} == {
            (1, None),
            (2, "context_missing"),
            (3, None),
        }

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        answered = pipeline | beam.Create(rows, reshuffle=False)
        answered |= Annotate(reader, schema, InputColumns("q", "passage"), prefix="qa_", rows=2)
        assert_that(answered, check)


def test_places_are_those_of_the_columns(bert_folder: Path):
    reader = SpanReader.load(str(bert_folder), locate="page,section")
    sections = [{"start": 0, "title": "Lamp"}]
    rows = [row | {"starts": [0, 0], "sections": sections} for row in ROWS]
    rows[2]["starts"] = [0, -1]

    def check(found: list[dict[str, Any]]) -> None:
        places = {row["number"]: (row["page"], row["section"]) for row in found}
        assert places == {1: (2, "Lamp"), 2: (None, None), 3: (None, "Lamp")}

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        # The output column of the page has the name of a column of ROWS.
        numbered = [{"number": row.pop("page"), **row} for row in rows]
        answered = pipeline | beam.Create(numbered, reshuffle=False)
        answered |= Annotate(reader, columns=InputColumns(pages="starts", sections="sections"))
        assert_that(answered, check)


def test_a_question_list_is_asked_of_every_row(reader: SpanReader):
    questions = QuestionList.of(["Who?", "When?"])
    documents = [{"page": row["page"], "context": row["context"]} for row in ROWS]
    answers = reader.answer(questions=questions, context=[row["context"] for row in ROWS])
    wanted = []
    for row, of_row in zip(documents, answers, strict=True):
        asked = zip(questions.ids, questions.texts, of_row, strict=True)
        listed = [
            {"question_id": identifier, "question": text} | values(answer)
            for identifier, text, answer in asked
        ]
        wanted.append(row | {"question_answers": listed})
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows = pipeline | beam.Create(documents, reshuffle=False)
        assert_that(rows | Annotate(reader, questions=questions), equal_to(wanted))
