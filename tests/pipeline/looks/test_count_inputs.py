"""Totals over input files: exact for a few, estimated by size for many."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.looks import count_inputs as module
from pipeline.looks.count_inputs import count_inputs, rows_of
from tests.runs import examples, write_input
from transforms.parquet_files import open_parquet
from transforms.records import InputFile


def groups(file: InputFile, metadata: pq.FileMetaData) -> int:
    return metadata.num_row_groups


@pytest.fixture
def files(tmp_path: Path) -> list[InputFile]:
    """Write files of 6 and 4 rows, and one that can't be read."""
    write_input(tmp_path / "a", examples(6), row_group_size=4)
    write_input(tmp_path / "b", examples(4))
    (tmp_path / "c").write_bytes(b"")
    paths = [tmp_path / name for name in "abc"]
    return [InputFile(n, str(path), 10, "", path.name) for n, path in enumerate(paths)]


def test_every_file_is_counted(files: list[InputFile]):
    assert count_inputs(files, rows_of, groups) == ([10, 3], True)


def test_a_limit_bounds_the_rows(files: list[InputFile]):
    file = InputFile(0, files[0].path, 10, "", "a", rows=5)
    assert count_inputs([file], rows_of) == ([5], True)


def test_no_file_has_nothing():
    assert count_inputs([], rows_of, groups) == ([0, 0], True)


def test_of_many_files_some_are_opened(files: list[InputFile], monkeypatch: pytest.MonkeyPatch):
    """Each footer costs a request."""
    monkeypatch.setattr(module, "_MOST_FOOTERS", 2)
    opened: list[str] = []
    monkeypatch.setattr(
        module, "open_parquet", lambda path: opened.append(path) or open_parquet(path)
    )
    half = InputFile(1, files[1].path, 5, "", "half")
    assert count_inputs([files[0], half, files[0], half], rows_of) == ([18], False)
    assert opened == [files[0].path] * 2
