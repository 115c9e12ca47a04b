"""PlanChunks: from input files to runs of chunks, by Parquet metadata only."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.records import ChunkRun, ChunkSpec, InputFile, InputRange, part_name, path_columns
from transforms.sizes import implausible
from transforms.storage import open_parquet, read_range

_LONGEST_RUN = 16

_MANY_ROW_GROUPS, _FEW_ROWS = 100, 100
"""From how many row groups on, with fewer than how many rows on average, a file's are told to be tiny."""

_log = logging.getLogger("spanmill")


@dataclass(frozen=True, slots=True)
class ChunkSize:
    """Bounds of a chunk, and how finely row groups are cut into runs.

    rows, bytes  at most so many rows, and so many bytes by the row group's average
    runs         a row group is cut into at least so many runs, if it has so many chunks
    """

    rows: int
    bytes: int
    runs: int = 1


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text: strings of any width, dictionaries of strings, or only nulls."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


ANSWERS = "struct<text: list<string>, answer_start: list<int32>> or list<struct<text: string, answer_start: int32>>"
"""The types of gold answers, for messages. Strings, lists and integers may have any width."""


def is_answers(kind: pa.DataType) -> bool:
    """Whether a column of this type holds gold answers, see ANSWERS."""
    structs = _item_type(kind)
    fields = kind if structs is None else structs
    if not (
        pa.types.is_struct(fields) and {field.name for field in fields} >= {"text", "answer_start"}
    ):
        return False
    text, start = (fields.field(name).type for name in ("text", "answer_start"))
    if structs is None:
        text, start = (
            each if pa.types.is_null(each) else _item_type(each) for each in (text, start)
        )
        if text is None or start is None:
            return False
    return is_text(text) and (pa.types.is_integer(start) or pa.types.is_null(start))


def _item_type(kind: pa.DataType) -> pa.DataType | None:
    """Returns the type of a list's items, None for other types.

    Lists of a fixed size are among these: rows have any number of golds.
    """
    return kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None


def wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both without loss, `one` if it can; None if there is none.

    A column of only nulls fits any type, and all types of text hold the same. Lists and structs are as their values.
    """
    if pa.types.is_null(one):
        return other
    if pa.types.is_null(other) or (is_text(one) and is_text(other)):
        return one
    if _is_number(one) and _is_number(other):
        kind = np.promote_types(_numpy(one), _numpy(other))
        lossy = kind == np.float64 and any(
            pa.types.is_integer(each) and each.bit_width == 64 for each in (one, other)
        )
        return None if lossy else pa.from_numpy_dtype(kind)
    if _is_list(one) and _is_list(other):
        value = wider(one.value_type, other.value_type)
        make = pa.large_list if pa.types.is_large_list(one) else pa.list_
        return value and make(one.value_field.with_type(value).with_nullable(True))
    if (
        pa.types.is_struct(one)
        and pa.types.is_struct(other)
        and [f.name for f in one] == [f.name for f in other]
    ):
        kinds = [wider(ours.type, theirs.type) for ours, theirs in zip(one, other, strict=True)]
        if None not in kinds:
            return pa.struct(
                [
                    field.with_type(kind).with_nullable(True)
                    for field, kind in zip(one, kinds, strict=True)
                ]
            )
    return one if one == other else None


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _numpy(kind: pa.DataType) -> np.dtype:
    """NumPy's type of these numbers. (`to_pandas_dtype` wants pandas.)"""
    name = (
        "float"
        if pa.types.is_floating(kind)
        else "uint"
        if pa.types.is_unsigned_integer(kind)
        else "int"
    )
    return np.dtype(f"{name}{kind.bit_width}")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def with_path_columns(schema: pa.Schema, path: str) -> pa.Schema:
    """The columns of a file, then those that only its path holds (`transforms.records.path_columns`)."""
    return pa.schema(
        [
            *schema,
            *(
                pa.field(name, pa.string())
                for name in path_columns(path)
                if name not in schema.names
            ),
        ]
    )


