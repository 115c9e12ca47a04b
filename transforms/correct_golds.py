"""CorrectGolds: golds that people have corrected take the place of the original ones, by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa

from model.audit.golds import locate_gold
from model.reading.texts import as_texts, read_texts
from transforms.chunk_step import ChunkStep
from transforms.records import Chunk, Correction, row_ids

_WHERE = {
    "gold_absent": "does not stand in the context",
    "gold_ambiguous": "stands in the context more than once, and the correction gives no start",
    "gold_inside_word": "stands only inside longer words of the context, and the correction gives no start",
}


def correct_golds(
    chunk: Chunk[None],
    corrections: Mapping[str, Correction],
    id_column: str,
    context: str,
    answers: str,
) -> Chunk[None]:
    """The chunk with corrected golds in the column `answers`, and the ids of the rows that have them.

    A corrected text without a start is `unplaced` (and its row will be rejected) where it stands nowhere, more than once, or
    only inside longer words: gold_absent, gold_ambiguous, gold_inside_word.
    """
    ids = as_texts(row_ids(chunk, id_column))
    rows = [row for row, row_id in enumerate(ids) if row_id in corrections]
    if not rows:
        return chunk
    table = chunk.table
    contexts, _ = read_texts(table.column(context))
    golds: dict[int, Any] = {}
    place = table.column_names.index(answers)
    kind = table.schema.field(place).type
    unplaced: dict[int, tuple[str, str]] = {}
    for row in rows:
        golds[row] = {"text": [], "answer_start": []}
        for text, start, end in corrections[str(ids[row])]:
            if text is None:
                text = contexts[row][start:end]
            elif start is None:
                start, found = locate_gold(contexts[row], text)
                if start is None:
                    unplaced[row] = found, f"the corrected text {text[:80]!r} {_WHERE[found]}"
            golds[row]["text"].append(text)
            golds[row]["answer_start"].append(start)
    values = [golds[row] if pa.types.is_struct(kind) else _gold_by_gold(golds[row]) for row in rows]
    changed = pa.chunked_array([pa.array(values, kind)])
    column = pa.chunked_array([*table.column(place).chunks, *changed.chunks], kind)
    order = list(range(table.num_rows))
    for number, row in enumerate(rows):
        order[row] = table.num_rows + number
    table = table.set_column(place, table.schema.field(place), column.take(pa.array(order)))
    return replace(
        chunk, table=table, corrected=tuple(str(ids[row]) for row in rows), unplaced=unplaced
    )


def _gold_by_gold(answers: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Lists of texts and starts as a column of list<struct<text, answer_start>> has them."""
    return [
        {"text": text, "answer_start": start}
        for text, start in zip(answers["text"], answers["answer_start"], strict=True)
    ]


@dataclass
class CorrectGolds(ChunkStep[Chunk[None], Chunk[None]]):
    """Chunk -> Chunk with corrected golds."""

    stage: ClassVar[str] = "audit"

    corrections: Mapping[str, Correction]
    id: str
    context: str
    answers: str

    def apply(self, chunk: Chunk[None]) -> Iterator[Chunk[None]]:
        if chunk.wants("audit"):
            chunk = correct_golds(chunk, self.corrections, self.id, self.context, self.answers)
        yield chunk
