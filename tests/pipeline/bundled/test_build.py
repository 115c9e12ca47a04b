"""The bundled sample: its sources, the committed file, and named mistakes."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.bundled import SAMPLE
from pipeline.bundled.build import SourceError, build, load_sources, parse

PASSAGE = "# a\n## one\nThe bell rang. The bell fell.\n### Questions\n"


def test_the_committed_sample_is_what_the_sources_give(tmp_path: Path):
    build(tmp_path / "sample.parquet")
    made, committed = pq.read_table(tmp_path / "sample.parquet"), pq.read_table(SAMPLE)
    assert made.equals(committed)
    assert pq.ParquetFile(SAMPLE).num_row_groups > 1


def test_it_holds_what_demo_tests_and_docs_rely_on():
    rows = load_sources()
    contexts = {row["context"] for row in rows}
    assert len(rows) >= 200
    assert len(contexts) >= 40
    assert sum(len(context.split()) > 2000 for context in contexts) == 3
    assert sum(not row["answers"]["text"] for row in rows) >= 20
    for source in ("chinese", "arabic", "hindi", "emoji", "decomposed"):
        assert any(row["source"] == source for row in rows)


def test_answers_of_the_long_passages_lie_far_apart():
    for source in ("long_lighthouse", "long_river", "long_observatory"):
        rows = [row for row in load_sources() if row["source"] == source and row["answers"]["text"]]
        places = [row["answers"]["answer_start"][0] / len(row["context"]) for row in rows]
        assert min(places) < 0.1
        assert max(places) > 0.9


def test_combining_marks_were_not_normalised_away():
    contexts = {row["context"] for row in load_sources() if row["source"] == "decomposed"}
    assert contexts
    assert all(context != unicodedata.normalize("NFC", context) for context in contexts)


def test_a_source_is_read_question_by_question():
    rows = parse(PASSAGE + "- Q: What rang?\n  A: The bell [1] | bell [1]\n- Q: Who rang it?\n")
    assert [row["id"] for row in rows] == ["one-q1", "one-q2"]
    assert rows[0]["answers"] == {"text": ["The bell", "bell"], "answer_start": [0, 4]}
    assert rows[1]["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PASSAGE + "- Q: What?\n  A: horn\n", "question 1.*'horn' is not in the passage"),
        (PASSAGE + "- Q: What?\n  A: bell\n", "occurs 2 times"),
        (PASSAGE + "- Q: What?\n  A: bell [3]\n", r"no occurrence \[3\]"),
        (PASSAGE + "- Q: What?\n  A: bell [1]\n  A: bell [2]\n", "unexpected line"),
        (PASSAGE, "a passage needs"),
        ("no title", "starts with 'no title'"),
    ],
)
def test_a_mistake_in_a_source_is_named(text: str, message: str):
    with pytest.raises(SourceError, match=message):
        parse(text)
