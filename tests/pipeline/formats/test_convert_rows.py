"""Rows of any format as Parquet: row groups, types of columns, and broken rows among good ones."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.formats.convert_rows import convert_rows
from pipeline.formats.imported_rows import FileLayout, FormatError, ImportedRow
from pipeline.formats.read_formats import READERS

CONTEXT = "Ada 🌊 lit the lamp. Ben rang the bell."


def asked(number: int = 0, start: int | None = 14, **others: Any) -> dict[str, Any]:
    answers = {"text": ["lamp"], "answer_start": [start]}
    return {
        "id": f"row {number}",
        "question": "What?",
        "context": CONTEXT,
        "answers": answers,
        **others,
    }


def lines(*rows: dict[str, Any]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def made_of(content: str, kind: str, folder: Path) -> list[dict[str, Any]]:
    data = content.encode("utf-8", "surrogatepass")

    def read() -> Iterator[ImportedRow]:
        return READERS[kind](io.BytesIO(data), FileLayout())

    convert_rows(read, str(folder / "made.parquet"), "code_points", io.StringIO(), Counter())
    return pq.read_table(folder / "made.parquet").to_pylist()


def test_many_rows_are_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.formats.survey_rows.ROWS_AT_ONCE", 4)
    monkeypatch.setattr("pipeline.formats.survey_rows.CHARACTERS_AT_ONCE", 100)
    made_of(lines(*[asked(n) for n in range(8)]), "jsonl", tmp_path)
    file = pq.ParquetFile(tmp_path / "made.parquet")
    assert [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] == [
        3,
        3,
        2,
    ]  # of 39 characters each
    assert file.read().column("id").to_pylist() == [f"row {n}" for n in range(8)]


def test_columns_have_the_type_that_holds_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.formats.survey_rows.ROWS_AT_ONCE", 1)
    rows = [
        asked(0),
        asked(1, page=None, tags=[]),
        asked(2, page=1, tags=["a"], at={"x": 1}),
        asked(3, page=2.5, at={"y": "b"}),
    ]
    made_of(lines(*rows), "jsonl", tmp_path)
    table = pq.read_table(tmp_path / "made.parquet")
    assert table.column("page").to_pylist() == [None, None, 1.0, 2.5]
    assert table.column("tags").to_pylist() == [None, [], ["a"], None]
    assert table.column("at").to_pylist() == [
        None,
        None,
        {"x": 1, "y": None},
        {"x": None, "y": "b"},
    ]


def test_what_can_be_read_only_once(tmp_path: Path):
    rows = iter([ImportedRow("1", "Who?", CONTEXT, [])])
    with pytest.raises(FormatError, match="it had 1 rows, then 0: it was changed, or is a pipe"):
        convert_rows(
            lambda: rows, str(tmp_path / "a.parquet"), "code_points", io.StringIO(), Counter()
        )
    assert not (tmp_path / "a.parquet").exists()


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["\ud83c", "the bell", "false"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["text", "answer_start", "x", ""]), inner)
    ),
    max_leaves=6,
)
NAMES = ("id", "question", "context", "answers", "answer_start", "is_impossible", "page")
BROKEN = ODD | st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, ODD))


def of_ours(rows: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the good rows among others, whose pages the others may turn into floats or text."""
    wanted = {(row["id"], row["question"], row["context"], float(row["page"])) for row in ours}
    found = [row for row in rows if row["context"] == CONTEXT and row["question"] == "What?"]
    return [
        {"id": row["id"], "answers": row["answers"]}
        for row in found
        if re.fullmatch(r"[345](\.0)?", str(row["page"]))
        and (row["id"], row["question"], row["context"], float(row["page"])) in wanted
    ]


@settings(max_examples=150, deadline=None)  # files are written
@given(st.lists(BROKEN, max_size=4), st.integers(0, 4))
@example(
    [{"page": {}}, {"page": 2**70}, {"context": 7, "answers": {"text": ["a"], "answer_start": []}}],
    1,
)
def test_no_broken_row_refuses_or_changes_its_neighbours(broken: list[Any], place: int):
    good = [asked(0, page=3), asked(1, 15, page=4), asked(2, None, page=5)]
    rows = [*broken[:place], good[0], *broken[place:], *good[1:]]
    wrapped = {
        "jsonl": lambda rows: lines(*rows),
        "squad": lambda rows: json.dumps(
            {"data": [{"paragraphs": [{"context": CONTEXT, "qas": rows}]}]}
        ),
        "csv": lambda rows: csv_of([row for row in rows if isinstance(row, dict)]),
    }
    with tempfile.TemporaryDirectory() as name:
        for kind, wrap in wrapped.items():
            if kind == "squad":  # JSON has no NaN or infinity
                rows = [row for row in rows if not re.search("NaN|Infinity", json.dumps(row))]
            alone, among = (
                made_of(wrap(good), kind, Path(name)),
                made_of(wrap(rows), kind, Path(name)),
            )
            assert of_ours(among, good) == of_ours(alone, good), kind
            assert len(of_ours(alone, good)) == len(good)


def csv_of(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, NAMES, extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in row.items()
            }
        )
    return text.getvalue()
