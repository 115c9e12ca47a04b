"""Columns: texts out of Arrow columns, and decoded answers into Arrow columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from model.reading.spans import PassageSpans
from model.reading.tokenizer import consecutive
from model.reading.windows import Windows

N_BEST_TYPE = pa.list_(
    pa.struct(
        [
            pa.field("text", pa.string()),
            pa.field("start", pa.int32()),
            pa.field("end", pa.int32()),
            pa.field("probability", pa.float32()),
            pa.field("start_logit", pa.float32()),
            pa.field("end_logit", pa.float32()),
            pa.field("window_index", pa.int32()),
        ]
    )
)

ANSWER_SCHEMA = pa.schema(
    [
        pa.field("answer_text", pa.string()),
        pa.field("answer_start", pa.int32()),
        pa.field("answer_end", pa.int32()),
        pa.field("probability", pa.float32()),
        pa.field("null_probability", pa.float32()),
        pa.field("span_score", pa.float32()),
        pa.field("null_score", pa.float32()),
        pa.field("window_index", pa.int32()),
        pa.field("num_windows", pa.int32()),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("n_best", N_BEST_TYPE),
        pa.field("question_tokens_cut", pa.int32()),
    ]
)
"""The output columns of annotate, in order. Offsets are code points; `end` is exclusive."""


def read_texts(column: pa.ChunkedArray) -> tuple[list[str], dict[int, str]]:
    """The texts of a column, and the place and reason of those that are none: "missing", "not_utf8" or "blank".

    Unusable texts are "" in the list.
    """
    return usable_texts(each_value(column))


def usable_texts(values: Sequence[Any]) -> tuple[list[str], dict[int, str]]:
    """The same of values that left their column: text, None or `NotUTF8`."""
    problems = {}
    for row, value in enumerate(values):
        if value is None:
            problems[row] = "missing"
        elif isinstance(value, NotUTF8):
            problems[row] = "not_utf8"
        elif not value or value.isspace():
            problems[row] = "blank"
    return ["" if row in problems else value for row, value in enumerate(values)], problems


def each_value(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values of a column, None for null; one that is no UTF-8 is a `NotUTF8` and spoils no other."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


class NotUTF8:
    """Stands for a value with text that is no UTF-8."""


def is_utf8(value: Any) -> bool:
    """Whether all text in a value can be encoded: half a surrogate pair can't."""
    match value:
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                return False
        case list():
            return all(map(is_utf8, value))
        case dict():
            return all(map(is_utf8, (*value, *value.values())))
    return True


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return NotUTF8()


def as_texts(column: pa.Array | pa.ChunkedArray) -> list[str | None]:
    """Values of any type as text, to be shown or told apart; None for null, and for one that is no UTF-8."""
    return [
        None if value is None or isinstance(value, NotUTF8) else str(value)
        for value in each_value(column)
    ]


def candidate_columns(
    spans: PassageSpans, windows: Windows, contexts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
    """Characters of every candidate: start, end int32 [pairs, n_best] in code points, and the texts of those found."""
    base = windows.passages.bounds[windows.pair_passage][:, None]
    last = max(0, len(windows.passages.ids) - 1)
    start = np.zeros(spans.start.shape, np.int32)
    end = np.zeros(spans.end.shape, np.int32)
    if len(windows.passages.ids):
        start = windows.passages.char_start[np.minimum(base + spans.start, last)]
        end = windows.passages.char_end[np.minimum(base + spans.end, last)]
    texts = []
    for pair, passage in enumerate(windows.pair_passage):
        context = contexts[passage]
        bounds = zip(
            start[pair, : spans.found[pair]].tolist(),
            end[pair, : spans.found[pair]].tolist(),
            strict=True,
        )
        texts.append([context[begin:stop] for begin, stop in bounds])
    return start, end, texts


def answer_columns(
    spans: PassageSpans,
    windows: Windows,
    contexts: Sequence[str],
    row_pair: np.ndarray,
    reasons: Sequence[str | None],
    questions_cut: np.ndarray,
    no_answer: np.ndarray,
) -> pa.Table:
    """The output columns of annotate, one row per input row.

    row_pair  int64 [rows], the pair that each row asks; -1 with a reason for a rejected row
    reasons   [rows], None unless the row is rejected
    no_answer bool [pairs], whether the null option wins
    """
    char_start, char_end, texts = candidate_columns(spans, windows, contexts)
    rejected = np.array([reason is not None for reason in reasons], bool)
    pair = np.where(rejected, 0, row_pair)
    if not len(windows.pair_passage):  # nothing but rejected rows: there is no pair to point at
        return pa.table(
            {
                **{field.name: pa.nulls(len(row_pair), field.type) for field in ANSWER_SCHEMA},
                "status": pa.array(["rejected"] * len(row_pair), pa.string()),
                "reason": pa.array(list(reasons), pa.string()),
            },
            schema=ANSWER_SCHEMA,
        )
    null = no_answer[pair] & ~rejected
    hidden = rejected | null

    def column(values: np.ndarray, dtype: type[np.generic], mask: np.ndarray) -> pa.Array:
        return pa.array(values.astype(dtype), mask=mask)

    best_text = [
        texts[p][0] if not hide else None
        for p, hide in zip(pair.tolist(), hidden.tolist(), strict=True)
    ]
    status = np.where(rejected, "rejected", np.where(null, "no_answer", "answered"))
    null_off = rejected | np.isnan(spans.null_score[pair])
    columns = {
        "answer_text": pa.array(best_text, pa.string()),
        "answer_start": column(char_start[pair, 0], np.int32, hidden),
        "answer_end": column(char_end[pair, 0], np.int32, hidden),
        "probability": column(spans.probability[pair, 0], np.float32, rejected),
        "null_probability": column(spans.null_probability[pair], np.float32, null_off),
        "span_score": column(spans.span_score[pair, 0], np.float32, rejected),
        "null_score": column(spans.null_score[pair], np.float32, null_off),
        "window_index": column(spans.window_index[pair, 0], np.int32, rejected),
        "num_windows": column(windows.counts[pair], np.int32, rejected),
        "status": pa.array(status.tolist(), pa.string()),
        "reason": pa.array(list(reasons), pa.string()),
        "n_best": _n_best(spans, char_start, char_end, texts, pair, rejected),
        "question_tokens_cut": column(questions_cut[pair], np.int32, rejected),
    }
    return pa.table(columns, schema=ANSWER_SCHEMA)


def _n_best(
    spans: PassageSpans,
    char_start: np.ndarray,
    char_end: np.ndarray,
    texts: list[list[str]],
    pair: np.ndarray,
    rejected: np.ndarray,
) -> pa.Array:
    """The candidates of each row as one list<struct> column; null for a rejected row."""
    counts = np.where(rejected, 0, spans.found[pair])
    row = np.repeat(np.arange(len(pair)), counts)
    at = pair[row], consecutive(0, counts)
    values = [
        pa.array(
            [
                text
                for p, n in zip(pair.tolist(), counts.tolist(), strict=True)
                for text in texts[p][:n]
            ],
            pa.string(),
        ),
        *(pa.array(array[at].astype(np.int32)) for array in (char_start, char_end)),
        *(
            pa.array(array[at].astype(np.float32))
            for array in (spans.probability, spans.start_logit, spans.end_logit)
        ),
        pa.array(spans.window_index[at].astype(np.int32)),
    ]
    items = pa.StructArray.from_arrays(values, fields=list(N_BEST_TYPE.value_type))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), items, type=N_BEST_TYPE, mask=pa.array(rejected)
    )
