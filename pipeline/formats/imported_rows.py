"""Rows of other formats before they become Parquet: their values, and what can't be read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from model.reading.texts import NotUTF8, is_utf8

Gold = tuple[str, int | None]
"""A gold answer and its start; the start is None where the format gives none."""

ImportProblem = tuple[str, Any]
"""A reason and a value that can't be read, or that contradicts other values of its row."""

NUMBER_AS_TEXT = "number_as_text"
"""Reason of a problem that is only counted: a number in place of text, read as it is written."""


class FormatError(ValueError):
    """A file can't be read at all; the message names the place and an option that helps, if any."""


@dataclass(frozen=True, slots=True)
class FileLayout:
    """The layout of a file: names of its columns (in JSON, of its keys), encoding and delimiter.

    start      column of the starts of answers that are plain text
    delimiter  "" for the default of the format
    """

    id: str = "id"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    start: str = "answer_start"
    impossible: str = "is_impossible"
    encoding: str = "utf-8-sig"
    delimiter: str = ""


@dataclass(frozen=True, slots=True)
class ImportedGolds:
    """The golds of a row as they were read.

    golds     None if the row has no answers, or none that can be read; [] for an unanswerable
              question
    problems  answers that were left out or contradict other values
    unequal   texts and starts that differ in number, unchanged; an audit rejects the row as
              `answers_unequal`
    """

    golds: list[Gold] | None
    problems: Sequence[ImportProblem] = ()
    unequal: dict[str, list[Any]] | None = None


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """One row of a file.

    golds, problems, unequal  as in `ImportedGolds`; the problems are those of the whole row
    others                    values of the other columns by name
    where                     the row's place in the file, such as "line 3"
    unreadable                reason why the row can't be read; "" if it can
    """

    id: str | None
    question: Any
    context: Any
    golds: list[Gold] | None
    others: Mapping[str, Any] = field(default_factory=dict)
    where: str = field(default="", compare=False)
    problems: Sequence[ImportProblem] = ()
    unequal: dict[str, list[Any]] | None = None
    unreadable: str = ""


def make_row(
    identifier: Any,
    question: Any,
    context: Any,
    answers: ImportedGolds,
    others: Mapping[str, Any],
    where: str,
) -> ImportedRow:
    """Make a row from values of any type.

    Numbers are read as text. A question or context of another type becomes null, with the problem
    `question_not_text` or `context_not_text`.
    """
    problems = list(answers.problems)
    texts: list[Any] = []
    for name, value in (("question", question), ("context", context)):
        # NotUTF8 stays, so that `row_problem` can name the column.
        text: Any = value if isinstance(value, NotUTF8) else text_of(value)
        if text is None and not is_missing(value):
            problems.append((f"{name}_not_text", value))
        elif text is not value and text is not None:
            problems.append((NUMBER_AS_TEXT, value))
        texts.append(text)
    # Ids of any type identify a row as well as text does.
    if not isinstance(identifier, NotUTF8):
        identifier = None if is_missing(identifier) else str(identifier)
    question, context = texts
    return ImportedRow(
        identifier, question, context, answers.golds, others, where, problems, answers.unequal
    )


def unreadable_row(reason: str, where: str, found: Any) -> ImportedRow:
    """Make a placeholder for a piece of the file that can't be read as a row."""
    return ImportedRow(None, None, None, None, {}, where, [(reason, found)], None, reason)


def row_problem(row: ImportedRow) -> str:
    """Return the reason why Parquet can't hold a row, "" if it can.

    The reason is that of an unreadable row, or names the column with text that is not UTF-8.
    """
    if row.unreadable:
        return row.unreadable
    answers = [[text for text, _ in row.golds or []], *(row.unequal or {}).values()]
    texts = {"id": row.id, "question": row.question, "context": row.context, "answers": answers}
    for name, value in {**row.others, **texts}.items():
        if not is_utf8(name):
            return "column_name_not_utf8"
        if isinstance(value, NotUTF8) or not is_utf8(value):
            return f"{name}_not_utf8"
    return ""


def is_missing(value: Any) -> bool:
    """Return whether a value is missing: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(value: Any) -> str | None:
    """Return text unchanged and a number as it is written; None for anything else."""
    if isinstance(value, str):
        return value
    # `True` is an int for Python, but not a number that anyone wrote as text.
    if isinstance(value, bool) or is_missing(value):
        return None
    return str(value) if isinstance(value, int | float | Decimal) else None


def plain(value: Any) -> Any:
    """Return a JSON value with its decimals as floats.

    JSON is read with decimals, so that numbers in place of text keep their spelling.
    """
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value
