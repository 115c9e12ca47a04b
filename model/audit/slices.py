"""Slices: groups of examples for which the audit reports separate figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pyarrow as pa

MOST_SLICES = 100
OTHER = "(other)"
"""A slice has at most `MOST_SLICES` values; further ones are counted as `OTHER`."""

SLICES = (
    "question_word",
    "answerable",
    "answer_characters",
    "context_tokens",
    "num_windows",
    "answer_position",
)
"""The slices of every audit; `--slice_by` adds more."""

_QUESTION_WORD = re.compile(r"\b(?:what|who|when|where|why|which|how\s+many|how\s+much|how)\b")


def question_word(question: str) -> str:
    """Return the first English question word in a question, "other" if there is none."""
    match = _QUESTION_WORD.search(question.lower())
    return " ".join(match[0].split()) if match else "other"


def bounded(value: float, bounds: Iterable[int]) -> str:
    """Return the range of `bounds` that a value is in, as text that sorts in order: "00128-00255".

    `bounds` are ascending; the lower bound belongs to the range.
    """
    low = 0
    for bound in bounds:
        if value < bound:
            return f"{low:05d}-{bound - 1:05d}"
        low = bound
    return f"{low:05d}+"


def slice_labels(audit: pa.Table, questions: Sequence[str | None]) -> dict[str, list[str]]:
    """Return the value of every row in each of `SLICES`: slice -> [rows].

    audit      the audit's columns, one row per example
    questions  [rows]; None is allowed for rejected rows
    """

    def numbers(name: str) -> list[int]:
        return audit.column(name).fill_null(0).to_pylist()

    golds, starts, ends = numbers("golds"), numbers("gold_start"), numbers("gold_end")
    extents = list(zip(golds, starts, ends, numbers("context_characters"), strict=True))
    return {
        "question_word": [question_word(question or "") for question in questions],
        "answerable": ["yes" if gold else "no" for gold in golds],
        "answer_characters": [
            bounded(e - s, (5, 10, 20, 40, 80)) if gold else "none" for gold, s, e, _ in extents
        ],
        "context_tokens": [
            bounded(n, (128, 256, 384, 1024, 4096, 16384)) for n in numbers("num_tokens")
        ],
        "num_windows": [bounded(n, (2, 5, 17, 65)) for n in numbers("num_windows")],
        "answer_position": [
            f"{int(5 * s / max(n, 1)) + 1} of 5" if gold else "none" for gold, s, _, n in extents
        ],
    }


def given_labels(values: Sequence[object]) -> list[str]:
    """Return a `--slice_by` column's values as text of at most 80 characters; "(null)" for None."""
    return ["(null)" if value is None else str(value)[:80] for value in values]
