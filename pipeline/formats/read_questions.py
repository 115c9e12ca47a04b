"""Read a question list from Parquet, CSV or JSON lines."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from itertools import chain, islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.reading.question_list import (
    MOST_QUESTIONS,
    SETTINGS,
    Question,
    QuestionList,
)
from model.reading.texts import NotUTF8, each_value
from model.settings import declared
from pipeline.formats.imported_rows import FormatError
from pipeline.formats.read_formats import recognise
from pipeline.job.settings import GROUPS
from transforms.spreadsheets import delimiter_of
from transforms.storage import open_file

_COLUMNS = ("question", "question_id", *SETTINGS)
"""The columns of a question list; only `question` is needed."""

_WANTED = "give .parquet, .csv, .tsv, or .jsonl with one object a line"

Row = Mapping[str, Any]


def read_questions(path: str) -> tuple[QuestionList, list[str]]:
    """Return the questions of a file, and the names of its other columns, which are ignored.

    path  Parquet, CSV, TSV or JSON lines, a file or URL, compressed or not

    An empty cell, a null and NaN mean that a question has no value of its own.

    Raises FormatError for a file that can't be read or has no column `question`, and for a column
    that is the misspelt name of a setting, or a setting that questions can't have of their own;
    QuestionListError for questions that `QuestionList.of` refuses; OSError and StorageError.
    """
    with open_file(path) as file:
        try:
            kind, encoding = recognise(file, path, None, None)
        except FormatError as error:  # its hints name options of convert
            raise FormatError(
                f"{re.split(r'[:,] (give )?--', str(error))[0]}; {_WANTED}"
            ) from error
    if kind not in _READERS:
        raise FormatError(f"it is not a list of questions; {_WANTED}")
    with open_file(path) as file:
        # One row too many is enough to refuse a list that is too long.
        rows = list(islice(_READERS[kind](file, encoding), MOST_QUESTIONS + 1))
    names = list(dict.fromkeys(name for row in rows for name in row))
    if rows and "question" not in names:
        raise FormatError(f"it has no column 'question', only {', '.join(names)}")
    others = [name for name in names if name not in _COLUMNS]
    for name in others:
        _refuse_setting(name)
    return QuestionList.of(_question(row) for row in rows), others


def _question(row: Row) -> Question:
    values = {name: _value(name, row.get(name)) for name in _COLUMNS}
    return Question(**values)


def _value(name: str, value: Any) -> Any:
    """Return a cell as `Question` takes it; None for one without a value."""
    if isinstance(value, NotUTF8):
        return "\ud800"  # which `QuestionList.of` refuses as not UTF-8
    if name == "question":
        return value
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, Decimal):  # what DuckDB writes for 0.5
        value = float(value)
    # Columns of whole numbers with nulls are floats in pandas, and written as 3.0 to CSV.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if name != "question_id":
        return value.removesuffix(".0") if isinstance(value, str) else value
    # Only numbers have one spelling; of other types, `QuestionList.of` says that they are not text.
    return str(value) if type(value) is int else value


def _refuse_setting(name: str) -> None:
    """Raise FormatError for a column that looks like a setting, which would be ignored."""
    settings = {each for group in GROUPS.values() for each, _, _ in declared(group)}
    # These three are common names of columns of another meaning.
    if name in settings - {"limit", "model", "date"}:
        raise FormatError(
            f"column {name!r} is a setting that questions can't have of their own; they can have "
            f"{', '.join(SETTINGS)}"
        )
    nearest = difflib.get_close_matches(name.lower(), _COLUMNS, 1, 0.85)
    if nearest:
        raise FormatError(f"column {name!r} is unknown: did you mean {nearest[0]!r}?")


def _parquet_rows(file: IO[bytes], encoding: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file. Raises FormatError."""
    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            raise FormatError(f"two of its columns have one name: {', '.join(names)}")
        if "question" not in names:
            raise FormatError(f"it has no column 'question', only {', '.join(names)}")
        for batch in table.iter_batches(batch_size=256):
            columns = [each_value(column) for column in batch.columns]
            for values in zip(*columns, strict=True):
                yield dict(zip(names, values, strict=True))
    except pa.ArrowException as error:
        raise FormatError(f"it can't be read as Parquet: {error}") from error


def _json_rows(file: IO[bytes], encoding: str) -> Iterator[Row]:
    """Yield the objects of JSON lines. Raises FormatError for a line that is not an object."""
    for number, line in enumerate(_decoded(file, encoding), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise FormatError(f"line {number} is not a JSON object")
        yield row


def _csv_rows(file: IO[bytes], encoding: str, delimiter: str = "") -> Iterator[Row]:
    """Yield the rows of a table with a header line. Raises FormatError."""
    lines = _decoded(file, encoding)
    head = lines.readline()
    delimiter = delimiter or delimiter_of(head)
    rows = csv.reader(chain([head], lines), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise FormatError(f"its header has {repeated[0]!r} more than once")
        if "question" not in header:
            raise FormatError(
                f"its header has no 'question', only {', '.join(header) or 'nothing'}"
            )
        for cells in rows:
            if cells and len(cells) != len(header):
                raise FormatError(
                    f"line {rows.line_num} has {len(cells)} cells, its header has {len(header)}"
                )
            if cells:
                yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise FormatError(f"line {rows.line_num}: {error}") from error


def _tsv_rows(file: IO[bytes], encoding: str) -> Iterator[Row]:
    return _csv_rows(file, encoding, "\t")


def _decoded(file: IO[bytes], encoding: str) -> IO[str]:
    # Undecodable bytes become unpaired surrogates: the question is refused as not UTF-8.
    return io.TextIOWrapper(file, encoding, "surrogateescape", newline="")


_READERS: dict[str, Callable[[IO[bytes], str], Iterator[Row]]] = {
    "parquet": _parquet_rows,
    "csv": _csv_rows,
    "tsv": _tsv_rows,
    "jsonl": _json_rows,
}
