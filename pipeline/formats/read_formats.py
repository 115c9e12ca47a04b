"""The formats that question answering data comes in, read row by row: SQuAD JSON, MRQA, JSON lines, CSV."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

import ijson

Gold = tuple[str, int | None]
"""A gold answer and its start; None where the format gives none."""


class FormatError(ValueError):
    """A file that is not what it was said to be; the message names the place."""


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """One row as its file has it.

    golds   None where the file says nothing of answers; [] for an unanswerable question
    others  what else the row holds
    """

    id: str | None
    question: Any
    context: Any
    golds: list[Gold] | None
    others: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Names:
    """Under which names JSON lines and CSV hold what is needed; `start` stands beside answers that are plain text."""

    id: str = "id"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    start: str = "answer_start"


def read_squad(file: IO[bytes], names: Names) -> Iterator[ImportedRow]:
    """SQuAD 1.1 and 2.0: `data[].paragraphs[].qas[]`, one paragraph in memory at a time.

    `title` goes along where it stands before its paragraphs, as in the published files.
    """
    title, paragraph, number = None, None, 0
    where = "data.item.paragraphs.item"
    try:
        for prefix, event, value in ijson.parse(ijson.from_iter(_json_blocks(file)), use_float=True):
            if not prefix and event in ("start_array", "string", "number", "boolean", "null"):
                raise FormatError(f"at its top stands no object with `data`, but {event.removeprefix('start_')}")
            if event == "string" and _MARK in value:
                value = value.replace(_MARK, "\ud800")
            if (prefix, event) == ("data.item", "start_map"):
                title = None
            elif prefix == "data.item.title":
                title = value
            elif (prefix, event) == (where, "start_map"):
                paragraph = ijson.ObjectBuilder()
            if paragraph:
                paragraph.event(event, value)
                if (prefix, event) == (where, "end_map"):
                    yield from _paragraph(paragraph.value, title, number)
                    paragraph, number = None, number + 1
    except ijson.JSONError as error:
        raise FormatError(f"paragraph {number}: no JSON: {error}") from error
    if not number:
        raise FormatError("it has no paragraph (`data[].paragraphs[]`)")


_BLOCK = 2**16
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.?)", re.DOTALL
)
"""Escapes of JSON, surrogate pairs as one; the group is half a pair that stands alone."""
_LONGEST = len(rb"\ud83c\udf0a")
_MARK = "\uffff"
"""No character: stands for half a surrogate pair, of which the parser would make a question mark."""


def _json_blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a JSON file without its byte order mark, halves of surrogate pairs that stand alone marked."""
    held, read = b"", file.read(_BLOCK).removeprefix(codecs.BOM_UTF8)
    while read:
        block = held + read
        space = block.rfind(b" ", 0, max(0, len(block) - _LONGEST))  # stands in no escape: where to look from
        escapes = (escape.start() for escape in _ESCAPES.finditer(block, space + 1))
        cut = next((start for start in escapes if start > len(block) - _LONGEST), len(block))  # it may go on in the next block
        if cut:
            yield _marked(block[:cut])
        held, read = block[cut:], file.read(_BLOCK)
    if held:
        yield _marked(held)


def _marked(text: bytes) -> bytes:
    if not re.search(rb"\\u[dD][89a-fA-F]", text):  # as almost always, and much faster
        return text
    return _ESCAPES.sub(lambda escape: rb"\uffff" if escape[1] else escape[0], text)


def _paragraph(paragraph: dict[str, Any], title: str | None, number: int) -> Iterator[ImportedRow]:
    questions = paragraph.get("qas", []) if isinstance(paragraph, dict) else None
    if not isinstance(questions, list):
        raise FormatError(f"paragraph {number}: it has no list of questions (`qas`)")
    for place, qa in enumerate(questions):
        where = f"paragraph {number}, question {place}"
        try:
            answers = [] if qa.get("is_impossible") and not qa.get("answers") else qa.get("answers")
            golds = golds_of(answers, None, where)
            yield ImportedRow(str(qa["id"]), qa["question"], paragraph["context"], golds, {"title": title})
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{where}: {error!r} is missing or malformed") from error


