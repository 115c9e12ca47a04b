"""The first pass over a file: which columns it has, of which types, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.formats.imported_rows import (
    NUMBER_AS_TEXT,
    FormatError,
    ImportedRow,
    row_problem,
)

ANSWERS_TYPE = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])

ENCODING_HINT = (
    ": if the file is in another encoding, --encoding=cp1252 (or latin-1, shift_jis, ...) reads it"
)
"""Follows a message about text that is not UTF-8."""

_DOCUMENTS_HINT = ", --documents imports rows without questions, for annotate --questions"

CONTRACT = ("id", "question", "context", "answers")
"""The columns of the input contract, which no other column may be called."""

_NOT_OF_ANSWERS = ("question_not_text", "context_not_text", NUMBER_AS_TEXT)
"""Reasons of problems with other columns than the answers."""

ROWS_AT_ONCE, CHARACTERS_AT_ONCE = 1024, 2**24


def batches(rows: Iterator[ImportedRow]) -> Iterator[list[ImportedRow]]:
    """Yield consecutive rows in lists, bounded in rows and in characters of their contexts."""
    batch: list[ImportedRow] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.context) if isinstance(row.context, str) else 0
        if len(batch) == ROWS_AT_ONCE or characters > CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@dataclass
class Survey:
    """What the first pass over a file finds out.

    kinds      types of the columns apart from the contract's; None where only text holds all values
    rows       number of rows that Parquet can hold
    asked      how many of these have text as their question, and as their context
    ids        whether any row has an id
    answers    whether any row has answers, even unreadable ones
    first      the first problem with a question, a context or a whole row, and where it is
    documents  whether rows are documents, which need no questions
    names      of the columns to write in place of CONTRACT's; those that no row has are left out,
               and columns of nulls get no type, so that those of other files fit them.
               None: the contract's, all of them but the id; only the context of documents
    """

    kinds: dict[str, pa.DataType | None] = field(default_factory=dict)
    rows: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    ids: bool = False
    answers: bool = False
    first: str = ""
    documents: bool = False
    names: tuple[str, ...] | None = None

    def add(self, rows: Sequence[ImportedRow]) -> None:
        """Add consecutive rows.

        Raises FormatError for another column that has the name of a column of the contract.
        """
        # Only rows that are written count for the types.
        kept = [row for row in rows if not self._leave_out(row)]
        for name in dict.fromkeys(name for row in kept for name in row.others):
            if name in (self.names or CONTRACT):
                raise FormatError(
                    f"column {name!r} clashes with the column chosen as {name}; "
                    f"--drop_columns={name} leaves it out"
                )
            self._add_column(name, [row.others.get(name) for row in kept])
        self.rows += len(kept)
        for row in kept:
            self.asked["question"] += isinstance(row.question, str)
            self.asked["context"] += isinstance(row.context, str)
            self.ids = self.ids or row.id is not None
            unread = any(reason not in _NOT_OF_ANSWERS for reason, _ in row.problems)
            self.answers = self.answers or row.golds is not None or unread

    def check(self) -> None:
        """Raise FormatError for a file without rows, or without text as questions or contexts."""
        if not self.rows:
            raise FormatError(
                "it has no row that Parquet can hold" + (f"; {self.first}" if self.first else "")
            )
        for name in ("context",) if self.documents else ("question", "context"):
            if not self.asked[name]:
                columns = ", ".join(map(repr, self.kinds)) or "none"
                reason = f"the other columns are {columns}"
                if f"{name}_not_text" in self.first:
                    reason = self.first
                raise FormatError(
                    f"no row has text as its {name} ({reason}): "
                    f"--{name}_column=NAME names the column that holds it"
                    + (_DOCUMENTS_HINT if name == "question" else "")
                )

    def schema(self) -> pa.Schema:
        """Return the columns of the contract, then the others."""
        fields: list[tuple[str, pa.DataType]] = []
        for column, name in self.written().items():
            fields.append((name, ANSWERS_TYPE if column == "answers" else pa.string()))
        for name, kind in self.kinds.items():
            as_text = kind is None or (pa.types.is_null(kind) and not self.names)
            fields.append((name, pa.string() if as_text else kind))
        return pa.schema(fields)

    def written(self) -> dict[str, str]:
        """Return the columns of the contract that are written, with the names they get."""
        if self.names:
            asked, answered = bool(self.asked["question"]), self.answers
        else:
            asked = answered = not self.documents
        held = {"id": self.ids, "question": asked, "context": True, "answers": answered}
        names = dict(zip(CONTRACT, self.names or CONTRACT, strict=True))
        return {column: names[column] for column in CONTRACT if held[column]}

    def _leave_out(self, row: ImportedRow) -> bool:
        """Return whether Parquet can't hold a row; note the first problem of the file."""
        problem = row_problem(row)
        for reason, value in row.problems:
            severe = row.unreadable or reason in ("question_not_text", "context_not_text")
            if severe and not self.first:
                self.first = f"{row.where}: {reason}, but {type(value).__name__}: {str(value)[:80]}"
        if problem and not self.first:
            hint = ENCODING_HINT if problem.endswith("_not_utf8") else ""
            self.first = f"{row.where}: {problem}{hint}"
        return bool(problem)

    def _add_column(self, name: str, values: list[Any]) -> None:
        """Widen the type of a column so that it holds these values too."""
        known = self.kinds.get(name, pa.null())
        if known is None:
            return
        try:
            # Arrow merges the types of both batches, for example integers and floats.
            both = [pa.schema([(name, kind)]) for kind in (known, array_of(values).type)]
            merged = pa.unify_schemas(both, promote_options="permissive").field(name).type
            self.kinds[name] = merged if _has_columns(merged) else None
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            self.kinds[name] = None


def array_of(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    """Return values as one array; values that come from Parquet are themselves arrays of length 1.

    Raises ArrowException, ValueError, TypeError or OverflowError for values of no common type.
    """
    held = next((value for value in values if isinstance(value, pa.Array)), None)
    if held is None:
        return pa.array(values, kind)
    return pa.concat_arrays(
        [pa.nulls(1, held.type) if value is None else value for value in values]
    )


def _has_columns(kind: pa.DataType) -> bool:
    """Return whether Parquet can store a type: it has no column for a struct without fields."""
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return not (pa.types.is_struct(kind) and not inner) and all(map(_has_columns, inner))
