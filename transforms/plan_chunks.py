"""PlanChunks: from input files to runs of chunks, by Parquet metadata only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.records import ChunkRun, ChunkSpec, InputFile, InputRange, part_name
from transforms.sizes import implausible
from transforms.storage import open_parquet, read_range

_LONGEST_RUN = 16


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
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)
    )


ANSWERS = "struct<text: list<string>, answer_start: list<int32>> or list<struct<text: string, answer_start: int32>>"
"""The types of gold answers, for messages. Strings, lists and integers may have any width."""


def is_answers(kind: pa.DataType) -> bool:
    """Whether a column of this type holds gold answers, see ANSWERS."""
    structs = _item_type(kind)
    fields = kind if structs is None else structs
    if not (pa.types.is_struct(fields) and {field.name for field in fields} >= {"text", "answer_start"}):
        return False
    text, start = (fields.field(name).type for name in ("text", "answer_start"))
    if structs is None:
        text, start = (each if pa.types.is_null(each) else _item_type(each) for each in (text, start))
        if text is None or start is None:
            return False
    return is_text(text) and (pa.types.is_integer(start) or pa.types.is_null(start))


def _item_type(kind: pa.DataType) -> pa.DataType | None:
    """Returns the type of a list's items, None for other types.

    Lists of a fixed size are among these: rows have any number of golds.
    """
    return kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None


def schema_problem(schema: pa.Schema, expected: pa.Schema, texts: tuple[str, ...]) -> str:
    """Why a file with this schema can't be read along with the others; "" if it can.

    Every expected column must be there, with the expected type; where both are text, any text type will do, and a
    column of only nulls fits any type.
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
        both_text = is_text(kind) and is_text(column.type) and not pa.types.is_null(column.type)
        if not (kind == column.type or pa.types.is_null(kind) or both_text):
            return f"column {column.name!r} is {kind}, in the first file it is {column.type}"
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


def plan_chunks(file: InputFile, expected: pa.Schema, texts: tuple[str, ...], size: ChunkSize) -> Iterator[ChunkRun]:
    """Plans one file; a file that can't be read, or whose schema does not fit, is one refusal by name."""
    try:
        with open_parquet(file.path, file.state) as opened:
            metadata = opened.metadata
            refused = schema_problem(opened.schema_arrow, expected, texts)
            refused = refused or implausible(metadata, file.size, expected.names)
    except Exception as error:
        refused = f"{type(error).__name__}: {error}"
    if refused:
        yield ChunkRun(file.path, -1, (), refused=refused)
    else:
        yield from plan_file(file, metadata, size)


def list_files(listed: InputRange) -> list[InputFile]:
    """The input files of a range, as run.json lists them."""
    entries = json.loads(b"[" + read_range(listed.path, listed.begin, listed.end) + b"]")
    return [InputFile(listed.first + place, **entry) for place, entry in enumerate(entries)]


@dataclass
class PlanChunks(beam.PTransform):
    """InputRange -> ChunkRun. The first range has a run without chunks in front, see `ChunkRun`.

    expected  the columns that are read, with the types of the first file
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
