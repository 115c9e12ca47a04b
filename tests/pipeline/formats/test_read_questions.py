"""Question lists from files: the same list from every format, and each refusal by name."""

from __future__ import annotations

import gzip
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.reading.question_list import Question, QuestionList, QuestionListError
from pipeline.bundled import QUESTIONS
from pipeline.formats.imported_rows import FormatError
from pipeline.formats.read_questions import read_questions

EXPECTED = QuestionList.of(
    [
        Question("Who, then, lit it?", "7"),
        Question("When?\nThat day?", "q2", n_best=3, min_probability=0.5),
        Question("灯台 where?", "w", max_answer_length=4, null_score_diff_threshold=-1.5),
    ]
)

CSV = """note,question_id,question,n_best,max_answer_length,null_score_diff_threshold,\
min_probability
x,7,"Who, then, lit it?",,,,
,,"When?
That day?",3,,,0.5
y,w,灯台 where?,,4,-1.5,
"""

JSON_LINES = """
{"question_id": 7, "question": "Who, then, lit it?", "note": "x"}

{"question": "When?\\nThat day?", "n_best": 3, "min_probability": 0.5}
{"question_id": "w", "question": "灯台 where?", "max_answer_length": 4, \
"null_score_diff_threshold": -1.5, "note": null}
"""


SEMICOLONS = CSV.replace("Who, then,", "Who; then;").replace(",", ";").replace(";3;", ";3.0;")
"""As spreadsheets save it where the comma is the decimal sign, with a number as of pandas."""


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", CSV.encode()),
        ("list.csv", CSV.encode("utf-8-sig")),
        ("list.CSV", CSV.replace("\n", "\r\n").replace("When?\r\n", "When?\n").encode()),
        ("list.csv", CSV.encode("utf-16")),
        ("list.tsv", CSV.replace("Who, then,", "Who; then;").replace(",", "\t").encode()),
        ("list.csv", SEMICOLONS.encode()),
        ("list.jsonl", JSON_LINES.encode()),
        ("list.json", JSON_LINES.encode()),
        ("list.jsonl.gz", gzip.compress(JSON_LINES.encode(), mtime=0)),
    ],
)
def test_text_formats(tmp_path: Path, name: str, content: bytes):
    path = tmp_path / name
    path.write_bytes(content.replace(b"Who; then;", b"Who, then,"))
    questions, ignored = read_questions(str(path))
    assert questions == EXPECTED
    assert ignored == ["note"]


