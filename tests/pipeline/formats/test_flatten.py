"""Flattening: every row once per question, whatever the size of the tables in between."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.formats.flatten import flat_tables, flatten
from pipeline.job.options import Refused

ANSWERS = pa.list_(pa.struct([("question_id", pa.string()), ("probability", pa.float32())]))

SCHEMA = pa.schema(
    [("id", pa.int64()), ("context", pa.string()), ("q", pa.string()), ("p", pa.float32())]
)


@pytest.mark.parametrize("most_bytes", [1, 40, 1000, 2**30])
def test_rows_are_repeated_for_their_answers(most_bytes: int):
    contexts = ["a" * 100, "", None, "b" * 3]
    lists = [
        [{"question_id": f"{row}{k}", "probability": k / 2} for k in range(3)] for row in range(4)
    ]
    lists[1][2]["probability"] = None
    inputs = pa.table({"id": range(4), "context": pa.array(contexts, pa.string())})
    answers = pa.chunked_array([pa.array(lists[:1], ANSWERS), pa.array(lists[1:], ANSWERS)])
    tables = list(flat_tables(inputs, answers, SCHEMA, most_bytes))
    assert pa.concat_tables(tables).to_pylist() == [
        {"id": row, "context": contexts[row], "q": each["question_id"], "p": each["probability"]}
        for row in range(4)
        for each in lists[row]
    ]
    if most_bytes == 1:  # the answers of one row are divided, too
        assert max(table.num_rows for table in tables) <= 3
    if most_bytes == 2**30:
        assert len(tables) == 1


def test_no_rows():
    inputs = pa.table({"id": pa.array([], pa.int64()), "context": pa.array([], pa.string())})
    assert list(flat_tables(inputs, pa.chunked_array([], ANSWERS), SCHEMA)) == []


def test_what_can_not_be_flattened_is_named_without_an_option(tmp_path: Path):
    with pytest.raises(Refused, match=f"^{tmp_path}: {tmp_path} has no run.json"):
        flatten(str(tmp_path), f"{tmp_path}/flat.parquet")
    (tmp_path / "run.json").write_text(json.dumps({"configuration": {"stage": "audit"}}))
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.table({"id": [1]}), tmp_path / "parts" / "a-n1.parquet")
    with pytest.raises(Refused, match=f"^{tmp_path} is an output of audit: only those of annotate"):
        flatten(str(tmp_path), f"{tmp_path}/flat.parquet")
