"""Flattening: every row once per question, whatever the size of the tables in between."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.formats.flatten import flat_tables

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
