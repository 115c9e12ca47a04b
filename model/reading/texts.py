"""Texts out of Arrow columns; one that can't be used affects no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def read_texts(column: pa.ChunkedArray) -> tuple[list[str], dict[int, str]]:
    """Return the texts of a column, and row -> reason of those that can't be used.

    Reasons are "missing", "not_utf8" and "blank". Unusable texts are "" in the list.
    """
    return usable_texts(each_text(column))


def usable_texts(values: Sequence[Any]) -> tuple[list[str], dict[int, str]]:
    """Do the same as `read_texts` for values from `each_text`: text, None or `NotUTF8`."""
    problems = {}
    for row, value in enumerate(values):
        if value is None:
            problems[row] = "missing"
        elif isinstance(value, NotUTF8):
            problems[row] = "not_utf8"
        elif not value or value.isspace():
            problems[row] = "blank"
    return ["" if row in problems else value for row, value in enumerate(values)], problems


def each_value(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return the values of a column, None for null, `NotUTF8` for text that isn't valid UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def each_text(column: pa.ChunkedArray) -> list[Any]:
    """Do the same as `each_value`, but equal texts of a string column are one object.

    A text that many rows share is then created and hashed once, and compared by identity. Columns
    of other types, dictionaries included, are returned as `each_value` returns them.
    """
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return each_value(column)
    encoded = column.dictionary_encode().combine_chunks()
    texts = [*each_value(encoded.dictionary), None]
    return [texts[k] for k in encoded.indices.fill_null(-1).to_pylist()]


class NotUTF8:
    """The value that replaces one with text that isn't valid UTF-8."""


def is_utf8(value: Any) -> bool:
    """Return whether all text in a value can be encoded: half a surrogate pair can't."""
    match value:
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                return False
        case list():
            return all(map(is_utf8, value))
        case dict():
            return all(map(is_utf8, (*value, *value.values())))
    return True


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return NotUTF8()


def as_texts(column: pa.Array | pa.ChunkedArray) -> list[str | None]:
    """Return values of any type as text, to show or to compare them.

    None for null, and for text that isn't valid UTF-8.
    """
    return [
        None if value is None or isinstance(value, NotUTF8) else str(value)
        for value in each_value(column)
    ]
