"""--questions as an option: what it changes in a job, and what it is refused with."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pyarrow as pa
import pytest

from model.reading.question_answers import QUESTION_ANSWERS
from pipeline.job.identity import claim, identity
from pipeline.job.options import Refused
from tests.pipeline.job.conftest import Resolve
from tests.runs import examples, write_input


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.csv"
    path.write_text("question_id,question\nwho,Who lit it?\nwhen,When?\n", "utf-8")
    return path


def test_without_the_option_nothing_is_different(job: Resolve):
    made = job()
    assert made.inputs.questions is None
    configuration = made.configuration_of("annotate")
    assert "questions" not in configuration
    assert configuration["chunk_rows"] == 2048
    assert "questions" not in made.about("annotate")


def test_the_list_and_its_digest(job: Resolve, questions: Path, tmp_path: Path):
    made = job(f"--questions={questions}")
    assert made.inputs.questions is not None
    assert made.inputs.questions.ids == ["who", "when"]
    configuration = made.configuration_of("annotate")
    assert configuration["questions"] == made.inputs.questions.digest
    assert configuration["chunk_rows"] == 1024
    assert made.about("annotate")["questions"] == 2
    assert made.inputs.columns.question == ""
    assert made.columns.keep == ("id", "question", "context")
    # The content counts, not the format.
    again = tmp_path / "again.jsonl"
    again.write_text(
        '{"question_id": "who", "question": "Who lit it?"}\n'
        '{"question_id": "when", "question": "When?"}\n'
    )
    same = job(f"--questions={again}")
    assert identity(same, "annotate") == identity(made, "annotate")


def test_documents_need_no_question_column(job: Resolve, questions: Path, tmp_path: Path):
    source = write_input(tmp_path / "b.parquet", examples(3).drop(["question", "id"]))
    made = job(f"--input={source}", f"--questions={questions}")
    assert made.inputs.expected.names == ["context"]
    with pytest.raises(Refused, match="has the columns context; --questions=FILE asks a list"):
        job(f"--input={source}")


@pytest.mark.parametrize("kind", [pa.int64(), pa.null()])
def test_a_question_column_of_any_type_is_left_alone(
    job: Resolve, questions: Path, tmp_path: Path, kind: pa.DataType
):
    table = examples(3)
    table = table.set_column(1, "question", pa.nulls(3, kind))
    source = write_input(tmp_path / "b.parquet", table)
    made = job(f"--input={source}", f"--questions={questions}")
    assert made.inputs.expected.field("question").type == kind


def test_a_given_chunk_rows_stays(job: Resolve, questions: Path):
    made = job(f"--questions={questions}", "--chunk_rows=7")
    assert made.work.chunk_size.rows == 7
    with pytest.raises(Refused, match="--chunk_rows=600000: with 2 questions, a part would hold"):
        job(f"--questions={questions}", "--chunk_rows=600000")


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("audit", [], "applies to annotate, not to audit"),
        ("annotate", ["--audit"], "an audit needs golds for every question"),
        ("annotate", ["--question_column=q"], "--question_column=q: with --questions"),
        ("annotate", ["--overlap=40"], "question 'long': max_answer_length=64"),
    ],
)
def test_refusals(job: Resolve, tmp_path: Path, stage: str, options: list[str], message: str):
    path = tmp_path / "list.csv"
    path.write_text("question_id,question,max_answer_length\nlong,Who?,64\n")
    with pytest.raises(Refused) as refused:
        job(f"--questions={path}", *options, stage=stage)
    assert str(refused.value).startswith("--question")
    assert message in str(refused.value)


def test_files_that_cannot_be_used(job: Resolve, tmp_path: Path):
    with pytest.raises(Refused, match=r"--questions=.*none.csv: No such file"):
        job(f"--questions={tmp_path}/none.csv")
    (tmp_path / "bad.csv").write_text("question\n\u200b\n", "utf-8")
    with pytest.raises(Refused, match=r"--questions=.*bad.csv: question 'q1': the tokenizer finds"):
        job(f"--questions={tmp_path}/bad.csv")


def test_a_damaged_file_and_a_store_that_fails_are_refused(job: Resolve, tmp_path: Path):
    content = bytearray(
        gzip.compress(b"question\n" + random.Random(0).randbytes(3000).hex().encode())
    )
    content[500:520] = b"x" * 20
    (tmp_path / "damaged.csv.gz").write_bytes(content)
    (tmp_path / "damaged.csv.xz").write_bytes(b"\xfd7zXZ\0" + b"no such stream" * 9)
    for name in ("damaged.csv.gz", "damaged.csv.xz"):
        with pytest.raises(Refused, match=rf"--questions=.*{name}: \S"):
            job(f"--questions={tmp_path / name}")
    # The store of the hub raises ValueError for a name that is not one of its own.
    with pytest.raises(Refused, match=r"--questions=hf://x\.csv: \S"):
        job("--questions=hf://x.csv")


def test_another_list_is_named_and_not_the_chunk_rows_that_follow(
    job: Resolve, questions: Path, tmp_path: Path
):
    claim(job(f"--questions={questions}"), overwrite=False)
    questions.write_text("question\nWho?\n", "utf-8")
    with pytest.raises(Refused, match="has another run: questions was '"):
        claim(job(f"--questions={questions}"), overwrite=False)


def test_a_clash_with_the_output_column(job: Resolve, questions: Path, tmp_path: Path):
    table = examples(3).append_column(QUESTION_ANSWERS, pa.array([1, 2, 3]))
    table = table.append_column("answer_text", pa.array(["a", "b", "c"]))
    source = write_input(tmp_path / "b.parquet", table)
    with pytest.raises(Refused, match="the output column 'question_answers' is already"):
        job(f"--input={source}", f"--questions={questions}")
    # The columns inside the lists clash with none of the input.
    assert job(f"--input={source}", f"--questions={questions}", "--output_prefix=m_")
