"""PlanChunks: from input files to runs of chunks. Reads Parquet metadata only."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.parquet_files import open_parquet
from transforms.records import ChunkRun, ChunkSpec, InputFile, InputRange, part_name
from transforms.run_files import RunFiles
from transforms.sizes import implausible
from transforms.storage import read_range, state_of

_LONGEST_RUN = 16
"""Most chunks of a run: the unit that Reshuffle distributes to workers."""

_MANY_ROW_GROUPS, _FEW_ROWS = 100, 100
"""A file with many row groups of few rows on average is reported as fragmented."""

_log = logging.getLogger("spanmill")


@dataclass(frozen=True, slots=True)
class ChunkSize:
    """Bounds of a chunk, and how finely row groups are cut into runs.

    rows   most rows of a chunk
    bytes  most bytes of a chunk, by the average row of its row group
    runs   fewest runs of a row group, if it has that many chunks
    """

    rows: int
    bytes: int
    runs: int = 1


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds text.

    Text is strings of any width, dictionaries of strings, and columns of only nulls.
    """
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


ANSWERS = (
    "struct<text: list<string>, answer_start: list<int32>> or "
    "list<struct<text: string, answer_start: int32>>"
)
"""The types of gold answers, for messages. Strings, lists and integers may have any width."""


