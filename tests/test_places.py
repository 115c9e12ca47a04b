"""Runs of annotate --locate: places in parts, in exports and per question; given by columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from model.reading.places import locate
from pipeline import convert
from tests.runs import Annotate, read_manifest, read_parts, write_input

NAMES = ("sentence_start", "sentence_end", "sentence_text", "page", "section", "section_path")

CONTEXT = "# One\nAda 🌊 lit it.\f\n## Two\nBen slept. Kern rang the bell."

PAGES: dict[str, Any] = {
    "good": [0, 6, 6, 20],
    "null": None,
    "unsorted": [6, 0],
    "negative": [-1, 6],
    "beyond": [0, 1000],
    "null inside": [0, None],
    "text missing": [0],
    "late": [len(CONTEXT)],
}
"""Starts of pages by id."""

WANTED = "page,section"


def title(start: int | None) -> dict[str, Any]:
    return {"start": start, "title": f"from {start}"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {
            "id": name,
            "question": "Who lit it?",
            "context": None if name == "text missing" else CONTEXT,
            "starts": starts,
            "parts": starts and [title(start) for start in starts],
        }
        for name, starts in PAGES.items()
    ]
    rows[-1]["context"] = CONTEXT + " "  # a passage of its own
    rows[-1]["starts"] = [len(CONTEXT) + 1]
    rows[-1]["parts"] = [title(len(CONTEXT) + 1)]
    return write_input(tmp_path_factory.mktemp("places") / "in.parquet", pa.Table.from_pylist(rows))


def check_given(row: dict[str, Any], answer: dict[str, Any]) -> None:
    """Check the page and section of an answer in a row that has columns of its own for them."""
    found = [answer[name] for name in ("page", "section", "section_path")]
    if row["id"] == "text missing":
        assert answer["status"] == "rejected"
        assert found == [None] * 3
        return
    # Malformed places never cost the answer.
    assert answer["status"] == "answered"
    start = answer["answer_start"]
    before = [begin for begin in PAGES["good"] if begin <= start]
    if row["id"] == "good":
        assert found == [len(before), f"from {before[-1]}", [f"from {before[-1]}"]]
    else:
        assert found == [None, None, [] if row["id"] == "late" else None]


def test_columns_give_pages_and_sections(annotate: Annotate, source: Path, output: Path):
    columns = "--page_column=starts", "--section_column=parts"
    assert annotate(source, output, f"--locate={WANTED}", *columns) == 0
    rows = read_parts(output).to_pylist()
    assert [row["id"] for row in rows] == list(PAGES)
    for row in rows:
        check_given(row, row)
    # "good", "late" and the row that is rejected do not count.
    unusable = len(PAGES) - 3
    assert read_manifest(output)["unusable_places"] == {"pages": unusable, "sections": unusable}


def test_a_list_has_the_places_of_each_answer(
    annotate: Annotate, source: Path, output: Path, tmp_path: Path
):
    """Form feeds and headings in one run, the documents' own columns in the other."""
    questions = tmp_path / "questions.jsonl"
    texts = ("Who lit it?", "Who rang the bell?", "When?")
    questions.write_text("".join(json.dumps({"question": text}) + "\n" for text in texts), "utf-8")
    options = f"--questions={questions}", "--locate=sentence,page,section", "--max_answer_length=4"
    plain, given = output / "plain", output / "given"
    assert annotate(source, plain, *options) == 0
    columns = "--page_column=starts", "--section_column=parts"
    assert annotate(source, given, *options, *columns) == 0
    unusable = len(PAGES) - 3
    assert read_manifest(given)["unusable_places"] == {"pages": unusable, "sections": unusable}
    assert "unusable_places" not in read_manifest(plain)
    pairs = zip(read_parts(plain).to_pylist(), read_parts(given).to_pylist(), strict=True)
    for row, own in pairs:
        assert len(row["question_answers"]) == len(texts)
        for answer, other in zip(row["question_answers"], own["question_answers"], strict=True):
            check_given(own, other)
            assert answer["answer_start"] == other["answer_start"]
            assert answer["sentence_text"] == other["sentence_text"]
            if answer["status"] == "answered":
                place = locate(row["context"], answer["answer_start"], answer["answer_end"])
                expected = {name: getattr(place, name) for name in NAMES}
                expected["section_path"] = list(place.section_path)
                assert {name: answer[name] for name in NAMES} == expected


def test_json_lines_hold_the_places(annotate: Annotate, source: Path, output: Path, tmp_path: Path):
    assert annotate(source, output, "--locate=sentence,page,section") == 0
    lines = tmp_path / "rows.jsonl"
    export = ["export", f"--run={output}", "--format=jsonl", f"--output={lines}"]
    assert convert.main(export) == 0
    written = list(map(json.loads, lines.read_text("utf-8").splitlines()))
    for line, row in zip(written, read_parts(output).to_pylist(), strict=True):
        assert {name: line[name] for name in NAMES} == {name: row[name] for name in NAMES}
        if row["status"] == "answered":
            place = locate(row["context"], line["answer_start"], line["answer_end"])
            assert (line["sentence_text"], line["page"]) == (place.sentence_text, place.page)
    assert sum(line["page"] is not None for line in written) == len(PAGES) - 1
