"""ReadExamples: rows by place, and the texts of the examples to show."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.audit.statistics import WITH_TOKENS, Ranking, Statistics
from tests.runs import examples, write_input
from transforms.read_examples import read_examples, read_rows
from transforms.records import InputColumns


def listed(path: str, rows: list[int]) -> Ranking:
    return Ranking(len(rows), [(-1.0, path, row, {}) for row in rows])


@pytest.mark.parametrize("group", [7, 3000])
def test_rows_by_place(tmp_path: Path, group: int):
    """Rows are in several files, row groups and batches; one is the last, one occurs twice."""
    table = examples(2500)
    write_input(tmp_path / "a.parquet", table, row_group_size=group)
    write_input(tmp_path / "b.parquet", table.slice(3, 5), row_group_size=group)
    places = [(str(tmp_path / "a.parquet"), row) for row in (0, 6, 7, 1024, 2499, 6)] + [
        (str(tmp_path / "b.parquet"), 4)
    ]
    found = read_rows(places, ["context", "id"])
    assert set(found) == set(places)
    for (path, row), values in found.items():
        number = row + 3 * path.endswith("b.parquet")
        assert values == {"context": table["context"][number].as_py(), "id": f"row {number}"}


def test_a_file_that_is_gone_is_no_reason_to_lose_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_input(tmp_path / "a.parquet", examples(2))
    with caplog.at_level(logging.WARNING):
        found = read_rows(
            [(str(tmp_path / "a.parquet"), 1), (str(tmp_path / "gone.parquet"), 0)], ["id"]
        )
    assert list(found.values()) == [{"id": "row 1"}]
    assert "gone.parquet, which are shown without their texts" in caplog.text


def test_values_of_other_types_and_texts_that_are_no_utf8(tmp_path: Path):
    bad = pa.StringArray.from_buffers(
        2, pa.array([0, 1, 3], pa.int32()).buffers()[1], pa.py_buffer(b"\xffok")
    )
    answers = pa.array([{"text": ["a"], "answer_start": [0]}, None])
    pq.write_table(pa.table({"text": bad, "answers": answers}), tmp_path / "a.parquet")
    found = read_rows([(str(tmp_path / "a.parquet"), row) for row in (0, 1)], ["text", "answers"])
    assert [values["text"] for values in found.values()] == [None, "ok"]
    assert [values["answers"] for values in found.values()] == [
        {"text": ["a"], "answer_start": [0]},
        None,
    ]


def test_texts_of_the_examples_that_are_shown_and_of_all_suspects(tmp_path: Path):
    path = write_input(tmp_path / "a.parquet", examples(3 * WITH_TOKENS))
    worst, suspects = (
        listed("a.jsonl", list(range(2 * WITH_TOKENS))),
        listed("a.jsonl", [3 * WITH_TOKENS - 1, 1, 2 * WITH_TOKENS + 5]),
    )
    statistics = Statistics(worst=worst, suspects=suspects)
    # The entries name the user's file, of which the Parquet file is a copy.
    found = read_examples(statistics, InputColumns(), {"a.jsonl": str(path)})
    assert {row for name, row in found if name == "a.jsonl"} == {
        *range(WITH_TOKENS),
        2 * WITH_TOKENS + 5,
        3 * WITH_TOKENS - 1,
    }
    for (_, row), example in found.items():
        assert example.context.startswith(f"In the year {1800 + row}")
        assert example.question
