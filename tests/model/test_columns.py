"""Entries of columns: schema, values and nulls are made from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from model.audit.columns import AUDIT_COLUMNS, AUDIT_SCHEMA
from model.columns import Column, exact_names, schema_of, table_of
from model.reading.columns import ANSWER_COLUMNS, ANSWER_SCHEMA, columns_for


@dataclass
class Three:
    """Three rows; the second is rejected."""

    rejected: np.ndarray

    def __len__(self) -> int:
        return len(self.rejected)


ROWS = Three(np.array([False, True, False]))
NUMBERS: Column[Three] = Column("n", pa.int32(), "", lambda rows: np.arange(3), exact=True)
SHARES: Column[Three] = Column("share", pa.float32(), "", lambda rows: np.array([0.1, 0.2, np.nan]))
TEXTS: Column[Three] = Column("text", pa.string(), "", lambda rows: ["a", "b", "c"])
STATUSES: Column[Three] = Column(
    "status", pa.string(), "", lambda rows: ["x", "y", None], null=None
)
LAST: Column[Three] = Column(
    "last", pa.float64(), "", lambda rows: np.ones(3), null=lambda rows: np.arange(3) < 2
)
COLUMNS = (NUMBERS, SHARES, TEXTS, STATUSES, LAST)


def test_the_table_of_some_rows() -> None:
    found = table_of(COLUMNS, ROWS, asked=True)
    assert found.schema == schema_of(COLUMNS)
    assert found.to_pydict() == {
        "n": [0, None, 2],
        "share": [np.float32(0.1), None, None],  # what is not finite is null
        "text": ["a", None, "c"],
        "status": ["x", "y", None],
        "last": [None, None, 1.0],
    }


def test_without_a_row_that_asks_only_statuses_have_values() -> None:
    found = table_of(COLUMNS, ROWS, asked=False)
    assert found.schema == schema_of(COLUMNS)
    assert found.column("status").to_pylist() == ["x", "y", None]
    assert all(found.column(name).null_count == 3 for name in ("n", "share", "text", "last"))


def test_exact_names() -> None:
    assert exact_names(COLUMNS) == ("n",)


@pytest.mark.parametrize(
    ("columns", "schema"),
    [
        (columns_for(()), ANSWER_SCHEMA),
        (ANSWER_COLUMNS, schema_of(ANSWER_COLUMNS)),
        (AUDIT_COLUMNS, AUDIT_SCHEMA),
    ],
)
def test_every_column_has_its_own_name_and_a_meaning(
    columns: tuple[Column, ...], schema: pa.Schema
) -> None:
    assert schema.names == [column.name for column in columns]
    assert len(set(schema.names)) == len(columns)
    assert all(column.meaning for column in columns)
