"""Read gold answers in the shapes in which people write them, and name what can't be read."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from model.reading.texts import NotUTF8
from pipeline.formats.imported_rows import (
    NUMBER_AS_TEXT,
    Gold,
    ImportedGolds,
    ImportProblem,
    is_missing,
    text_of,
)

_YES, _NO = ("true", "1", "1.0", "yes", "t", "y"), ("false", "0", "0.0", "no", "f", "n")
_LIKE_A_LITERAL = re.compile(r"""\s*(?:array\(|\{\s*['"}]|\[\s*(?:['"{\[\]]|array\())""")
_NUMPY_SCALAR = re.compile(r"(?:u?int|float|str|bool)\d*_?")
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'" r'|"(?:[^"\\]|\\.)*"', re.DOTALL)
_BEYOND_STARTS = 2**63


class _UnreadableError(ValueError):
    """Answers have no known shape."""


class _UnequalError(ValueError):
    """Texts and starts differ in number."""

    def __init__(self, texts: list[Any], starts: list[Any]):
        super().__init__(f"{len(texts)} texts, {len(starts)} starts")
        self.texts, self.starts = texts, starts


def read_answers(answers: Any, start: Any = None, impossible: Any = None) -> ImportedGolds:
    """Read the answers of a row. Never raises: what can't be read is a problem of the result.

    Answers may have any of these shapes:

    - {"text": [...], "answer_start": [...]}, or single values in place of both lists
    - a list of {"text": ..., "answer_start": ...}
    - a list of texts, or a text, with their starts in `start`
    - text that is one of these as JSON, or as a literal of Python or numpy

    A number is read as text, as it is written.

    impossible  the row's flag for an unanswerable question. If true, blank answers are
                placeholders; if false or unreadable, an empty list means that the answers are
                missing.

    Problems: answers_unreadable (unknown shape), answers_not_utf8, answers_unequal (texts and
    starts), gold_not_text, start_not_whole, is_impossible_unreadable, answers_though_impossible,
    answers_missing_though_possible.
    """
    try:
        pairs = _pairs(answers, start)
    except _UnequalError as error:
        return _unequal(error)
    except _UnreadableError:
        unread = ("answers_unreadable", answers)
        if isinstance(answers, NotUTF8):
            unread = ("answers_not_utf8", None)
        return ImportedGolds(None, [unread])
    problems: list[ImportProblem] = []
    flag = _flag(impossible)
    unclear = flag is None and not is_missing(impossible)
    # A blank flag says nothing, which matters only if there is no answer either.
    if unclear and (impossible != "" or pairs == []):
        problems.append(("is_impossible_unreadable", impossible))
    # A true flag decides only if no answer contradicts it.
    if flag and all(is_missing(text) or not str(text).strip() for text, _ in pairs or []):
        return ImportedGolds([])
    if flag:
        problems.append(("answers_though_impossible", answers))
    # An empty list would mean an unanswerable question, but the row says that it has an answer.
    if flag is False and pairs == []:
        problems.append(("answers_missing_though_possible", answers))
    if (unclear or flag is False) and pairs == []:
        pairs = None
    return _readable(pairs, problems)


def _unequal(error: _UnequalError) -> ImportedGolds:
    """Return texts and starts that differ in number as they are, without starts beyond int32."""
    starts = [_whole(start) for start in error.starts]
    return ImportedGolds(
        None,
        [("answers_unequal", str(error))],
        {
            "text": [text_of(text) for text in error.texts],
            "answer_start": [
                None if start is None or abs(start) >= 2**31 else start for start in starts
            ],
        },
    )


def _readable(
    pairs: Sequence[tuple[Any, Any]] | None, problems: list[ImportProblem]
) -> ImportedGolds:
    """Return the golds that can be read, adding a problem for each other one.

    The golds are None if there are pairs but none can be read: [] would mean that the question is
    unanswerable.
    """
    golds: list[Gold] = []
    for given_text, given_start in pairs or []:
        text, start = text_of(given_text), _whole(given_start)
        if text is None:
            problems.append(("gold_not_text", given_text))
        elif start is None and not is_missing_start(given_start):
            problems.append(("start_not_whole", given_start))
        else:
            golds.append((text, start))
            if text is not given_text:
                problems.append((NUMBER_AS_TEXT, given_text))
    return ImportedGolds(None if pairs is None or (pairs and not golds) else golds, problems)


def _pairs(answers: Any, start: Any) -> list[tuple[Any, Any]] | None:
    """Return (text, start) of each gold, with values unchanged; None if the row has no answers.

    Raises _UnequalError, _UnreadableError.
    """
    if is_missing(answers):
        return None
    if isinstance(answers, str):
        # Text may be a whole list or dict, as CSV files hold it.
        literal = _literal(answers)
        if literal is not None:
            return _pairs(literal, start)
        return [(answers, start)] if answers else []
    if isinstance(answers, dict) and "text" in answers:
        # Single values in place of lists, with a start that may be a list of one.
        texts, starts = answers["text"], answers.get("answer_start")
        if not isinstance(texts, list):
            return [(texts, starts[0] if isinstance(starts, list) and len(starts) == 1 else starts)]
        return _zipped(texts, starts if starts is None or isinstance(starts, list) else [starts])
    if isinstance(answers, list):
        # A plain list of texts goes with a list of starts in the other column.
        starts = _literal(start) if isinstance(start, str) else start
        nested = any(isinstance(each, dict | list) for each in answers)
        if answers and isinstance(starts, list) and not nested:
            return _zipped(answers, starts)
        pairs: list[tuple[Any, Any]] = []
        for each in answers:
            if isinstance(each, dict) and "text" in each:
                pairs += _pairs(each, None) or []
            else:
                pairs.append((each, None))
        return pairs
    if text_of(answers) is None:
        raise _UnreadableError
    return [(answers, start)]


def _zipped(texts: list[Any], starts: list[Any] | None) -> list[tuple[Any, Any]]:
    """Pair texts with starts. Raises _UnequalError if they differ in number."""
    if starts is None:
        return [(text, None) for text in texts]
    if len(texts) != len(starts):
        raise _UnequalError(texts, starts)
    return list(zip(texts, starts, strict=True))


def _whole(value: Any) -> int | None:
    """Return a start as an integer; None if it is missing, or not a whole number."""
    if type(value) is int and abs(value) < _BEYOND_STARTS:  # the usual case, and much faster
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    with suppress(ArithmeticError):
        # Decimal is exact for numbers as they are written, such as "12.0" and "1e3".
        number = Decimal(str(value).strip())
        if (
            number.is_finite()
            and number.copy_abs() < _BEYOND_STARTS
            and number == number.to_integral_value()
        ):
            return int(number)
    return None


def is_missing_start(value: Any) -> bool:
    """Return whether a start is missing: None, NaN, or text that says so."""
    return is_missing(value) or (
        isinstance(value, str) and value.strip().lower() in ("", "nan", "none", "null")
    )


def _flag(value: Any) -> bool | None:
    """Return a boolean, or the one that text or a number means; None for anything else."""
    if isinstance(value, bool):
        return value
    word = (text_of(value) or "").strip().lower()
    if word in _YES:
        return True
    return False if word in _NO else None


def _literal(text: str) -> list[Any] | dict[str, Any] | None:
    """Return the list or dict that a text is as JSON or as a literal of Python or numpy.

    None for plain text, even if it starts with a bracket. Raises _UnreadableError for text that
    looks like a list or dict but can't be read, because it is hardly an answer.
    """
    if text.lstrip()[:1] not in ("{", "[", "a"):
        return None
    # JSON first: text that could be both is far more likely JSON.
    for read in (_from_json, _from_python):
        with suppress(ValueError, SyntaxError, ArithmeticError, RecursionError, MemoryError):
            value = read(text)
            if isinstance(value, list | dict):
                return value
    if _LIKE_A_LITERAL.match(text):
        raise _UnreadableError
    return None


def _from_json(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def _from_python(text: str) -> Any:
    if not _LIKE_A_LITERAL.match(text):
        raise ValueError("neither a list nor a dict")
    with warnings.catch_warnings(action="ignore"):  # about backslashes in strings
        return _value(ast.parse(text.strip(), mode="eval").body, text.strip())


def _value(node: ast.expr, text: str) -> Any:
    """Return the value of a literal; `array(...)` and numpy's scalars become their contents.

    Raises ValueError for other syntax.
    """
    match node:
        case ast.Constant(value=str() as value):
            if len(_STRING.findall(ast.get_source_segment(text, node) or "")) != 1:
                # Python would join the strings of an array that numpy printed without commas.
                raise ValueError("adjacent strings")
            return value
        case ast.Constant(value=bool() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, text) for item in items]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            names = [str(_value(key, text)) for key in keys if key is not None]
            return dict(zip(names, (_value(value, text) for value in values), strict=True))
        case ast.Name(id="nan"):
            return None
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[held, *_]):
            if name == "array" or _NUMPY_SCALAR.fullmatch(name):
                return _value(held, text)
    raise ValueError(f"not a literal: {ast.dump(node)[:80]}")
