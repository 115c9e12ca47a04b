"""Rows read again by place, and the tokens of those that are shown."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model.batching import Batch
from model.checkpoint import LocalFolder
from model.reader import CheckpointReader
from model.statistics import Ranking, Statistics
from tests.runs import examples, write_input
from transforms.make_windows import InputColumns, WindowLimits
from transforms.read_examples import SHOWN, read_examples, read_rows

LIMITS = WindowLimits(max_length=64, overlap=16, max_question=16, max_windows=99)


def listed(path: Path, rows: list[int]) -> Ranking:
    return Ranking(len(rows), [(-1.0, str(path), row, {}) for row in rows])


@pytest.mark.parametrize("group", [7, 3000])
def test_rows_by_place(tmp_path: Path, group: int):
    """In other files and row groups, more than one batch, the last row, a row that is asked for twice."""
    table = examples(2500)
    write_input(tmp_path / "a.parquet", table, row_group_size=group)
    write_input(tmp_path / "b.parquet", table.slice(3, 5), row_group_size=group)
    places = [(str(tmp_path / "a.parquet"), row) for row in (0, 6, 7, 1024, 2499, 6)] + [(str(tmp_path / "b.parquet"), 4)]
    found = read_rows(places, ["context", "id"])
    assert set(found) == set(places)
    for (path, row), values in found.items():
        number = row + 3 * path.endswith("b.parquet")
        assert values == {"context": table["context"][number].as_py(), "id": f"row {number}"}


def test_a_file_that_is_gone_is_no_reason_to_lose_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_input(tmp_path / "a.parquet", examples(2))
    with caplog.at_level(logging.WARNING):
        found = read_rows([(str(tmp_path / "a.parquet"), 1), (str(tmp_path / "gone.parquet"), 0)], ["id"])
    assert list(found.values()) == [{"id": "row 1"}]
    assert "gone.parquet can't be read again" in caplog.text


def test_values_of_other_types_and_texts_that_are_no_utf8(tmp_path: Path):
    bad = pa.StringArray.from_buffers(2, pa.array([0, 1, 3], pa.int32()).buffers()[1], pa.py_buffer(b"\xffok"))
    answers = pa.array([{"text": ["a"], "answer_start": [0]}, None])
    pq.write_table(pa.table({"text": bad, "answers": answers}), tmp_path / "a.parquet")
    found = read_rows([(str(tmp_path / "a.parquet"), row) for row in (0, 1)], ["text", "answers"])
    assert [values["text"] for values in found.values()] == [None, "ok"]
    assert [values["answers"] for values in found.values()] == [{"text": ["a"], "answer_start": [0]}, None]


def test_texts_of_all_suspects_and_tokens_of_those_that_are_shown(bert_folder: Path, tmp_path: Path):
    path = write_input(tmp_path / "a.parquet", examples(2 * SHOWN + 10))
    worst, suspects = listed(path, [1, 0]), listed(path, list(range(5, 2 * SHOWN + 5)))
    reader = CheckpointReader(LocalFolder(str(bert_folder)))
    found = read_examples(
        Statistics(worst=worst, suspects=suspects), reader, LIMITS, InputColumns(), null=False, batch_tokens=4096
    )
    assert {row for _, row in found} == {0, 1, *range(5, 2 * SHOWN + 5)}
    for (_, row), example in found.items():
        assert example.context.startswith(f"In the year {1800 + row}")
        assert (example.offsets.shape[1] > 0) == (row < 5 + SHOWN)
    example = found[str(path), 0]
    words = [example.context[start:end] for start, end in example.offsets.T]
    assert "".join(words) == "".join(example.context.split())
    assert example.probabilities.sum(1) == pytest.approx([1, 1])


def test_an_endless_passage_has_no_token_probabilities(bert_folder: Path, tmp_path: Path):
    table = examples(2)
    texts = [table["context"][0].as_py() * 60, table["context"][1].as_py()]
    path = write_input(tmp_path / "a.parquet", table.set_column(2, "context", pa.array(texts)))
    reader = CheckpointReader(LocalFolder(str(bert_folder)))
    found = read_examples(Statistics(worst=listed(path, [0, 1])), reader, LIMITS, InputColumns(), null=False, batch_tokens=4096)
    assert [found[str(path), row].offsets.shape[1] > 0 for row in (0, 1)] == [False, True]
    why = "they are computed for passages of at most 16 context windows"
    assert [found[str(path), row].unmeasured for row in (0, 1)] == [why, ""]


class FailsAtLong(CheckpointReader):
    """A network that can't take long windows."""

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if batch.attention.sum(1).max() > 40:
            raise RuntimeError("a long window")
        return super().logits(batch)


def test_a_window_that_fails_costs_its_example_the_tokens(bert_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    table = examples(2)
    texts = [table["context"][0].as_py() * 3, "In the year 1801."]
    path = write_input(tmp_path / "a.parquet", table.set_column(2, "context", pa.array(texts)))
    reader = FailsAtLong(LocalFolder(str(bert_folder)))
    with caplog.at_level(logging.WARNING):
        found = read_examples(
            Statistics(worst=listed(path, [0, 1])), reader, LIMITS, InputColumns(), null=False, batch_tokens=4096
        )
    assert [found[str(path), row].offsets.size > 0 for row in (0, 1)] == [False, True]
    assert [found[str(path), row].unmeasured for row in (0, 1)] == ["the network failed at it when this page was made", ""]
    assert "token probabilities of 1 examples can't be shown: RuntimeError: a long window" in caplog.text


def test_a_network_that_fails_costs_the_tokens_only(bert_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write_input(tmp_path / "a.parquet", examples(1))
    lost = CheckpointReader(LocalFolder(str(bert_folder)), digest="another")
    with caplog.at_level(logging.WARNING):
        found = read_examples(Statistics(worst=listed(path, [0])), lost, LIMITS, InputColumns(), null=False, batch_tokens=4096)
    assert found[str(path), 0].context
    assert not found[str(path), 0].offsets.size
    assert found[str(path), 0].unmeasured == "the network failed when this page was made"
    assert "token probabilities can't be shown" in caplog.text
