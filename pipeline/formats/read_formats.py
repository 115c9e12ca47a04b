"""Read files of question answering data row by row, and recognise their format."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.reading.texts import each_value
from pipeline.formats.imported_rows import (
    FileLayout,
    FormatError,
    Gold,
    ImportedGolds,
    ImportedRow,
    ImportProblem,
    make_row,
    plain,
    text_of,
    unreadable_row,
)
from pipeline.formats.read_answers import is_missing_start, read_answers
from pipeline.formats.read_squad import flat_row, read_squad

_ENDINGS = {
    ".json": "squad",
    ".jsonl": "jsonl",
    ".jsonlines": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
}
_MARKS = {  # UTF-32 first: its byte order mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_COMPRESSED = {
    b"\x1f\x8b": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"PK\x03\x04": ".zip",
}
_LONGEST_LINE = 2**24


def read_jsonl(file: IO[bytes], layout: FileLayout) -> Iterator[ImportedRow]:
    """Yield the rows of JSON lines, one object a line; answers as in `read_answers`."""
    for where, row in _json_lines(file, layout):
        yield flat_row(row, layout, where) if isinstance(row, dict) else row


def read_mrqa(file: IO[bytes], layout: FileLayout) -> Iterator[ImportedRow]:
    """Yield the rows of MRQA 2019: JSON lines, a header first, then contexts with their `qas`.

    The header's data set becomes the column `source`. Each place at which an answer was detected is
    a gold; `char_spans` include their last character.
    """
    source = None
    for where, row in _json_lines(file, layout):
        if not isinstance(row, dict):
            yield row
        elif "header" in row:
            source = row["header"].get("dataset") if isinstance(row["header"], dict) else None
        elif not isinstance(row.get("qas"), list):
            yield unreadable_row("no_questions", where, row.get("qas"))
        else:
            context = row.get("context")
            for qa in row["qas"]:
                if isinstance(qa, dict):
                    answers, others = _detected(context, qa), {"source": plain(source)}
                    yield make_row(
                        qa.get("qid"), qa.get("question"), context, answers, others, where
                    )
                else:
                    yield unreadable_row("not_an_object", where, qa)


def _detected(context: Any, qa: dict[str, Any]) -> ImportedGolds:
    """Return the golds of a question: all detected places, or its `answers` if it has none."""
    detected = qa.get("detected_answers")
    if detected == [] and qa.get("answers"):
        detected = None
    if not isinstance(detected, list):
        return read_answers(qa.get("answers") if detected is None else detected)
    golds: list[Gold] = []
    problems: list[ImportProblem] = []
    for answer in detected:
        spans = answer.get("char_spans") if isinstance(answer, dict) else None
        text = text_of(answer.get("text")) if isinstance(answer, dict) else None
        if text is None or not isinstance(spans, list):
            problems.append(("gold_not_text" if text is None else "start_not_whole", answer))
            continue
        for span in spans:
            match span:
                case [int(first), int(last)]:
                    golds.append((_as_spelt(context, first, last, text), first))
                case _:
                    problems.append(("start_not_whole", span))
    return ImportedGolds(None if problems and not golds else golds, problems)


def _as_spelt(context: Any, first: int, last: int, answer: str) -> str:
    """Return an answer as the context spells it: MRQA detected answers in any case."""
    there = context[first : last + 1] if isinstance(context, str) else ""
    return there if there.casefold() == answer.casefold() else answer


def read_csv(file: IO[bytes], layout: FileLayout) -> Iterator[ImportedRow]:
    """Yield the rows of a table with a header line.

    Answers are as in `read_answers`; an empty cell means an unanswerable question, and `nan`
    without a start that the answers are missing. A malformed line, and one with more or fewer cells
    than the header, is an unreadable row.

    Raises FormatError for a header with a repeated name, with another delimiter, or without a
    question and a context, and for a quoted cell that is never closed, because the rest of the file
    is in it.
    """
    csv.field_size_limit(2**31 - 1)
    with io.TextIOWrapper(file, layout.encoding, "surrogateescape", newline="") as text:
        # Undecodable bytes become unpaired surrogates, which `row_problem` reports by column.
        rows = csv.reader(text, delimiter=layout.delimiter or ",", strict=True)
        header, last_line = None, 0
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                # A malformed header leaves nothing to read; a malformed line only loses itself.
                if header is None or "end of data" in str(error):
                    raise FormatError(
                        f"after line {last_line}: {error}, a quoted cell is not closed"
                    ) from error
                yield unreadable_row("malformed_line", f"line {rows.line_num}", str(error))
                continue
            last_line = rows.line_num
            where = f"line {last_line}"
            if header is None:
                header = cells
                _check_header(header, layout, rows.dialect.delimiter)
            elif cells and len(cells) != len(header):
                yield unreadable_row(
                    "cells_unequal", where, f"{len(cells)} cells, the header has {len(header)}"
                )
            elif cells:
                row: dict[str, Any] = dict(zip(header, cells, strict=True))
                # With a start it is an answer, else what pandas writes for a missing one.
                answer, start = row.get(layout.answers, ""), row.get(layout.start)
                if answer.strip().lower() == "nan" and is_missing_start(start):
                    row[layout.answers] = None
                yield flat_row(row, layout, where)


def _check_header(header: list[str], layout: FileLayout, delimiter: str) -> None:
    """Raise FormatError for a header that can't be used.

    It has two columns of one name, or another delimiter, or neither a question nor a context.
    """
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise FormatError(f"its header has {repeated[0]!r} more than once")
    wanted = {layout.question, layout.context}
    line = delimiter.join(header)
    for other in ",;\t|":
        if not wanted <= set(header) and wanted <= {name.strip('"') for name in line.split(other)}:
            option = "tab" if other == "\t" else other
            raise FormatError(
                f"its header is divided by {other!r}, not by {delimiter!r}: --delimiter={option!r}"
            )
    if not wanted & set(header):
        # The first line may be a row, with a whole passage in it.
        present = ", ".join(repr(name[:80]) for name in header) or "nothing"
        raise FormatError(
            f"its header has neither {layout.question!r} nor {layout.context!r}, but {present}: "
            "--question_column=NAME and --context_column=NAME name the columns that hold them"
        )


def read_tsv(file: IO[bytes], layout: FileLayout) -> Iterator[ImportedRow]:
    """Yield the rows of a table whose cells are divided by tabs; otherwise as `read_csv`."""
    return read_csv(file, replace(layout, delimiter=layout.delimiter or "\t"))


def read_parquet(file: IO[bytes], layout: FileLayout) -> Iterator[ImportedRow]:
    """Yield the rows of Parquet whose answers have another shape than runs read.

    Values of other columns are arrays of length 1, which keeps their types. Raises FormatError for
    a file that can't be read, or with two columns of one name.
    """
    needed = {
        layout.id,
        layout.question,
        layout.context,
        layout.answers,
        layout.start,
        layout.impossible,
    }
    rows_before = 0
    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            raise FormatError(f"two of its columns have one name: {', '.join(names)}")
        # Only the columns that make the row become Python values; others are passed on as arrays.
        for batch in table.iter_batches(batch_size=256):
            values = {name: each_value(batch.column(name)) for name in names if name in needed}
            for number in range(batch.num_rows):
                row = {name: values[name][number] if name in values else None for name in names}
                made = flat_row(row, layout, f"row {rows_before + number}")
                others = {name: batch.column(name).slice(number, 1) for name in made.others}
                yield replace(made, others=others)
            rows_before += batch.num_rows
    except pa.ArrowException as error:
        raise FormatError(f"after row {rows_before}: {error}") from error


READERS: dict[str, Callable[[IO[bytes], FileLayout], Iterator[ImportedRow]]] = {
    "squad": read_squad,
    "mrqa": read_mrqa,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
}


def recognise(
    file: IO[bytes], path: str, chosen: str | None, encoding: str | None
) -> tuple[str, str]:
    """Return the format and the encoding of a file.

    The format follows from the ending, and from the first line if several formats share the ending;
    the encoding follows from the byte order mark.

    chosen, encoding  a given format and encoding; None to find out

    Raises FormatError for an unknown ending, for a compressed file whose name does not say so, and
    for UTF-16 without a byte order mark.
    """
    # Blank lines may come before the content.
    line = b"\n"
    while line and not line.strip():
        line = file.readline(_LONGEST_LINE)
    for mark, ending in _COMPRESSED.items():
        if line.startswith(mark):
            raise FormatError(f"it is compressed: give it a name that ends in {ending}")
    encoding = encoding or next(
        (name for mark, name in _MARKS.items() if line.startswith(mark)), "utf-8-sig"
    )
    # The content of a Parquet file is certain, an ending is not.
    kind = chosen or ("parquet" if line.startswith(b"PAR1") else _by_ending(path))
    if kind != "parquet" and encoding == "utf-8-sig" and b"\0" in line[:64]:
        raise FormatError("it has NUL bytes, as UTF-16 does: --encoding=utf-16-le or utf-16-be")
    if not chosen and kind in ("squad", "jsonl"):
        kind = _by_first_line(line.decode(encoding, "ignore").strip(), kind)
    return kind, encoding


def is_other_format(path: str) -> bool:
    """Return whether a path has the ending of a format that is read here, but not Parquet's."""
    try:
        return _by_ending(path) != "parquet"
    except FormatError:
        return False


