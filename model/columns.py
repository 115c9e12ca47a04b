"""Output columns, declared once per stage.

A stage's columns are a tuple of entries. Its schema, its table and its part of
docs/reference/columns.md are made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa

_NUMPY = {pa.int32(): np.int32, pa.float32(): np.float32, pa.float64(): np.float64}
"""Types of numbers in columns."""


class StageRows(Protocol):
    """What a stage has computed of the rows of a chunk; entries read their values from it."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    @property
    def rejected(self) -> np.ndarray:
        """Return which rows were rejected, bool [rows]."""
        ...


Rows = TypeVar("Rows", bound=StageRows)


@dataclass(frozen=True, slots=True)
class Column(Generic[Rows]):
    """An output column.

    meaning  what it means, in Markdown; neighbours of one type and meaning share a line in the
             manual
    value    computes its values of all rows: an array, a list, or a complete Arrow array
    null     computes which rows have none, bool [rows]; None if the values say so themselves, even
             in a chunk without a row that can be asked
    exact    whether it is the same to the bit wherever logits are the same to rounding; the digest
             of a part covers such columns
    option   the option without which the column is left out, as users write it; "" for none

    A value that isn't finite becomes null.
    """

    name: str
    type: pa.DataType
    meaning: str
    value: Callable[[Rows], np.ndarray | Sequence[Any] | pa.Array]
    null: Callable[[Rows], np.ndarray] | None = attrgetter("rejected")
    exact: bool = False
    option: str = ""

    def array(self, rows: Rows) -> pa.Array:
        """Return the values of all rows as an Arrow array of the column's type."""
        values = self.value(rows)
        if self.null is None or isinstance(values, pa.Array):
            return pa.array(values, self.type)
        null = self.null(rows)
        if isinstance(values, np.ndarray):
            if values.dtype.kind == "f":
                null = null | ~np.isfinite(values)
            return pa.array(values.astype(_NUMPY[self.type]), self.type, mask=null)
        pairs = zip(values, null.tolist(), strict=True)
        return pa.array([None if skip else value for value, skip in pairs], self.type)


def schema_of(columns: Sequence[Column[Any]]) -> pa.Schema:
    """Return the schema of a table with these columns."""
    return pa.schema([pa.field(column.name, column.type) for column in columns])


def table_of(columns: Sequence[Column[Rows]], rows: Rows, asked: bool) -> pa.Table:
    """Return the table of a chunk, one row per input row.

    asked  whether there is any row to compute values from; else every value is null but those of
           the columns without a `null`
    """
    arrays = [
        column.array(rows) if asked or column.null is None else pa.nulls(len(rows), column.type)
        for column in columns
    ]
    return pa.table(arrays, schema=schema_of(columns))


def exact_names(columns: Sequence[Column[Any]]) -> tuple[str, ...]:
    """Return the names of the columns that a part's digest covers."""
    return tuple(column.name for column in columns if column.exact)