def test_parquet_with_the_types_of_pandas(tmp_path: Path):
    path = parquet(
        tmp_path / "list.parquet",
        question=[each.question for each in EXPECTED.questions],
        question_id=["7", None, "w"],
        n_best=[math.nan, 3.0, math.nan],
        max_answer_length=pa.array([None, None, 4], pa.int32()),
        null_score_diff_threshold=[None, None, -1.5],
        min_probability=[math.nan, 0.5, math.nan],
    )
    assert read_questions(str(path)) == (EXPECTED, [])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "query\nWho?\n", "its header has no 'question', only query"),
        ("a.csv", "", "its header has no 'question', only "),
        ("a.csv", "question\n", "it has no questions"),
        ("a.csv", "question,question\na,b\n", "'question' more than once"),
        ("a.csv", "question,x\nWho?\n", "line 2 has 1 cells, its header has 2"),
        ("a.csv", 'question\n"Who?\n', "unexpected end of data"),
        ("a.csv", "question\n  \n", "row 1: the question is blank"),
        ("a.csv", 'question,question_id\n"",x\n', "row 1: the question is blank"),
        ("a.csv", "question,question_id\nWho?,a\nWhen?,a\n", "'a' occurs more than once"),
        ("a.csv", "question,n_best\nWho?,many\n", "question 'q1': n_best=many: must be a whole"),
        ("a.csv", "question,n_best\nWho?,1001\n", "n_best=1001: must be a whole number from 1 to"),
        (
            "a.csv",
            "question,min_probability\nWho?,1.5\n",
            "question 'q1': min_probability=1.5: must be a number from 0 to 1",
        ),
        (
            "a.csv",
            "question,max_answer_lenght\nWho?,5\n",
            "column 'max_answer_lenght' is unknown: did you mean 'max_answer_length'?",
        ),
        (
            "a.csv",
            "question,temperature\nWho?,5\n",
            "column 'temperature' is a setting that questions can't have of their own; they can "
            "have n_best, max_answer_length",
        ),
        ("a.jsonl", '{"text": "Who?"}\n', "it has no column 'question', only text"),
        ("a.jsonl", '{"question": "Who?"}\n{"x": 1}\n', "row 2: the question is missing"),
        ("a.jsonl", '{"question": null}\n', "row 1: the question is missing"),
        ("a.jsonl", '{"question": ["Who?"]}\n', "row 1: the question is list, not text"),
        ("a.jsonl", '{"question": "Who?"\n', "line 1 is not JSON"),
        ("a.jsonl", '{"question": "Who?"}\n"Who?"\n', "line 2 is not a JSON object"),
        ("a.jsonl", "", "it has no questions"),
        ("a.json", '[{"question": "Who?"}]', "it is not a list of questions; give .parquet"),
        ("a.txt", "Who?\n", "the ending says no format; give .parquet, .csv, .tsv, or .jsonl"),
        ("a.parquet", "PAR1, but no Parquet", "it can't be read as Parquet"),
    ],
)
def test_refusals(tmp_path: Path, name: str, content: str, message: str):
    path = tmp_path / name
    path.write_text(content, "utf-8")
    with pytest.raises((FormatError, QuestionListError)) as refused:
        read_questions(str(path))
    assert message in str(refused.value)


def test_bytes_that_are_not_utf8(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"question\nWho?\nWo \xfcber?\n")
    with pytest.raises(QuestionListError, match="row 2: the question is not UTF-8"):
        read_questions(str(path))


def test_parquet_without_a_question_column(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", context=["x"] * 3)
    with pytest.raises(FormatError, match="no column 'question', only context"):
        read_questions(str(path))


def test_ids_and_settings_of_any_type_of_number(tmp_path: Path):
    path = parquet(
        tmp_path / "list.parquet",
        question=["Who?", "When?", "Where?"],
        question_id=[7.0, None, 2.5],
        n_best=[Decimal(3), None, None],
        min_probability=[Decimal("0.5"), None, Decimal("0.25")],
    )
    with pytest.raises(QuestionListError, match=r"question_id 2\.5 is not text"):
        read_questions(str(path))
    table = pq.read_table(path).slice(0, 2)
    pq.write_table(table, path)
    expected = [Question("Who?", "7", n_best=3, min_probability=0.5), Question("When?", "q2")]
    assert read_questions(str(path)) == (QuestionList.of(expected), [])


def test_tabs_divide_one_column_too(tmp_path: Path):
    path = tmp_path / "list.tsv"
    path.write_text("question\nWho, then?\n", "utf-8")
    assert read_questions(str(path))[0].texts == ["Who, then?"]


def test_an_id_of_bytes_is_refused(tmp_path: Path):
    path = parquet(tmp_path / "list.parquet", question=["Who?"], question_id=[b"a"])
    with pytest.raises(QuestionListError, match="question_id b'a' is not text"):
        read_questions(str(path))


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_too_many_questions(tmp_path: Path, ending: str):
    path, texts = tmp_path / f"a.{ending}", [f"Who is {n}?" for n in range(10_001)]
    if ending == "parquet":
        parquet(path, question=texts)
    elif ending == "csv":
        path.write_text("question\n" + "\n".join(texts))
    else:
        path.write_text("".join(f'{{"question": "{text}"}}\n' for text in texts))
    with pytest.raises(QuestionListError, match="more than 10000 questions"):
        read_questions(str(path))


def test_the_bundled_list():
    questions, ignored = read_questions(QUESTIONS)
    assert len(questions) == 5
    assert ignored == []
