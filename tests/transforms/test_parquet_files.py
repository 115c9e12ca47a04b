"""Parquet files on both kinds of stores: opened in part, in one state, with a footer kept."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from transforms.find_inputs import find_inputs
from transforms.parquet_files import open_dataset, open_parquet
from transforms.storage import StorageError, commit, join


def test_a_parquet_file_can_be_opened(output: str):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1, 2]}), sink)
    commit(output, sink.getvalue(), "a.parquet")
    with open_parquet(join(output, "a.parquet")) as file:
        assert file.read().to_pydict() == {"a": [1, 2]}


def test_any_range_of_a_file_can_be_read(output: str):
    """The file is larger than one fetch: its metadata and row groups take several."""
    table = pa.table({"a": list(range(5000)), "b": [f"text {n} " * 20 for n in range(5000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=700, compression="none")
    commit(output, sink.getvalue(), "a.parquet")
    with open_parquet(join(output, "a.parquet")) as file:
        assert file.read_row_group(3).equals(table.slice(2100, 700))
        assert (
            pa.Table.from_batches(file.iter_batches(batch_size=999, row_groups=[0, 7])).num_rows
            == 800
        )


def test_a_file_is_opened_in_its_state_only(output: str):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), sink)
    commit(output, sink.getvalue(), "a.parquet")
    (found,) = find_inputs(join(output, "a.parquet"))
    with open_parquet(found.path, found.state) as file:
        assert file.metadata.num_rows == 1
    with (
        pytest.raises(StorageError, match="has changed"),
        open_parquet(found.path, (found.size + 1, found.version)),
    ):
        pass


def test_the_footer_of_a_file_is_parsed_once(tmp_path: Path):
    """A file of 10,000 row groups is opened 10,000 times. A changed file is parsed again."""
    path, table = tmp_path / "a.parquet", pa.table({"a": list(range(9))})
    pq.write_table(table, path, row_group_size=3)
    (found,) = find_inputs(str(path))
    with open_parquet(found.path, found.state) as file:
        assert file.metadata.num_row_groups == 3
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    path.write_bytes(content[:-footer] + b"x" * footer)
    os.utime(path, (float(found.version), float(found.version)))
    (damaged,) = find_inputs(str(path))
    assert damaged.state == found.state
    for group in range(3):
        with open_parquet(found.path, found.state) as file:
            assert file.read_row_group(group).equals(table.slice(3 * group, 3))
    os.utime(path, (1, 1))
    (damaged,) = find_inputs(str(path))
    with pytest.raises(pa.ArrowInvalid), open_parquet(damaged.path, damaged.state):
        pass


def test_a_message_says_what_has_changed(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    size = path.stat().st_size
    os.utime(path, (1, 1))
    (found,) = find_inputs(str(path))
    os.utime(path, (2, 2))
    with pytest.raises(StorageError) as changed, open_parquet(found.path, found.state):
        pass
    was, now = (f"{size} bytes, version of 1970-01-01T00:00:0{second}+00:00" for second in (1, 2))
    assert f"it had {was}, now it has {now}" in str(changed.value)


def test_files_are_one_dataset(output: str):
    for number in (1, 2):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"n": [number, number * 10], "text": ["a", "b"]}), sink)
        commit(output, sink.getvalue(), f"{number}.parquet")
    found = open_dataset([join(output, "1.parquet"), join(output, "2.parquet")])
    assert found.to_table(columns=["n"], filter=pc.field("n") >= 10).to_pylist() == [
        {"n": 10},
        {"n": 20},
    ]
    assert [fragment.count_rows() for fragment in found.get_fragments()] == [2, 2]
