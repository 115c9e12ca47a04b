"""Sizes: the memory that Parquet data will take, known before it is read.

Figures of a footer that can't be true are refused, and so is data that takes too much memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.storage import read_range

CHUNK_BYTES = 2**30
"""Most bytes of a chunk in memory.

`--chunk_bytes` bounds the encoded size in the file, on average over a row group.
"""

_PLAUSIBLE_ROWS = 10**7
_MOST_ROWS_PER_BYTE = 100
"""A file may declare _PLAUSIBLE_ROWS rows, or _MOST_ROWS_PER_BYTE rows per byte if that is more."""

_DICTIONARY_PAGE = 2
"""The type of a dictionary page in Parquet's page headers."""

_INT32 = 0x15
"""Thrift's compact protocol: the next field is a 32-bit integer.

The first three fields of every page header are of this type.
"""

_HEADER_START = 16
"""Bytes that hold the first two fields of a page header: its type and its uncompressed size."""


class TooLarge(ValueError):
    """Data would take more memory than a chunk may; the message says how much."""


def implausible(metadata: pq.FileMetaData, size: int, columns: Collection[str]) -> str:
    """Return what is impossible or too large in the figures of a footer; "" if nothing is.

    size     of the file, in bytes
    columns  the columns to read
    """
    # The sum of the row groups must match the total of the file.
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        groups = ", ".join(map(str, rows[:5]))
        return f"it declares {metadata.num_rows} rows, in row groups of {groups}"
    if metadata.num_rows > max(_PLAUSIBLE_ROWS, _MOST_ROWS_PER_BYTE * size):
        return f"it declares {metadata.num_rows} rows in {size} bytes"
    # A column without repetition has one value per row.
    flat = []
    for index in range(metadata.num_columns):
        column = metadata.schema.column(index)
        if column.path in columns and column.max_repetition_level == 0:
            flat.append(index)
    for group, count in enumerate(rows):
        declared = metadata.row_group(group)
        if count and declared.total_byte_size / count > CHUNK_BYTES:
            return (
                f"row group {group} declares {declared.total_byte_size} bytes in {count} rows: "
                f"more than {CHUNK_BYTES} per row"
            )
        for index in flat:
            column = declared.column(index)
            if column.num_values != count:
                return (
                    f"row group {group} declares {count} rows, and {column.num_values} in column "
                    f"{column.path_in_schema!r}"
                )
    return ""


def rows_at_once(
    path: str, metadata: pq.FileMetaData, row_group: int, columns: Collection[str], most: int
) -> int:
    """Return how many rows, at most `most`, always decode to at most `CHUNK_BYTES`.

    Every row may have the longest value of a dictionary: a file of kilobytes may hold gigabytes of
    text. Raises TooLarge for a dictionary that is too large itself.
    """
    # Plain pages can't expand: their declared size bounds them.
    largest = max(_dictionary_sizes(path, metadata.row_group(row_group), columns), default=0)
    if largest > CHUNK_BYTES:
        raise TooLarge(
            f"row group {row_group} has a dictionary of {largest} bytes: more than {CHUNK_BYTES}"
        )
    return max(1, min(most, CHUNK_BYTES // max(1, largest)))


def _dictionary_sizes(
    path: str, group: pq.RowGroupMetaData, columns: Collection[str]
) -> Iterator[int]:
    """Yield the uncompressed sizes of the dictionaries of some columns, from their page headers.

    pyarrow refuses a page whose size differs from its header.
    """
    for index in range(group.num_columns):
        column = group.column(index)
        path_parts = column.path_in_schema.split(".")
        # `answers` selects `answers.text.list.element` too.
        prefixes = (".".join(path_parts[:depth]) for depth in range(1, len(path_parts) + 1))
        wanted = any(prefix in columns for prefix in prefixes)
        # Values of other types have a fixed width, and can't expand much.
        if not wanted or column.physical_type != "BYTE_ARRAY":
            continue
        # Some writers leave the dictionary's offset out: then the first page is the dictionary.
        start, dictionary = column.data_page_offset, column.dictionary_page_offset or 0
        start = dictionary if 0 < dictionary < start else start
        try:
            size = _dictionary_size(read_range(path, start, start + _HEADER_START))
        except ValueError as error:
            raise ValueError(f"column {column.path_in_schema!r} can't be read: {error}") from error
        yield size


def _dictionary_size(header: bytes) -> int:
    """Return the uncompressed size of a page if it is a dictionary, else 0, from its header."""
    kind, position = _integer(header, 0)
    size, _ = _integer(header, position)
    return size if kind == _DICTIONARY_PAGE else 0


def _integer(header: bytes, position: int) -> tuple[int, int]:
    """Return the zigzag integer of the field at a position, and the position of the next field.

    Raises ValueError if the field is not a 32-bit integer.
    """
    if header[position] != _INT32:
        raise ValueError("a page header is damaged")
    value = shift = 0
    for after, byte in enumerate(header[position + 1 :], position + 2):
        # A varint: seven bits a byte, lowest first; the eighth bit says that more follow.
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return (value >> 1) ^ -(value & 1), after
    raise ValueError("a page header is damaged")


def memory_of(batch: pa.RecordBatch) -> int:
    """Return the bytes of a batch after its dictionaries of texts are decoded into plain texts."""
    total = int(batch.get_total_buffer_size())
    for column in batch.columns:
        # Every row will hold a copy of its text.
        if isinstance(column, pa.DictionaryArray) and _is_text(column.type.value_type):
            total += pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
    return total


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
