"""Answers of a finished run: those given, found again by their places."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.job.options import Refused
from pipeline.review.answers import open_annotated, probabilities_of, read_drawn
from tests.runs import (
    Annotate,
    examples,
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
    batches = list(probabilities_of(opened))
    probabilities, places = (np.concatenate(each) for each in zip(*batches, strict=True))
    assert probabilities.tolist() == pytest.approx([row["qa_probability"] for row in given])
    backwards = read_drawn(opened, places[::-1])
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
        read_drawn(opened, np.array([[0, 0, 0]]))


def test_ids_are_not_needed(annotate: Annotate, tmp_path: Path, output: Path):
    write_input(tmp_path / "a.parquet", examples(3))
    assert annotate(tmp_path / "a.parquet", output, "--keep_columns=question,context") == 0
    opened, _ = open_annotated(str(output))
    (answer,) = read_drawn(opened, np.array([[0, 2, 0]]))
    assert (answer.id, answer.question) == ("", "Who kept lamp 2?")


def test_rows_that_can_not_be_read_are_named(finished: Path):
    opened, _ = open_annotated(str(finished))
    with pytest.raises(Refused, match=r"row 999 of .*\.parquet can't be read"):
        read_drawn(opened, np.array([[0, 999, 0]]))


QUESTIONS = [
    {"question_id": "who", "question": "Who lit the lamp?"},
    {"question_id": "when", "question": "In which year?", "min_probability": 1.0},
    {"question_id": "what", "question": "What was calm?"},
]


def test_a_question_list_has_an_answer_per_document_and_question(
    annotate: Annotate, tmp_path: Path, output: Path
):
    """One question is never answered, one document has no text, and a column is no question."""
    table = examples(5)
    contexts = table["context"].to_pylist()
    contexts[2] = " "
    write_input(tmp_path / "a.parquet", table.set_column(2, "context", [contexts]))
    lines = "".join(json.dumps(question) + "\n" for question in QUESTIONS)
    (tmp_path / "questions.jsonl").write_text(lines, "utf-8")
    asked = f"--questions={tmp_path}/questions.jsonl"
    more = ("--output_prefix=qa_", "--chunk_rows=2")
    assert annotate(tmp_path / "a.parquet", output, asked, *more) == 0
    expected = [
        (row["id"], row["context"], given)
        for row in read_parts(output).to_pylist()
        for given in row["qa_question_answers"]
        if given["status"] == "answered"
    ]
    assert len(expected) == 8
    opened, _ = open_annotated(str(output))
    batches = list(probabilities_of(opened))
    probabilities, places = (np.concatenate(each) for each in zip(*batches, strict=True))
    assert probabilities.tolist() == [given["probability"] for _, _, given in expected]
    for answer, (row_id, context, given) in zip(read_drawn(opened, places), expected, strict=True):
        assert (answer.id, answer.context) == (row_id, context)
        assert (answer.question_id, answer.question) == (given["question_id"], given["question"])
        assert answer.context[answer.start : answer.end] == given["answer_text"]
        assert answer.probability == given["probability"]
