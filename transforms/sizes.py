"""Sizes: what a Parquet file will take in memory, before it is read; and what of it is too much to be true or to be held."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.storage import read_range

MOST_BYTES = 2**30
"""Of a chunk in memory. The bound on a chunk's size in the file (`--chunk_bytes`) is an average, and of encoded bytes."""

_SURELY_REAL_ROWS = 10**7
_MOST_ROWS_PER_BYTE = 100

_DICTIONARY_PAGE = 2
_INT32 = 0x15
"""Thrift's compact protocol: the next field, a 32-bit integer. The first three fields of every page header are such."""

_LONGEST_START = 16


class TooLarge(ValueError):
    """Data that would take more memory than a chunk may; the message says how much."""


def implausible(metadata: pq.FileMetaData, size: int, columns: Collection[str]) -> str:
    """What of a footer's figures can't be true, or could not be held; "" if nothing.

    size  of the file, in bytes; columns: those that will be read
    """
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        return f"it declares {metadata.num_rows} rows, in row groups of {', '.join(map(str, rows[:5]))}"
    if metadata.num_rows > max(_SURELY_REAL_ROWS, _MOST_ROWS_PER_BYTE * size):
        return f"it declares {metadata.num_rows} rows in {size} bytes"
    flat = [
        place
        for place, column in (
            (place, metadata.schema.column(place)) for place in range(metadata.num_columns)
        )
        if column.path in columns and column.max_repetition_level == 0
    ]
    for group, count in enumerate(rows):
        declared = metadata.row_group(group)
        if count and declared.total_byte_size / count > MOST_BYTES:
            size = declared.total_byte_size
            return f"row group {group} declares {size} bytes in {count} rows: more than {MOST_BYTES} per row"
        for place in flat:
            column = declared.column(place)
            if column.num_values != count:
                return f"row group {group} declares {count} rows, and {column.num_values} in column {column.path_in_schema!r}"
    return ""


def rows_at_once(
    path: str, metadata: pq.FileMetaData, row_group: int, columns: Collection[str], most: int
) -> int:
    """How many rows, `most` at most, can be decoded at once without passing `MOST_BYTES`, whatever they hold.

    One value of a dictionary may stand in every row: a file of kilobytes may be gigabytes of text.
    """
    largest = max(_dictionary_sizes(path, metadata.row_group(row_group), columns), default=0)
    if largest > MOST_BYTES:
        raise TooLarge(
            f"row group {row_group} has a dictionary of {largest} bytes: more than {MOST_BYTES}"
        )
    return max(1, min(most, MOST_BYTES // max(1, largest)))


def _dictionary_sizes(
    path: str, group: pq.RowGroupMetaData, columns: Collection[str]
) -> Iterator[int]:
    """Sizes of the dictionaries of some columns, uncompressed: pyarrow refuses a page that has another than it declares."""
    for place in range(group.num_columns):
        column = group.column(place)
        steps = column.path_in_schema.split(".")
        wanted = any(".".join(steps[:depth]) in columns for depth in range(1, len(steps) + 1))
        if not wanted or column.physical_type != "BYTE_ARRAY":
            continue
        start, dictionary = column.data_page_offset, column.dictionary_page_offset or 0
        start = dictionary if 0 < dictionary < start else start
        try:
            size = _dictionary_size(read_range(path, start, start + _LONGEST_START))
        except ValueError as error:
            raise ValueError(f"column {column.path_in_schema!r} can't be read: {error}") from error
        yield size


def _dictionary_size(header: bytes) -> int:
    """Of the page whose header begins like this: its size, uncompressed, if it is a dictionary, else 0."""
    kind, place = _integer(header, 0)
    size, _ = _integer(header, place)
    return size if kind == _DICTIONARY_PAGE else 0


def _integer(header: bytes, place: int) -> tuple[int, int]:
    """The zigzag integer of the field at `place`, and where the next field is. Raises ValueError if there is none."""
    if header[place] != _INT32:
        raise ValueError("a page header is damaged")
    value = shift = 0
    for after, byte in enumerate(header[place + 1 :], place + 2):
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return (value >> 1) ^ -(value & 1), after
    raise ValueError("a page header is damaged")


def memory_of(batch: pa.RecordBatch) -> int:
    """Bytes that a batch takes once its texts are no longer shared by rows, as they are in a dictionary."""
    total = int(batch.get_total_buffer_size())
    for column in batch.columns:
        if isinstance(column, pa.DictionaryArray) and _is_text(column.type.value_type):
            total += pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
    return total


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
