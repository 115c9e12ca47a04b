"""CorrectGolds: replaces golds by the ones that people have corrected, by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa

from model.audit.golds import locate_gold
from model.reading.texts import as_texts, read_texts
from transforms.chunk_step import ChunkStep
from transforms.records import Chunk, Correction, row_ids
from transforms.relabel import without_blanks

_WHY_UNPLACED = {
    "gold_absent": "does not occur in the context",
    "gold_ambiguous": "occurs in the context more than once, and the correction gives no start",
    "gold_inside_word": "occurs only inside longer words of the context, and the correction gives "
    "no start",
}
"""What the reasons of a gold without a start mean."""


def correct_golds(
    chunk: Chunk[None],
    corrections: Mapping[str, Correction],
    id_column: str,
    context: str,
    answers: str,
) -> Chunk[None]:
    """Return the chunk with corrected golds in the column `answers`, and the ids of their rows.

    A corrected text without a start is located in the context. If it occurs nowhere, more than
    once, or only inside longer words, its row is `unplaced`, and will be rejected with the reason
    gold_absent, gold_ambiguous or gold_inside_word. If another text than the judged one is at a
    span, because the context has changed since, the gold keeps the judged text, and so counts as
    misaligned. A span beyond the context whose text is unknown is `unplaced` as gold_out_of_range.
    """
    ids = as_texts(row_ids(chunk, id_column))
    rows = [row for row, row_id in enumerate(ids) if row_id in corrections]
    # Most chunks have no corrected row, and pass unchanged.
    if not rows:
        return chunk
    table = chunk.table
    contexts, _ = read_texts(table.column(context))
    golds: dict[int, dict[str, list[Any]]] = {}
    unplaced: dict[int, tuple[str, str]] = {}
    for row in rows:
        golds[row] = {"text": [], "answer_start": []}
        for text, start, end in corrections[str(ids[row])]:
            if end is not None:
                there = contexts[row][start:end]
                if text is None and end > len(contexts[row]):
                    why = f"[{start}, {end}) of a context of {len(contexts[row])} characters"
                    unplaced[row] = "gold_out_of_range", f"corrected gold at {why}"
                    text, start = there, None
                # Spreadsheets and Label Studio change the ends of lines.
                elif text is None or without_blanks(text) == without_blanks(there):
                    text = there
            elif text is not None and start is None:
                start, reason = locate_gold(contexts[row], text)
                # The gold stays, without a start: MakeWindows rejects the row with this reason.
                if start is None:
                    why = f"the corrected text {text[:80]!r} {_WHY_UNPLACED[reason]}"
                    unplaced[row] = reason, why
            golds[row]["text"].append(text)
            golds[row]["answer_start"].append(start)
    return replace(
        chunk,
        table=_with_golds(table, answers, golds),
        corrected=tuple(str(ids[row]) for row in rows),
        unplaced=unplaced,
    )


def _with_golds(
    table: pa.Table, answers: str, golds: Mapping[int, Mapping[str, list[Any]]]
) -> pa.Table:
    """Return a table with other golds in some rows, in the type of the column `answers`."""
    index = table.column_names.index(answers)
    field = table.schema.field(index)
    is_struct = pa.types.is_struct(field.type)
    values = [each if is_struct else _gold_by_gold(each) for each in golds.values()]
    # Arrow's arrays are immutable: append the new values, then take each row's old or new one.
    changed = pa.chunked_array([pa.array(values, field.type)])
    column = pa.chunked_array([*table.column(index).chunks, *changed.chunks], field.type)
    order = list(range(table.num_rows))
    for number, row in enumerate(golds):
        order[row] = table.num_rows + number
    return table.set_column(index, field, column.take(pa.array(order)))


def _gold_by_gold(answers: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return golds as a value of list<struct<text, answer_start>>."""
    return [
        {"text": text, "answer_start": start}
        for text, start in zip(answers["text"], answers["answer_start"], strict=True)
    ]


@dataclass
class CorrectGolds(ChunkStep[Chunk[None], Chunk[None]]):
    """Chunk -> Chunk with corrected golds.

    corrections           by id
    id, context, answers  names of columns
    """

    stage: ClassVar[str] = "audit"

    corrections: Mapping[str, Correction]
    id: str
    context: str
    answers: str

    def apply(self, chunk: Chunk[None]) -> Iterator[Chunk[None]]:
        if chunk.wants("audit"):
            chunk = correct_golds(chunk, self.corrections, self.id, self.context, self.answers)
        yield chunk