def is_answers(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds gold answers (ANSWERS)."""
    item = _item_type(kind)
    fields = kind if item is None else item
    if not (
        pa.types.is_struct(fields) and {field.name for field in fields} >= {"text", "answer_start"}
    ):
        return False
    # In the struct of two lists, compare the types of their items.
    text, start = (fields.field(name).type for name in ("text", "answer_start"))
    if item is None:  # a struct of two lists
        text, start = (
            each if pa.types.is_null(each) else _item_type(each) for each in (text, start)
        )
        if text is None or start is None:
            return False
    return is_text(text) and (pa.types.is_integer(start) or pa.types.is_null(start))


STARTS = "list<int32>"
"""The type of the starts of pages, for messages. Lists and integers may have any width."""

SECTIONS = "list<struct<start: int32, title: string>>"
"""The type of sections, for messages. Strings, lists and integers may have any width."""


def is_starts(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds the starts of pages (STARTS)."""
    start = _item_type(kind)
    return start is not None and (pa.types.is_integer(start) or pa.types.is_null(start))


def is_sections(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds sections (SECTIONS)."""
    item = _item_type(kind)
    if item is None or pa.types.is_null(item):
        return item is not None
    if not pa.types.is_struct(item) or not {field.name for field in item} >= {"start", "title"}:
        return False
    start = item.field("start").type
    return is_text(item.field("title").type) and (
        pa.types.is_integer(start) or pa.types.is_null(start)
    )


def _item_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type of a list's items, None if the type is not a list.

    A list of fixed size doesn't count: a row may have any number of golds.
    """
    return kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None


def wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return a type that holds the values of both types without loss, None if there is none.

    Returns `one` if it does. Nulls fit any type, and all types of text are equivalent. Lists and
    structs are compared by the types of their values.
    """
    if pa.types.is_null(one):
        return other
    # Casting text between widths and dictionaries is always lossless.
    if pa.types.is_null(other) or (is_text(one) and is_text(other)):
        return one
    if _is_number(one) and _is_number(other):
        kind = np.promote_types(_numpy(one), _numpy(other))
        # float64 is exact for integers of up to 53 bits only.
        lossy = kind == np.float64 and any(
            pa.types.is_integer(each) and each.bit_width == 64 for each in (one, other)
        )
        return None if lossy else pa.from_numpy_dtype(kind)
    if _is_list(one) and _is_list(other):
        value = wider(one.value_type, other.value_type)
        list_type = pa.large_list if pa.types.is_large_list(one) else pa.list_
        return value and list_type(one.value_field.with_type(value).with_nullable(True))
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        struct = _wider_struct(one, other)
        if struct is not None:
            return struct
    return one if one == other else None


def _wider_struct(one: pa.StructType, other: pa.StructType) -> pa.StructType | None:
    """Return the struct of the wider types of the fields, None unless the names are equal."""
    if [field.name for field in one] != [field.name for field in other]:
        return None
    fields = []
    for ours, theirs in zip(one, other, strict=True):
        kind = wider(ours.type, theirs.type)
        if kind is None:
            return None
        fields.append(ours.with_type(kind).with_nullable(True))
    return pa.struct(fields)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _numpy(kind: pa.DataType) -> np.dtype:
    """Return NumPy's equivalent of a type of numbers. (`to_pandas_dtype` needs pandas.)"""
    if pa.types.is_floating(kind):
        return np.dtype(f"float{kind.bit_width}")
    sign = "u" if pa.types.is_unsigned_integer(kind) else ""
    return np.dtype(f"{sign}int{kind.bit_width}")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def with_path_columns(schema: pa.Schema, file: InputFile) -> pa.Schema:
    """Return a file's schema and, after it, the columns that only its path holds."""
    names = [name for name in file.path_columns if name not in schema.names]
    return pa.schema([*schema, *(pa.field(name, pa.string()) for name in names)])


def schema_problem(schema: pa.Schema, expected: pa.Schema, texts: tuple[str, ...]) -> str:
    """Return why a file with this schema can't be read with the others; "" if it can.

    Every expected column must exist, with a type whose values the expected type holds (`wider`).

    texts  the columns that must hold text
    """
    # A name that occurs twice can't be selected.
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        return f"there is more than one column {repeated[0]!r}"
    for column in expected:
        if column.name not in schema.names:
            present = ", ".join(map(repr, schema.names))
            return f"column {column.name!r} is missing (there are {present})"
        kind = schema.field(column.name).type
        if column.name in texts and not is_text(kind):
            return f"column {column.name!r} is {kind}, not text"
        # The expected type must hold the file's values as it is.
        if wider(column.type, kind) != wider(column.type, column.type):
            return f"column {column.name!r} is {kind}, in the other files it is {column.type}"
    return ""


def plan_file(file: InputFile, metadata: pq.FileMetaData, size: ChunkSize) -> Iterator[ChunkRun]:
    """Yield the runs of chunks of a file.

    Chunk boundaries depend only on the metadata and on the rows and bytes of `size`, so that a
    rerun plans the same parts. Only the first `file.rows` rows are planned.
    """
    remaining = metadata.num_rows if file.rows is None else file.rows
    first_row = 0
    for row_group in range(metadata.num_row_groups):
        group = metadata.row_group(row_group)
        # `remaining` ends the plan within a row group if --limit does.
        rows = min(group.num_rows, remaining)
        remaining -= rows
        row_bytes = group.total_byte_size / max(1, group.num_rows)
        chunk_rows = max(1, min(size.rows, int(size.bytes / max(1.0, row_bytes))))
        starts = range(0, rows, chunk_rows)
        length = max(1, min(_LONGEST_RUN, len(starts) // size.runs))  # chunks of a run
        for first in range(0, len(starts), length):
            # The chunks of a run are read in one pass over the row group.
            chunks = [
                ChunkSpec(
                    path=file.path,
                    label=file.label,
                    row_group=row_group,
                    row_start=start,
                    first_row=first_row + start,
                    rows=min(chunk_rows, rows - start),
                    part=part_name(file, row_group, start, min(chunk_rows, rows - start)),
                )
                for start in starts[first : first + length]
            ]
            yield ChunkRun(
                file.path,
                row_group,
                tuple(chunks),
                file.state,
                copy=file.copy,
                path_columns=file.path_columns,
            )
        first_row += group.num_rows


def plan_chunks(
    file: InputFile, expected: pa.Schema, texts: tuple[str, ...], size: ChunkSize
) -> Iterator[ChunkRun]:
    """Yield the runs of chunks of one file, or one refusal that says why it can't be used."""
    try:
        if file.copy:  # whose state run.json does not hold, only that of the file
            size_now, version_now = state_of(file.copy)
            file = replace(file, size=size_now, version=version_now)
        with open_parquet(file.parquet, file.state) as opened:
            metadata = opened.metadata
            refused = schema_problem(with_path_columns(opened.schema_arrow, file), expected, texts)
            # A footer that lies about its rows could exhaust the memory of a worker.
            refused = refused or implausible(metadata, file.size, expected.names)
    except Exception as error:  # one bad file must not stop the others
        refused = f"{type(error).__name__}: {error}"
    if refused:
        yield ChunkRun(file.path, -1, (), refused=refused)
    else:
        groups = metadata.num_row_groups
        if groups >= _MANY_ROW_GROUPS and metadata.num_rows < _FEW_ROWS * groups:
            _log.warning(
                "%s has %d rows in %d row groups: each row group becomes a part of its own",
                file.path,
                metadata.num_rows,
                groups,
            )
        yield from plan_file(file, metadata, size)


def list_files(listed: InputRange) -> list[InputFile]:
    """Return the input files of a range, which run.json lists."""
    entries = json.loads(b"[" + read_range(listed.path, listed.begin, listed.end) + b"]")
    files = RunFiles(listed.path.rpartition("/")[0])
    for entry in entries:
        if "copy" in entry:
            entry["copy"] = files.copy(entry["copy"])
    return [InputFile(listed.first + index, **entry) for index, entry in enumerate(entries)]


@dataclass
class PlanChunks(beam.PTransform):
    """InputRange -> ChunkRuns. The first range begins with a run without chunks (`ChunkRun`).

    expected  the columns to read, with types that hold the values of all files
    texts     the columns that must hold text
    """

    expected: pa.Schema
    texts: tuple[str, ...]
    size: ChunkSize

    def expand(self, ranges: beam.PCollection) -> beam.PCollection:
        return ranges | beam.ParDo(_PlanChunks(self.expected, self.texts, self.size))


class _PlanChunks(beam.DoFn):
    def __init__(self, expected: pa.Schema, texts: tuple[str, ...], size: ChunkSize):
        self.expected, self.texts, self.size = expected, texts, size

    def process(self, listed: InputRange) -> Iterator[ChunkRun]:
        # One run for the whole job that becomes an empty receipt, even if there are no rows.
        if listed.first == 0:
            yield ChunkRun("", -1, ())
        for file in list_files(listed):
            yield from plan_chunks(file, self.expected, self.texts, self.size)
