"""Gold answers in the shapes that people write, and what of them can't be read."""

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
    Answers,
    Gold,
    Problem,
    is_missing,
    text_of,
)

_YES, _NO = ("true", "1", "1.0", "yes", "t", "y"), ("false", "0", "0.0", "no", "f", "n")
_LIKE_A_LITERAL = re.compile(r"""\s*(?:array\(|\{\s*['"}]|\[\s*(?:['"{\[\]]|array\())""")
_NUMPY_SCALAR = re.compile(r"(?:u?int|float|str|bool)\d*_?")
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'" r'|"(?:[^"\\]|\\.)*"', re.DOTALL)
_BEYOND_STARTS = 2**63


class _UnreadableError(ValueError):
    """Answers of no known shape."""


class _UnequalError(ValueError):
    """Texts and starts that differ in number."""

    def __init__(self, texts: list[Any], starts: list[Any]):
        super().__init__(f"{len(texts)} texts, {len(starts)} starts")
        self.texts, self.starts = texts, starts


def read_answers(answers: Any, start: Any = None, impossible: Any = None) -> Answers:
    """Reads answers of any of these shapes: {"text": [...], "answer_start": [...]}, the same of single values, a list of
    {"text", "answer_start"}, a list of texts, a text; lists of texts and texts have their starts in `start`. Text that is
    JSON of one of these, or a literal of Python or numpy, is read as that. A number is read as the text it is written as.

    impossible  what the row says of being unanswerable: of an unanswerable question, blank answers are placeholders; of one
                that is not, missing ones are missing

    Never raises. Problems: answers_unreadable (an unknown shape), answers_not_utf8, answers_unequal (texts and starts),
    gold_not_text, start_not_whole, is_impossible_unreadable, answers_though_impossible, answers_missing_though_possible.
    """
    try:
        pairs = _pairs(answers, start)
    except _UnequalError as error:
        starts = [
            start if start is None or abs(start) < 2**31 else None
            for start in map(_whole, error.starts)
        ]
        texts = [text_of(text) for text in error.texts]
        return Answers(
            None, [("answers_unequal", str(error))], {"text": texts, "answer_start": starts}
        )
    except _UnreadableError:
        return Answers(
            None,
            [
                ("answers_not_utf8", None)
                if isinstance(answers, NotUTF8)
                else ("answers_unreadable", answers)
            ],
        )
    problems: list[Problem] = []
    flag = _flag(impossible)
    if flag is None and not is_missing(impossible) and impossible != "":
        problems.append(("is_impossible_unreadable", impossible))
    if flag and all(is_missing(text) or not str(text).strip() for text, _ in pairs or []):
        return Answers([])
    if flag:
        problems.append(("answers_though_impossible", answers))
    if flag is False and pairs == []:
        problems.append(("answers_missing_though_possible", answers))
        pairs = None
    return _readable(pairs, problems)


def _readable(pairs: Sequence[tuple[Any, Any]] | None, problems: list[Problem]) -> Answers:
    """The golds that can be read; null if there are some, but none of them can: [] would mean an unanswerable question."""
    golds: list[Gold] = []
    for value, begin in pairs or []:
        text, start = text_of(value), _whole(begin)
        if text is None:
            problems.append(("gold_not_text", value))
        elif start is None and not _is_no_start(begin):
            problems.append(("start_not_whole", begin))
        else:
            golds.append((text, start))
            if text is not value:
                problems.append((NUMBER_AS_TEXT, value))
    return Answers(None if pairs is None or (pairs and not golds) else golds, problems)


def _pairs(answers: Any, start: Any) -> list[tuple[Any, Any]] | None:
    """(text, start) of each gold, as they are; None where nothing is said of answers."""
    if is_missing(answers):
        return None
    if isinstance(answers, str):
        literal = _literal(answers)
        if literal is not None:
            return _pairs(literal, start)
        return [(answers, start)] if answers else []
    if isinstance(answers, dict) and "text" in answers:
        texts, starts = answers["text"], answers.get("answer_start")
        if not isinstance(texts, list):
            return [(texts, starts[0] if isinstance(starts, list) and len(starts) == 1 else starts)]
        return _zipped(texts, starts if starts is None or isinstance(starts, list) else [starts])
    if isinstance(answers, list):
        starts = _literal(start) if isinstance(start, str) else start
        if (
            answers
            and isinstance(starts, list)
            and not any(isinstance(each, dict | list) for each in answers)
        ):
            return _zipped(answers, starts)
        return [
            pair
            for each in answers
            for pair in (_pairs(each, None) or [] if _has_text(each) else [(each, None)])
        ]
    if text_of(answers) is None:
        raise _UnreadableError
    return [(answers, start)]


def _has_text(value: Any) -> bool:
    return isinstance(value, dict) and "text" in value


def _zipped(texts: list[Any], starts: list[Any] | None) -> list[tuple[Any, Any]]:
    if starts is None:
        return [(text, None) for text in texts]
    if len(texts) != len(starts):
        raise _UnequalError(texts, starts)
    return list(zip(texts, starts, strict=True))


def _whole(value: Any) -> int | None:
    """A start as a whole number; None if it is none, or missing."""
    if type(value) is int and abs(value) < _BEYOND_STARTS:  # as almost always, and much faster
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    with suppress(ArithmeticError):
        number = Decimal(str(value).strip())
        if (
            number.is_finite()
            and number.copy_abs() < _BEYOND_STARTS
            and number == number.to_integral_value()
        ):
            return int(number)
    return None


def _is_no_start(value: Any) -> bool:
    return is_missing(value) or (
        isinstance(value, str) and value.strip().lower() in ("", "nan", "none", "null")
    )


def _flag(value: Any) -> bool | None:
    """A boolean, or text or a number that stands for one; None for anything else."""
    if isinstance(value, bool):
        return value
    said = (text_of(value) or "").strip().lower()
    return True if said in _YES else False if said in _NO else None


def _literal(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or dict that a text is JSON of, or a literal of Python or numpy; None for plain text, which may well start
    with a bracket.

    Raises _UnreadableError for what looks like one of them and can't be read: it is no answer.
    """
    if text.lstrip()[:1] not in ("{", "[", "a"):
        return None
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
        raise ValueError("no list and no dict")
    with warnings.catch_warnings(action="ignore"):  # of backslashes in strings
        return _value(ast.parse(text.strip(), mode="eval").body, text.strip())


def _value(node: ast.expr, text: str) -> Any:
    """The value of a literal; `array(...)` and numpy's scalars are what they hold."""
    match node:
        case ast.Constant(value=str() as value):
            if len(_STRING.findall(ast.get_source_segment(text, node) or "")) != 1:
                raise ValueError(
                    "strings side by side, which Python joins: an array without commas"
                )
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
    raise ValueError(f"no literal: {ast.dump(node)[:80]}")
