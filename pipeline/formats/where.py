"""A condition of --where is a Python expression on columns, which becomes an Arrow filter.

    nll > 8 and status == "scored"       0.2 < probability < 0.5
    source in ("law", "history")         reason is not None
    "river" in question                  len(context) > 5000
    not exact_match == 1                 lower(answer_text) == "ada"
    col("a name with spaces") != 0

It is parsed, never executed. A comparison with null is neither true nor false and omits the row.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_CALCULATE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_WORDS = {"true": True, "false": False, "null": None}


class WhereError(ValueError):
    """A condition is invalid for these columns; the message quotes the part that is."""


def parse_where(text: str, schema: pa.Schema) -> pc.Expression:
    """Return the condition as an Arrow expression.

    A condition may have literals, columns, comparisons (also chained), `in`, `is None`, `and`,
    `or`, `not`, + - * /, `len` (of texts and lists), `lower` and `col`. Raises WhereError for
    anything else, for a missing column, and for types that do not fit.
    """
    if not text.strip():
        raise WhereError(f"{text!r} is not a condition: it is empty")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise WhereError(f"{text!r} is not a condition: {error}") from error
    try:
        condition = _Condition(text.strip(), schema).of(tree.body)
        # Filtering an empty table finds errors of types before any row is read.
        schema.empty_table().filter(condition)
    except (pa.ArrowException, TypeError, OverflowError, RecursionError) as error:
        raise WhereError(f"{text!r}: {error}") from error
    return condition


class _Condition:
    """Translates the syntax tree of one condition to Arrow."""

    def __init__(self, text: str, schema: pa.Schema):
        self.text, self.schema = text, schema

    def wrong(self, node: ast.AST, message: str) -> WhereError:
        """Make an error that quotes a part of the condition."""
        return WhereError(
            f"{ast.get_source_segment(self.text, node)!r} in {self.text!r}: {message}"
        )

    def of(self, node: ast.expr) -> pc.Expression:
        """Translate any expression."""
        match node:
            case ast.BoolOp(op=op, values=values):
                return reduce(
                    operator.and_ if isinstance(op, ast.And) else operator.or_, map(self.of, values)
                )
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.of(operand)
            case ast.Compare(left=left, ops=ops, comparators=rights):
                # `a < b < c` is a conjunction of neighbours, as in Python.
                sides = zip([left, *rights], ops, rights, strict=False)
                return reduce(operator.and_, [self.compare(node, *side) for side in sides])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _CALCULATE:
                return _CALCULATE[type(op)](self.of(left), self.of(right))
            case ast.Name(id=name) if name not in _WORDS or name in self.schema.names:
                return self.column(node, name)
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
                return self.call(node, name, argument)
        return pc.scalar(self.literal(node))

    def compare(
        self, node: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr
    ) -> pc.Expression:
        """Translate one comparison of a chain; `node` is the whole chain, for messages."""
        if type(op) in _COMPARE:
            # Arrow's comparison with null is null for all rows, which nobody means.
            if any(self.is_null(side) for side in (left, right)):
                raise self.wrong(
                    node, "null compares with nothing, write `is None` or `is not None`"
                )
            return _COMPARE[type(op)](self.of(left), self.of(right))
        if isinstance(op, ast.Is | ast.IsNot):
            if not self.is_null(right):
                raise self.wrong(node, "`is` needs None on its right")
            return self.of(left).is_null() if isinstance(op, ast.Is) else self.of(left).is_valid()
        if isinstance(right, ast.Tuple | ast.List | ast.Set):
            contained = self.of(left).isin([self.literal(each) for each in right.elts])
        else:
            text = self.literal(left)
            if not isinstance(text, str):
                raise self.wrong(node, "`in COLUMN` needs a text on its left")
            contained = pc.match_substring(self.text_of(right), text)
        return ~contained if isinstance(op, ast.NotIn) else contained

    def call(self, node: ast.expr, name: str, argument: ast.expr) -> pc.Expression:
        """Translate a call of a function with one argument."""
        match name:
            case "col":
                return self.column(node, self.literal(argument))
            case "lower":
                return pc.utf8_lower(self.text_of(argument))
            case "len" if pa.types.is_list(self.kind(argument)):
                return pc.list_value_length(self.of(argument))
            case "len":
                return pc.utf8_length(self.text_of(argument))
        raise self.wrong(node, "the functions are len, lower and col")

    def kind(self, node: ast.expr) -> pa.DataType:
        """Return the type of a column; null for any other expression."""
        match node:
            case (
                ast.Name(id=name)
                | ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=name)])
            ):
                return self.schema.field(name).type if name in self.schema.names else pa.null()
        return pa.null()

    def text_of(self, node: ast.expr) -> pc.Expression:
        """Translate an operand of a text function; these do not take dictionaries."""
        expression, kind = self.of(node), self.kind(node)
        return expression.cast(kind.value_type) if pa.types.is_dictionary(kind) else expression

    def is_null(self, node: ast.expr) -> bool:
        """Return whether an expression is None, or `null` where no column has this name."""
        match node:
            case ast.Constant(value=None):
                return True
            case ast.Name(id="null"):
                return "null" not in self.schema.names
        return False

    def column(self, node: ast.expr, name: Any) -> pc.Expression:
        """Translate a column. Raises WhereError, with a hint, if there is none of this name."""
        if name not in self.schema.names:
            names = {each.lower(): each for each in self.schema.names}
            nearest = difflib.get_close_matches(str(name).lower(), names, 1, cutoff=0.5)
            hint = f"the columns are {', '.join(self.schema.names)}"
            if nearest:
                hint = f"did you mean {names[nearest[0]]}?"
            raise self.wrong(node, f"no such column, {hint}")
        return pc.field(name)

    def literal(self, node: ast.expr) -> Any:
        """Return the value of a literal. Raises WhereError for any other expression."""
        match node:
            case ast.Constant(value=str() | int() | float() | None as value):
                return value
            case ast.Name(id=name) if name in _WORDS:
                return _WORDS[name]
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
        raise self.wrong(node, "neither a column nor a number, a text, true, false or null")
