"""Rows of other formats before they become Parquet: what their file says, and what of it can't be read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from model.reading.texts import NotUTF8, is_utf8

Gold = tuple[str, int | None]
"""A gold answer and its start; None where the format gives none."""

Problem = tuple[str, Any]
"""A reason and the value that was found: something that can't be read, or that contradicts what is beside it."""

NUMBER_AS_TEXT = "number_as_text"
"""The reason of a problem that is only counted: a number where a text belongs is read as it is written."""


class FormatError(ValueError):
    """A file that can't be read at all; the message names the place and, where there is one, the option that helps."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is laid out: the names of its columns (of JSON: of its keys), its encoding and its delimiter.

    start      stands beside answers that are plain text
    delimiter  "" for that of the format
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
class Answers:
    """The golds of a row as they were read.

    golds     None where the file says nothing of answers, or nothing that can be read; [] for an unanswerable question
    problems  what was left out or contradicts itself
    unequal   texts and starts of unequal number, kept as they are: an audit rejects the row as `answers_unequal`
    """

    golds: list[Gold] | None
    problems: Sequence[Problem] = ()
    unequal: dict[str, list[Any]] | None = None


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """One row as its file has it.

    golds, problems, unequal  as in `Answers`; the problems are those of the whole row
    others                    what else the row holds
    where                     its place in the file, such as "line 3"
    unreadable                why it can't be read as a row; "" if it can
    """

    id: str | None
    question: Any
    context: Any
    golds: list[Gold] | None
    others: Mapping[str, Any] = field(default_factory=dict)
    where: str = field(default="", compare=False)
    problems: Sequence[Problem] = ()
    unequal: dict[str, list[Any]] | None = None
    unreadable: str = ""


def make_row(
    identifier: Any,
    question: Any,
    context: Any,
    answers: Answers,
    others: Mapping[str, Any],
    where: str,
) -> ImportedRow:
    """A row from values of any type: numbers are read as text, what is neither text nor a number becomes null, and is a
    problem (`question_not_text`, `context_not_text`)."""
    problems = list(answers.problems)
    texts: list[Any] = []
    for name, value in (("question", question), ("context", context)):
        text: Any = value if isinstance(value, NotUTF8) else text_of(value)
        if text is None and not is_missing(value):
            problems.append((f"{name}_not_text", value))
        elif text is not value and text is not None:
            problems.append((NUMBER_AS_TEXT, value))
        texts.append(text)
    if not isinstance(identifier, NotUTF8):
        identifier = None if is_missing(identifier) else str(identifier)
    question, context = texts
    return ImportedRow(
        identifier, question, context, answers.golds, others, where, problems, answers.unequal
    )


def unreadable_row(reason: str, where: str, found: Any) -> ImportedRow:
    """Stands for a piece of the file that can't be read as a row."""
    return ImportedRow(None, None, None, None, {}, where, [(reason, found)], None, reason)


def row_problem(row: ImportedRow) -> str:
    """Why Parquet can't hold a row: it can't be read, or it has text that is no UTF-8; "" if it can."""
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
    """Whether a value is null, in JSON's spelling or in that of numbers."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(value: Any) -> str | None:
    """A text as it is, a number as it is written; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or is_missing(value):
        return None
    return str(value) if isinstance(value, int | float | Decimal) else None


def plain(value: Any) -> Any:
    """The same JSON value with floats for decimals, which were kept to know numbers as they are written."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value
