"""Answers of a finished run: those given, found again by their places."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.job.options import Refused
from pipeline.review.answers import answers_of, open_annotated, read_answers
from tests.runs import (
    Annotate,
    examples,
    part_files,
    read_manifest,
    read_parts,
    run,
    write_input,
)


@pytest.fixture(scope="module")
def finished(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotate 50 rows in parts of 20, of which some are rejected and some have no answer."""
    folder = tmp_path_factory.mktemp("finished")
    table = examples(50)
    questions = table["question"].to_pylist()
    questions[3] = questions[44] = " "
    table = table.set_column(1, "question", [questions])
    write_input(folder / "a.parquet", table)
    arguments = (f"--input={folder}/a.parquet", f"--model={bert_folder}", "--chunk_rows=20")
    more = ("--null=on", "--output_prefix=qa_")
    assert run("annotate", *arguments, *more, f"--output={folder}/first") == 0
    # The middle of the differences makes half of the rows unanswered.
    differences = sorted(
        row["qa_null_score"] - row["qa_span_score"]
        for row in read_parts(folder / "first").to_pylist()
        if row["qa_status"] != "rejected"
    )
    middle = sum(differences[23:25]) / 2
    more = (*more, f"--null_score_diff_threshold={middle}")
    assert run("annotate", *arguments, *more, f"--output={folder}/out") == 0
    return folder / "out"


def test_the_answers_given_are_found_with_their_texts(finished: Path):
    opened, identity = open_annotated(str(finished))
    rows = read_parts(finished).to_pylist()
    given = [row for row in rows if row["qa_status"] == "answered"]
    assert len(given) == pytest.approx(24, abs=2)
    batches = list(answers_of(opened))
    probabilities, places = (np.concatenate(each) for each in zip(*batches, strict=True))
    assert probabilities.tolist() == pytest.approx([row["qa_probability"] for row in given])
    backwards = read_answers(opened, places[::-1])
    for answer, row in zip(backwards, given[::-1], strict=True):
        assert (answer.id, answer.question_id, answer.question, answer.context) == (
            row["id"],
            "",
            row["question"],
            row["context"],
        )
        assert answer.context[answer.start : answer.end] == row["qa_answer_text"]
        assert answer.probability == row["qa_probability"]
    assert identity.content == read_manifest(finished)["content"]


def test_a_run_that_did_not_keep_its_texts_can_not_be_judged(
    annotate: Annotate, tmp_path: Path, output: Path
):
    write_input(tmp_path / "a.parquet", examples(3))
    assert annotate(tmp_path / "a.parquet", output, "--keep_columns=question") == 0
    opened, _ = open_annotated(str(output))
    with pytest.raises(Refused, match="did not keep its column 'context', without which nobody"):
        read_answers(opened, np.array([[0, 0, 0]]))


def test_ids_are_not_needed(annotate: Annotate, tmp_path: Path, output: Path):
    write_input(tmp_path / "a.parquet", examples(3))
    assert annotate(tmp_path / "a.parquet", output, "--keep_columns=question,context") == 0
    opened, _ = open_annotated(str(output))
    (answer,) = read_answers(opened, np.array([[0, 2, 0]]))
    assert (answer.id, answer.question) == ("", "Who kept lamp 2?")


def test_rows_that_can_not_be_read_are_named(finished: Path):
    opened, _ = open_annotated(str(finished))
    with pytest.raises(Refused, match=r"row 999 of .*\.parquet can't be read"):
        read_answers(opened, np.array([[0, 999, 0]]))


def test_a_question_list_has_an_answer_per_row_and_question(finished: Path, tmp_path: Path):
    """Rows of a run as if they were questions of documents: none, one, and several to a row."""
    rows = read_parts(finished).drop_columns(["id"]).to_pylist()
    output = tmp_path / "out"
    shutil.copytree(finished, output, ignore=shutil.ignore_patterns("*.parquet"))
    asks = []
    for path, counts in zip(part_files(finished), [[0, 3, 1], [5, 0], [2, 2, 0]], strict=True):
        documents = []
        for count in counts:
            given = [asked(rows.pop(0), len(asks) + number) for number in range(count)]
            texts = {"id": f"document {len(asks)}", "context": f"{len(asks)} ", "question": 1}
            documents.append({**texts, "qa_question_answers": given or None})
            asks += [(documents[-1], each) for each in given]
        kind = pa.list_(pa.struct([*ASKED, *(pa.field(*each) for each in TYPES.items())]))
        table = pa.Table.from_pylist(
            documents,
            pa.schema(
                [
                    ("id", pa.string()),
                    ("context", pa.string()),
                    ("question", pa.int64()),
                    ("qa_question_answers", kind),
                ]
            ),
        )
        pq.write_table(table, output / "parts" / path.name)
    opened, _ = open_annotated(str(output))
    given = [(document, each) for document, each in asks if each["status"] == "answered"]
    assert 0 < len(given) < len(asks) == 13
    probabilities, places = (np.concatenate(each) for each in zip(*answers_of(opened), strict=True))
    assert probabilities.tolist() == pytest.approx([each["probability"] for _, each in given])
    for answer, (document, each) in zip(read_answers(opened, places), given, strict=True):
        assert (answer.id, answer.context) == (document["id"], document["context"])
        assert (answer.question_id, answer.question) == (each["question_id"], each["question"])
        assert (answer.start, answer.end) == (each["answer_start"], each["answer_end"])


ASKED = (pa.field("question_id", pa.string()), pa.field("question", pa.string()))
TYPES = {
    "answer_start": pa.int32(),
    "answer_end": pa.int32(),
    "probability": pa.float32(),
    "status": pa.string(),
}


def asked(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return what a run says to a row as a struct of a question list."""
    own = {name: row[f"qa_{name}"] for name in TYPES}
    return {"question_id": f"q{number}", "question": row["question"], **own}
