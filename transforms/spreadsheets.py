"""CSV files that people open in a spreadsheet, fill in and send back."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

csv.field_size_limit(2**31 - 1)


class SpreadsheetError(ValueError):
    """A file can't be read as CSV; the message says where."""


def guard(text: str) -> str:
    """Return a text that no spreadsheet executes as a formula (OWASP, CSV injection).

    An apostrophe goes before texts that would be formulas, or that begin with an apostrophe.
    """
    return "'" + text if text.startswith((*_FORMULA_SIGNS, "'")) else text


def unguard(text: str) -> str:
    """Return the text that `guard` got."""
    return text[1:] if text.startswith("'") else text


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return a CSV file that Excel opens as it is; None becomes an empty cell.

    Texts of a corpus must have been guarded.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if row[name] is None else row[name] for name in columns])
    return out.getvalue().encode("utf-8-sig", "replace")  # Excel needs the BOM


def as_text(content: bytes, errors: str = "strict") -> str:
    """Return the text of a saved file: UTF-8, or UTF-16 if its byte order mark says so.

    errors  as in `bytes.decode`
    """
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf16 else "utf-8-sig", errors)


def delimiter_of(head: str) -> str:
    """Return what divides the cells of a header line: most of its commas, semicolons or tabs.

    Where the comma is the decimal sign, spreadsheets save with semicolons.
    """
    return max(",;\t", key=head.count)


def csv_rows(
    text: str, needed: Sequence[str], written: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("line N", row) of a CSV file, as any spreadsheet saves it.

    needed   names of columns that the file must have
    written  name of the file that was to be filled in, for the message

    Raises SpreadsheetError for a file without one of them, or that is not CSV.
    """
    head = text.partition("\n")[0]
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=delimiter_of(head), restval="", strict=True
    )
    try:
        for name in needed:
            if name not in (reader.fieldnames or ()):
                raise SpreadsheetError(
                    f"it has no column {name!r}: it is neither a {written} nor a Label Studio "
                    "export"
                )
        for row in reader:
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise SpreadsheetError(f"line {reader.line_num}: {error}") from error
