"""The formats that question answering data comes in, read row by row, and how a file's format is known."""

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
    Answers,
    FormatError,
    Gold,
    ImportedRow,
    Layout,
    Problem,
    make_row,
    plain,
    text_of,
    unreadable_row,
)
from pipeline.formats.read_answers import read_answers
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
_MARKS = {  # the longer first: that of UTF-16 begins that of UTF-32
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


def read_jsonl(file: IO[bytes], layout: Layout) -> Iterator[ImportedRow]:
    """One JSON object a line; answers in any of the shapes of `read_answers`."""
    for where, row in _json_lines(file, layout):
        yield flat_row(row, layout, where) if isinstance(row, dict) else row


def read_mrqa(file: IO[bytes], layout: Layout) -> Iterator[ImportedRow]:
    """MRQA 2019: JSON lines, a header, then a context with its `qas`; `char_spans` include their last character.

    The header's data set goes along as `source`. Every place at which an answer was detected is a gold.
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
                    yield make_row(
                        qa.get("qid"),
                        qa.get("question"),
                        context,
                        _detected(context, qa),
                        {"source": plain(source)},
                        where,
                    )
                else:
                    yield unreadable_row("not_an_object", where, qa)


def _detected(context: Any, qa: dict[str, Any]) -> Answers:
    """The golds of a question: wherever its answers were detected, or its answers alone."""
    detected = qa.get("detected_answers")
    if not isinstance(detected, list):
        return read_answers(qa.get("answers") if detected is None else detected)
    golds: list[Gold] = []
    problems: list[Problem] = []
    for answer in detected:
        spans = answer.get("char_spans") if isinstance(answer, dict) else None
        text = text_of(answer.get("text")) if isinstance(answer, dict) else None
        if text is None or not isinstance(spans, list):
            problems.append(("gold_not_text" if text is None else "start_not_whole", answer))
            continue
        for span in spans:
            match span:
                case [int(first), int(last)]:
                    golds.append(
                        (
                            _in_place(context[first : last + 1], text)
                            if isinstance(context, str)
                            else text,
                            first,
                        )
                    )
                case _:
                    problems.append(("start_not_whole", span))
    return Answers(None if problems and not golds else golds, problems)


def _in_place(found: str, answer: str) -> str:
    """The answer as the context spells it: answers were detected whatever their case."""
    return found if found.casefold() == answer.casefold() else answer


def read_csv(file: IO[bytes], layout: Layout) -> Iterator[ImportedRow]:
    """A table with a header line; an empty cell of the answers is an unanswerable question, JSON in it is read.

    A line that is not well-formed or has other cells than the header is a row that can't be read. Raises FormatError for a
    header without the question and the context, and for a quoted cell that is not closed: the rest of the file is in it.
    """
    csv.field_size_limit(2**31 - 1)
    with io.TextIOWrapper(file, layout.encoding, "surrogateescape", newline="") as text:
        rows = csv.reader(text, delimiter=layout.delimiter or ",", strict=True)
        header, done = None, 0
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None or "end of data" in str(error):
                    raise FormatError(
                        f"after line {done}: {error}, a quoted cell is not closed"
                    ) from error
                yield unreadable_row("malformed_line", f"line {rows.line_num}", str(error))
                continue
            where, done = f"line {rows.line_num}", rows.line_num
            if header is None:
                header = cells
                _check_header(header, layout, rows.dialect.delimiter)
            elif cells and len(cells) != len(header):
                yield unreadable_row(
                    "cells_unequal", where, f"{len(cells)} cells, the header has {len(header)}"
                )
            elif cells:
                yield flat_row(dict(zip(header, cells, strict=True)), layout, where)


def _check_header(header: list[str], layout: Layout, delimiter: str) -> None:
    """Raises FormatError for two columns of one name, and for a header that another delimiter divides as it should be."""
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise FormatError(f"its header has {repeated[0]!r} more than once")
    wanted = {layout.question, layout.context}
    line = delimiter.join(header)
    for other in ",;\t|":
        if not wanted <= set(header) and wanted <= {name.strip('"') for name in line.split(other)}:
            raise FormatError(
                f"its header is divided by {other!r}, not by {delimiter!r}: --delimiter={_DELIMITERS.get(other, other)!r}"
            )


_DELIMITERS = {"\t": "tab"}
"""How delimiters are written on the command line, if not as they are."""


def read_tsv(file: IO[bytes], layout: Layout) -> Iterator[ImportedRow]:
    """The same with tabs."""
    return read_csv(file, replace(layout, delimiter=layout.delimiter or "\t"))


def read_parquet(file: IO[bytes], layout: Layout) -> Iterator[ImportedRow]:
    """Parquet whose answers are of another shape than runs read; values of other columns are arrays of one value, whose
    types they keep."""
    needed = {
        layout.id,
        layout.question,
        layout.context,
        layout.answers,
        layout.start,
        layout.impossible,
    }
    number = 0
    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            raise FormatError(f"two of its columns have one name: {', '.join(names)}")
        for batch in table.iter_batches(batch_size=256):
            values = {name: each_value(batch.column(name)) for name in names if name in needed}
            for place in range(batch.num_rows):
                row = {name: values[name][place] if name in values else None for name in names}
                made = flat_row(row, layout, f"row {number + place}")
                yield replace(
                    made, others={name: batch.column(name).slice(place, 1) for name in made.others}
                )
            number += batch.num_rows
    except pa.ArrowException as error:
        raise FormatError(f"after row {number}: {error}") from error


READERS: dict[str, Callable[[IO[bytes], Layout], Iterator[ImportedRow]]] = {
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
    """The format of a file, from its content where its ending leaves that open, and its encoding, from its byte order mark.

    chosen, encoding  what was asked for; None to find out

    Raises FormatError for a file whose ending says nothing, and for one that is compressed, or UTF-16, and does not say so.
    """
    line = b"\n"
    while line and not line.strip():
        line = file.readline(_LONGEST_LINE)
    for mark, ending in _COMPRESSED.items():
        if line.startswith(mark):
            raise FormatError(f"it is compressed: give it a name that ends in {ending}")
    encoding = encoding or next(
        (name for mark, name in _MARKS.items() if line.startswith(mark)), "utf-8-sig"
    )
    kind = chosen or ("parquet" if line.startswith(b"PAR1") else _by_ending(path))
    if kind != "parquet" and encoding == "utf-8-sig" and b"\0" in line[:64]:
        raise FormatError("it has NUL characters, as UTF-16 has: --encoding=utf-16-le or utf-16-be")
    if not chosen and kind in ("squad", "jsonl"):
        kind = _by_first_line(line.decode(encoding, "ignore").strip(), kind)
    return kind, encoding


def _by_ending(path: str) -> str:
    for suffix in reversed(PurePosixPath(path).suffixes[-2:]):
        if suffix.lower() in _ENDINGS:
            return _ENDINGS[suffix.lower()]
    raise FormatError(f"the ending says no format, give --format={'|'.join(READERS)}")


def _by_first_line(line: str, kind: str) -> str:
    """Which of the formats that are JSON a file is."""
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return "squad" if line[:1] == "[" or line == "{" else kind
    if not isinstance(first, dict):
        return "squad" if isinstance(first, list) else kind
    if isinstance(first.get("data"), list):
        return "squad"
    return "mrqa" if "header" in first or "qas" in first else "jsonl"


def _json_lines(
    file: IO[bytes], layout: Layout
) -> Iterator[tuple[str, dict[str, Any] | ImportedRow]]:
    """(where, object) of each line that is not blank; for a line that holds no object, a row that can't be read."""
    with io.TextIOWrapper(file, layout.encoding, "surrogateescape") as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                where = f"line {number}"
                try:
                    row = json.loads(line, parse_float=Decimal)
                except (ValueError, ArithmeticError, RecursionError):
                    yield where, unreadable_row("not_json", where, line)
                else:
                    yield (
                        where,
                        row
                        if isinstance(row, dict)
                        else unreadable_row("not_an_object", where, row),
                    )