def read_mrqa(file: IO[bytes], names: Names) -> Iterator[ImportedRow]:
    """MRQA 2019: JSON lines, a header, then a context with its `qas`; `char_spans` include their last character.

    The header's data set goes along as `source`. Every place at which an answer was detected is a gold.
    """
    source = None
    for number, row in _json_lines(file):
        if "header" in row:
            source = row["header"].get("dataset") if isinstance(row["header"], dict) else None
            continue
        try:
            for qa in row["qas"]:
                golds = [
                    (_in_place(row["context"][first : last + 1], answer["text"]), first)
                    for answer in qa["detected_answers"]
                    for first, last in answer["char_spans"]
                ]
                yield ImportedRow(str(qa["qid"]), qa["question"], row["context"], golds, {"source": source})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"line {number}: {error!r} is missing or malformed") from error


def _in_place(found: str, answer: str) -> str:
    """The answer as the context spells it: answers were detected whatever their case."""
    return found if found.casefold() == answer.casefold() else answer


def read_jsonl(file: IO[bytes], names: Names) -> Iterator[ImportedRow]:
    """One JSON object a line; answers in any of the shapes of `golds_of`."""
    for number, row in _json_lines(file):
        yield _flat(row, names, f"line {number}")


def read_csv(file: IO[bytes], names: Names, delimiter: str = ",") -> Iterator[ImportedRow]:
    """A table with a header line; an empty cell of the answers is an unanswerable question, JSON in it is read."""
    csv.field_size_limit(2**31 - 1)
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        rows = csv.DictReader(text, delimiter=delimiter, strict=True)
        try:
            for row in rows:
                where = f"line {rows.line_num}"
                if None in row or None in row.values():
                    raise FormatError(f"{where}: {len(rows.fieldnames or ())} columns in the header, not so many here")
                yield _flat(row, names, where)
        except (csv.Error, UnicodeDecodeError) as error:
            raise FormatError(f"after line {rows.line_num}: {error}") from error


def read_tsv(file: IO[bytes], names: Names) -> Iterator[ImportedRow]:
    """The same with tabs."""
    return read_csv(file, names, "\t")


READERS: dict[str, Callable[[IO[bytes], Names], Iterator[ImportedRow]]] = {
    "squad": read_squad,
    "mrqa": read_mrqa,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
}


def _json_lines(file: IO[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise FormatError(f"line {number}: no JSON: {error}") from error
            if not isinstance(row, dict):
                raise FormatError(f"line {number}: {type(row).__name__}, not an object")
            yield number, row


def _flat(row: dict[str, Any], names: Names, where: str) -> ImportedRow:
    for name in (names.question, names.context):
        if name not in row:
            raise FormatError(f"{where}: no {name!r}, only {', '.join(map(repr, row))}")
    identifier, answers, start = (row.get(name) for name in (names.id, names.answers, names.start))
    used = {names.id, names.question, names.context, names.answers}
    if isinstance(answers, str) or start is None:  # beside other answers it is something else, as in rows of annotate
        used.add(names.start)
    return ImportedRow(
        None if identifier is None else str(identifier),
        row[names.question],
        row[names.context],
        golds_of(answers, start, where),
        {name: value for name, value in row.items() if name not in used},
    )


def golds_of(answers: Any, start: Any, where: str) -> list[Gold] | None:
    """Golds from what people write: {"text": [...], "answer_start": [...]}, the same of single values, a list of
    {"text", "answer_start"}, a list of texts, JSON of any of these as text, or a text with its start beside it.

    Raises FormatError for any other shape.
    """
    if isinstance(answers, str) and answers.lstrip()[:1] in ("{", "["):
        with suppress(ValueError):  # an answer may well start with a bracket
            answers = json.loads(answers)
    if isinstance(answers, str):
        return [(answers, _start(start, where))] if answers else []
    if isinstance(answers, dict) and "text" in answers:
        texts, starts = answers["text"], answers.get("answer_start")
        if isinstance(texts, str):
            texts, starts = [texts], [starts]
        if isinstance(texts, list) and isinstance(starts, list | None):
            starts = [None] * len(texts) if starts is None else starts
            if len(texts) != len(starts):
                raise FormatError(f"{where}: {len(texts)} answers, but {len(starts)} starts")
            answers = [{"text": text, "answer_start": begin} for text, begin in zip(texts, starts, strict=True)]
    if answers is None:
        return None
    if isinstance(answers, list):
        items = [{"text": item} if isinstance(item, str) else item for item in answers]
        if all(isinstance(item, dict) and isinstance(item.get("text"), str) for item in items):
            return [(item["text"], _start(item.get("answer_start"), where)) for item in items]
    raise FormatError(f"{where}: answers of an unknown shape: {str(answers)[:80]}")


def _start(value: Any, where: str) -> int | None:
    if value is None or value == "":
        return None
    try:
        if int(value) == float(value):
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise FormatError(f"{where}: the start {value!r} is no whole number")
