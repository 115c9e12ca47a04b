"""The second pass over a file: its rows are written as Parquet, with a report of its golds."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.formats import survey_rows
from pipeline.formats.imported_rows import FormatError, ImportedRow, row_problem
from pipeline.formats.place_golds import place_golds, write_line
from pipeline.formats.survey_rows import Survey, array_of, batches
from transforms.storage import building


class _ColumnError(ValueError):
    """A column has a value that its type can't hold, such as an integer too large for a float."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


def convert_rows(
    read: Callable[[], Iterator[ImportedRow]],
    output: str,
    unit: str,
    report: IO[str],
    counts: Counter[str],
    survey: Survey | None = None,
) -> Survey:
    """Write rows as a Parquet file, a bounded number at a time, and return what they are like.

    Calls `read` twice, because the types of the columns are known only after the last row. Rows
    that Parquet can't hold are left out; each gets a line of the report.

    unit    what the starts of golds count: a key of `place_golds.OFFSETS`
    report  receives JSON lines about golds and rows with problems
    counts  receives the counts of rows, golds and problems
    survey  an empty one that says what the rows need and which columns to write; None: its defaults

    Raises FormatError for a file without rows, for one without text as questions or contexts, and
    if the second pass yields another number of rows.
    """
    # The first pass finds the types of the columns, the second writes them.
    survey = survey or Survey()
    with _any_number_of_digits():
        for batch in batches(read()):
            survey.add(batch)
        survey.check()
        while True:
            try:
                _write(read, output, survey, unit, report, counts)
                return survey
            except _ColumnError as error:
                # The type was merged from many batches and fails on a single value. Restart with
                # the column as text: at most once for each column.
                survey.kinds[error.name] = None
                counts.clear()
                report.seek(0)
                report.truncate()


@contextmanager
def _any_number_of_digits() -> Iterator[None]:
    """Lift Python's limit on the digits of an integer, beyond which ijson's parser crashes."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


def _write(
    read: Callable[[], Iterator[ImportedRow]],
    output: str,
    survey: Survey,
    unit: str,
    report: IO[str],
    counts: Counter[str],
) -> None:
    schema, written = survey.schema(), survey.written()
    with building(output) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches(read()):
            rows = []
            for row in batch:
                # Rows that Parquet can't hold are reported, so that no row disappears silently.
                if problem := row_problem(row):
                    counts[f"left_out_{problem}"] += 1
                    found = next((str(value)[:200] for _, value in row.problems), None)
                    write_line(report, row, problem, found=found)
                    continue
                answers = place_golds(row, unit, report, counts)
                values = {"id": row.id, "question": row.question, "context": row.context}
                values["answers"] = answers
                named = {name: values[column] for column, name in written.items()}
                rows.append({**named, **row.others})
            writer.write_table(
                _table(rows, schema, survey), row_group_size=survey_rows.ROWS_AT_ONCE
            )
            counts["rows"] += len(rows)
        # The survey and the report must describe the same rows.
        if counts["rows"] != survey.rows:
            raise FormatError(
                f"it had {survey.rows} rows, then {counts['rows']}: it was changed, or is a pipe, "
                "which can't be read twice"
            )


def _table(rows: list[dict[str, Any]], schema: pa.Schema, survey: Survey) -> pa.Table:
    """Return rows as a table. Raises _ColumnError for a column that must become text."""
    columns = []
    for column in schema:
        values = [row.get(column.name) for row in rows]
        # A column of mixed types is written as text.
        if column.name in survey.kinds and survey.kinds[column.name] is None:
            values = list(map(_as_text, values))
        try:
            columns.append(array_of(values, column.type))
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            if survey.kinds.get(column.name) is None:
                raise FormatError(f"column {column.name!r}: {error}") from error
            raise _ColumnError(column.name) from error
    return pa.table(columns, schema=schema)


def _as_text(value: Any) -> str | None:
    """Return a value of a column of mixed types: text and null unchanged, anything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
