"""Read SQuAD JSON paragraph by paragraph, and JSON files that hold rows or articles in a list."""

from __future__ import annotations

import codecs
import decimal
import pickle
import re
import tempfile
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any

import ijson

from pipeline.formats.imported_rows import (
    FileLayout,
    FormatError,
    ImportedRow,
    make_row,
    plain,
    unreadable_row,
)
from pipeline.formats.read_answers import read_answers

_HELD_BYTES = 2**24
_CONTRACT = ("id", "question", "context", "answers")
_WHOLE = ("end_map", "end_array", "string", "number", "boolean", "null")
"""Events of the parser that complete a value."""


def read_squad(file: IO[bytes], layout: FileLayout) -> Iterator[ImportedRow]:
    """Yield the rows of SQuAD 1.1 and 2.0, `data[].paragraphs[].qas[]`.

    Also reads a list of such articles, and rows in place of articles. All other keys of questions,
    paragraphs and articles become columns; a key of a paragraph or article that the question also
    has becomes `paragraph_...` or `article_...`.

    Only one paragraph at a time is in memory; those of one article are kept in a temporary file,
    because keys of the article may follow them. Raises FormatError for a file that is not JSON, or
    has no articles.
    """
    articles = number = 0
    with tempfile.SpooledTemporaryFile(_HELD_BYTES) as spool:
        held = _Held(spool)
        try:
            for article in _articles(file, layout, held):
                yield from _rows(article, held, (articles, number), layout)
                articles, number = articles + 1, number + len(held)
                held.clear()
        except ijson.JSONError as error:
            raise FormatError(
                f"paragraph {number + len(held)}: not JSON: {_in_short(error)}"
            ) from error
        except decimal.InvalidOperation as error:
            raise FormatError(f"paragraph {number + len(held)}: a number is too large") from error
        except RecursionError as error:
            raise FormatError(f"paragraph {number + len(held)}: it is nested too deeply") from error
    if not articles:
        raise FormatError("it has no articles (`data[]`) and is not a list")


def _articles(file: IO[bytes], layout: FileLayout, held: _Held) -> Iterator[Any]:
    """Yield each article without its paragraphs, after adding these to `held`."""
    root = item = ""
    paragraph = article = None
    for prefix, event, value in _events(file, layout):
        if not root:
            # Articles are in `data` of an object, or the whole file is their list.
            if event not in ("start_map", "start_array"):
                raise FormatError(
                    f"it is neither an object with `data` nor a list, but begins with {event}"
                )
            root = "data.item" if event == "start_map" else "item"
            item = f"{root}.paragraphs.item"
        elif prefix == item or prefix.startswith(f"{item}."):
            # Paragraphs are collected apart, so that only one of them is in memory.
            paragraph = paragraph or ijson.ObjectBuilder()
            paragraph.event(event, value)
            if prefix == item and event in _WHOLE:
                held.add(paragraph.value)
                paragraph = None
        elif prefix == root or prefix.startswith(f"{root}."):
            # An article is complete after its last key, which may come after its paragraphs.
            article = article or ijson.ObjectBuilder()
            article.event(event, value)
            if prefix == root and event in _WHOLE:
                yield article.value
                article = None
        elif prefix == "data" and event not in ("start_array", "end_array"):
            found = "an object" if event == "start_map" else event
            raise FormatError(f"its `data` is {found}, where SQuAD has a list of articles")


def _in_short(error: Exception) -> str:
    """Return the first line of a parser's message; the others quote the file."""
    first = str(error).removeprefix("b'").split("\\n")[0].splitlines()[0]
    return (
        f"{first} (more than one object: --format=jsonl)" if "trailing garbage" in first else first
    )