def _by_ending(path: str) -> str:
    # The ending may be followed by one of compression.
    for suffix in reversed(PurePosixPath(path).suffixes[-2:]):
        if suffix.lower() in _ENDINGS:
            return _ENDINGS[suffix.lower()]
    raise FormatError(f"the ending says no format, give --format={'|'.join(READERS)}")


def _by_first_line(line: str, kind: str) -> str:
    """Return which of the JSON formats a file has; `kind` if its first line leaves that open."""
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        # A first line that is not JSON by itself begins an indented file, or is a broken line.
        return "squad" if line[:1] == "[" or line == "{" else kind
    if not isinstance(first, dict):
        return "squad" if isinstance(first, list) else kind
    # An object as the only content is a mistake in SQuAD JSON, which its reader names.
    only_data = isinstance(first.get("data"), dict) and first.keys() <= {"data", "version"}
    if isinstance(first.get("data"), list) or only_data:
        return "squad"
    return "mrqa" if "header" in first or "qas" in first else "jsonl"


def _json_lines(
    file: IO[bytes], layout: FileLayout
) -> Iterator[tuple[str, dict[str, Any] | ImportedRow]]:
    """Yield (where, object) of each line that is not blank.

    A line without a JSON object yields an unreadable row in place of the object.
    """
    with io.TextIOWrapper(file, layout.encoding, "surrogateescape") as text:
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                row = json.loads(line, parse_float=Decimal)
            except (ValueError, ArithmeticError, RecursionError):
                yield where, unreadable_row("not_json", where, line)
                continue
            if not isinstance(row, dict):
                row = unreadable_row("not_an_object", where, row)
            yield where, row