def schema_problem(schema: pa.Schema, expected: pa.Schema, texts: tuple[str, ...]) -> str:
    """Why a file with this schema can't be read along with the others; "" if it can.

    Every expected column must be there, with a type whose values the expected one holds (`wider`).
    texts: the columns that must hold text.
    """
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        return f"column {repeated[0]!r} stands in it more than once"
    for column in expected:
        if column.name not in schema.names:
            return f"column {column.name!r} is missing (there are {', '.join(map(repr, schema.names))})"
        kind = schema.field(column.name).type
        if column.name in texts and not is_text(kind):
            return f"column {column.name!r} is {kind}, not text"
        if wider(column.type, kind) != wider(column.type, column.type):
            return f"column {column.name!r} is {kind}, in the other files it is {column.type}"
    return ""


def plan_file(file: InputFile, metadata: pq.FileMetaData, size: ChunkSize) -> Iterator[ChunkRun]:
    """Cuts a file into runs of chunks. Chunk boundaries depend on the metadata and the size's rows and bytes alone."""
    remaining = metadata.num_rows if file.rows is None else file.rows
    first_row = 0
    for row_group in range(metadata.num_row_groups):
        group = metadata.row_group(row_group)
        rows = min(group.num_rows, remaining)
        remaining -= rows
        row_bytes = group.total_byte_size / max(1, group.num_rows)
        step = max(1, min(size.rows, int(size.bytes / max(1.0, row_bytes))))
        starts = range(0, rows, step)
        length = max(1, min(_LONGEST_RUN, len(starts) // size.runs))
        for place in range(0, len(starts), length):
            chunks = [
                ChunkSpec(
                    path=file.path,
                    label=file.label,
                    row_group=row_group,
                    row_start=start,
                    first_row=first_row + start,
                    rows=min(step, rows - start),
                    part=part_name(file, row_group, start, min(step, rows - start)),
                )
                for start in starts[place : place + length]
            ]
            yield ChunkRun(file.path, row_group, tuple(chunks), file.state)
        first_row += group.num_rows


def plan_chunks(
    file: InputFile, expected: pa.Schema, texts: tuple[str, ...], size: ChunkSize
) -> Iterator[ChunkRun]:
    """Plans one file; a file that can't be read, or whose schema does not fit, is one refusal by name."""
    try:
        with open_parquet(file.path, file.state) as opened:
            metadata = opened.metadata
            refused = schema_problem(
                with_path_columns(opened.schema_arrow, file.path), expected, texts
            )
            refused = refused or implausible(metadata, file.size, expected.names)
    except Exception as error:
        refused = f"{type(error).__name__}: {error}"
    if refused:
        yield ChunkRun(file.path, -1, (), refused=refused)
    else:
        groups = metadata.num_row_groups
        if groups >= _MANY_ROW_GROUPS and metadata.num_rows < _FEW_ROWS * groups:
            _log.warning(
                "%s has %d rows in %d row groups: each becomes a part of its own",
                file.path,
                metadata.num_rows,
                groups,
            )
        yield from plan_file(file, metadata, size)


def list_files(listed: InputRange) -> list[InputFile]:
    """The input files of a range, as run.json lists them."""
    entries = json.loads(b"[" + read_range(listed.path, listed.begin, listed.end) + b"]")
    return [InputFile(listed.first + place, **entry) for place, entry in enumerate(entries)]


@dataclass
class PlanChunks(beam.PTransform):
    """InputRange -> ChunkRun. The first range has a run without chunks in front, see `ChunkRun`.

    expected  the columns that are read, with types that hold those of all files
    texts     those that must hold text
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
        if listed.first == 0:
            yield ChunkRun("", -1, ())
        for file in list_files(listed):
            yield from plan_chunks(file, self.expected, self.texts, self.size)
