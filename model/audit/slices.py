"""Slices: the groups of examples, by question, answer and passage, that figures are given for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pyarrow as pa

MOST_SLICES = 100
OTHER = "(other)"
"""A slice has at most so many values; the rest are this one."""

SLICES = ("question_word", "answerable", "answer_characters", "context_tokens", "num_windows", "answer_position")
"""The slices that every audit has."""

_QUESTION_WORD = re.compile(r"\b(?:what|who|when|where|why|which|how\s+many|how\s+much|how)\b")


def question_word(question: str) -> str:
    """The English question word that stands first in a question, else "other"."""
    found = _QUESTION_WORD.search(question.lower())
    return " ".join(found[0].split()) if found else "other"


def bounded(value: float, bounds: Iterable[int]) -> str:
    """The half-open range of `bounds` that a value falls into, as text that sorts in order: "00128-00255"."""
    low = 0
    for bound in bounds:
        if value < bound:
            return f"{low:05d}-{bound - 1:05d}"
        low = bound
    return f"{low:05d}+"


def slice_labels(audit: pa.Table, questions: Sequence[str | None]) -> dict[str, list[str]]:
    """The value of every row in every slice that all audits have; `questions` may hold None for rejected rows."""

    def numbers(name: str) -> list[int]:
        return audit.column(name).fill_null(0).to_pylist()

    golds, starts, ends = numbers("golds"), numbers("gold_start"), numbers("gold_end")
    places = list(zip(golds, starts, ends, numbers("context_characters"), strict=True))
    return {
        "question_word": [question_word(question or "") for question in questions],
        "answerable": ["yes" if gold else "no" for gold in golds],
        "answer_characters": [bounded(e - s, (5, 10, 20, 40, 80)) if gold else "none" for gold, s, e, _ in places],
        "context_tokens": [bounded(n, (128, 256, 384, 1024, 4096, 16384)) for n in numbers("num_tokens")],
        "num_windows": [bounded(n, (2, 5, 17, 65)) for n in numbers("num_windows")],
        "answer_position": [f"{int(5 * s / max(n, 1)) + 1} of 5" if gold else "none" for gold, s, _, n in places],
    }


def given_labels(values: Sequence[object]) -> list[str]:
    """The values of a column of `--slice_by` as they name slices."""
    return ["(null)" if value is None else str(value)[:80] for value in values]