class _Held:
    """The paragraphs of one article, held until all keys of the article are known.

    The file holds them in memory up to `_HELD_BYTES`, then on disk.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._count = file, 0

    def __len__(self) -> int:
        return self._count

    def add(self, paragraph: Any) -> None:
        pickle.dump(paragraph, self._file)
        self._count += 1

    def __iter__(self) -> Iterator[Any]:
        self._file.seek(0)
        for _ in range(self._count):
            yield pickle.load(self._file)

    def clear(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._count = 0


def _rows(
    article: Any, paragraphs: _Held, before: tuple[int, int], layout: FileLayout
) -> Iterator[ImportedRow]:
    """Yield the rows of an article, which may be a row itself.

    before  numbers of articles and of paragraphs before this one
    """
    where = f"article {before[0]}"
    if not isinstance(article, dict):
        yield unreadable_row("not_an_object", where, article)
    elif "paragraphs" not in article and layout.question in article and layout.context in article:
        yield flat_row(article, layout, where)
    elif not isinstance(article.get("paragraphs"), list):
        yield unreadable_row("no_paragraphs", where, article.get("paragraphs"))
    else:
        others = {name: value for name, value in article.items() if name != "paragraphs"}
        for number, paragraph in enumerate(paragraphs, before[1]):
            yield from _paragraph(paragraph, others, f"paragraph {number}", layout)


def _paragraph(
    paragraph: Any, article: dict[str, Any], where: str, layout: FileLayout
) -> Iterator[ImportedRow]:
    """Yield the rows of a paragraph.

    article  the other keys of its article
    """
    if not isinstance(paragraph, dict):
        yield unreadable_row("not_an_object", where, paragraph)
        return
    questions = paragraph.get("qas", [])
    if not isinstance(questions, list):
        yield unreadable_row("no_questions", where, questions)
        return
    shared = {
        name: value for name, value in paragraph.items() if name not in ("qas", layout.context)
    }
    used = {layout.id, layout.question, layout.answers}
    for number, qa in enumerate(questions):
        here = f"{where}, question {number}"
        if not isinstance(qa, dict):
            yield unreadable_row("not_an_object", here, qa)
            continue
        own = {name: value for name, value in qa.items() if name not in used}
        others: dict[str, Any] = {}
        # A name belongs to the innermost level that has it.
        for level, values in (("question", own), ("paragraph", shared), ("article", article)):
            for name, value in values.items():
                taken = name in others or name in _CONTRACT
                others[f"{level}_{name}" if taken else name] = plain(value)
        # SQuAD's layout has a column `title`, even if no article has one.
        others.setdefault("title", None)
        answers = read_answers(qa.get(layout.answers), None, qa.get(layout.impossible))
        context = paragraph.get(layout.context)
        yield make_row(qa.get(layout.id), qa.get(layout.question), context, answers, others, here)


def flat_row(row: dict[str, Any], layout: FileLayout, where: str) -> ImportedRow:
    """Return the row that one object holds: a JSON line, an item of a list, a line of a table."""
    answers, start = row.get(layout.answers), row.get(layout.start)
    used = {layout.id, layout.question, layout.context, layout.answers}
    parallel = (
        isinstance(answers, list)
        and isinstance(start, list)
        and not any(isinstance(each, dict) for each in answers)
    )
    if not isinstance(answers, list | dict | None) or start is None or parallel:
        used.add(layout.start)  # else it has another meaning, as in the output of annotate
    return make_row(
        row.get(layout.id),
        row.get(layout.question),
        row.get(layout.context),
        read_answers(answers, start, row.get(layout.impossible)),
        {name: plain(value) for name, value in row.items() if name not in used},
        where,
    )


_BLOCK = 2**16
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.?)",
    re.DOTALL,
)
"""Matches an escape of JSON, or a surrogate pair of two; the group is an unpaired surrogate."""
_LONGEST = len(rb"\ud83c\udf0a")
_MARK = "\uffff"
"""A noncharacter that replaces undecodable bytes and unpaired surrogates.

The parser would turn unpaired surrogates into question marks.
"""


def _events(file: IO[bytes], layout: FileLayout) -> Iterator[tuple[str, str, Any]]:
    """Yield the parser's events.

    Text has an unpaired surrogate wherever the file has one, or has undecodable bytes, so that
    `is_utf8` finds it.
    """
    for prefix, event, value in ijson.parse(
        ijson.from_iter(_without_nan(_json_blocks(_utf8_blocks(file, layout.encoding))))
    ):
        if event in ("string", "map_key") and _MARK in value:
            value = value.replace(_MARK, "\ud800")
        yield prefix, event, value


def _utf8_blocks(file: IO[bytes], encoding: str) -> Iterator[bytes]:
    """Yield the text of a file as UTF-8 without a byte order mark, undecodable bytes marked."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    while block := file.read(_BLOCK):
        yield _encoded(decoder.decode(block))
    yield _encoded(decoder.decode(b"", final=True))


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", _MARK, text).encode()


def _json_blocks(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same text with unpaired surrogates marked, cut so that no escape crosses blocks."""
    held = b""
    for added in blocks:
        block = held + added
        # No escape contains a space, so that the last one is a safe place to look for escapes from.
        space = block.rfind(b" ", 0, max(0, len(block) - _LONGEST))
        escapes = (escape.start() for escape in _ESCAPES.finditer(block, space + 1))
        # An escape this near the end may continue in the next block.
        cut = next((start for start in escapes if start > len(block) - _LONGEST), len(block))
        if cut:
            yield _marked(block[:cut])
        held = block[cut:]
    if held:
        yield _marked(held)


_NOT_FINITE = {b"NaN": b"null", b"Infinity": b"1e999"}
_STRING_OR_NOT_FINITE = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\Z)|(NaN|Infinity)', re.DOTALL)


def _without_nan(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the blocks of a JSON text with NaN and Infinity, which Python writes, replaced.

    NaN becomes null and Infinity 1e999, in strings neither. No escape sequence may be split between
    two blocks.
    """
    held, quote = b"", b""
    for read in chain(blocks, [b"\n"]):  # the last block flushes what is held back
        block = held + read
        cut = len(block.rstrip(b"NaInfity"))
        text, held = quote + block[:cut], block[cut:]
        # A block that ends inside a string makes the next one begin with an opening quote.
        quotes = text.replace(rb"\\", b"").replace(rb"\"", b"").count(b'"')
        if b"NaN" in text or b"Infinity" in text:
            text = _STRING_OR_NOT_FINITE.sub(lambda it: _NOT_FINITE.get(it[1], it[0]), text)
        if len(text) > len(quote):
            yield text[len(quote) :]
        quote = b'"' * (quotes % 2)


def _marked(text: bytes) -> bytes:
    if not re.search(rb"\\u[dD][89a-fA-F]", text):  # the usual case, and much faster
        return text
    return _ESCAPES.sub(lambda escape: rb"\uffff" if escape[1] else escape[0], text)
