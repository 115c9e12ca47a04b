"""Rows with golds of all kinds, options to audit them with, and functions to reopen the output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.runs import examples

ROWS = 66
STATUSES = ("scored", "null_scored", "unreachable", "rejected")

WINDOWS = ("--max_length=64", "--max_question=16", "--max_answer_length=8", "--overlap=10")
"""Contexts need one window or more."""

OPTIONS = (
    *WINDOWS,
    "--null_score_diff_threshold=-11",  # the untrained checkpoint sometimes predicts no answer
    "--chunk_rows=7",  # divides no row group
    "--worst=9",
    "--slice_by=source",
)

ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])

Audit = Callable[..., int]
Json = dict[str, Any]


def golds_of(number: int, context: str) -> tuple[Any, str | None]:
    """Return the answers of a row, eleven kinds in turn, and the reason of a rejected one."""

    def places(*pairs: tuple[str, int]) -> Json:
        return {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}

    ada = "Ada", context.index("Ada")
    malformed = [
        (None, "answers_missing"),
        ({"text": None, "answer_start": [1]}, "answers_missing"),
        ({"text": ["Ada", None], "answer_start": [1, 2]}, "answers_with_nulls"),
        ({"text": ["Ada"], "answer_start": [1, 2]}, "answers_unequal"),
        (places(("", 3)), "gold_blank"),
        (places(("Ada", -3)), "gold_out_of_range"),
        (places(("Ada", len(context) - 1)), "gold_out_of_range"),
    ]
    kinds = [
        (places(ada), None),
        (places(ada, ("keeper Ada", ada[1] - 7), ada), None),
        (places(("🌊", context.index("🌊"))), None),
        (places(), None),
        (places(("Ada", ada[1] + 1)), "gold_misaligned"),
        (places(("Ada", 0), ("lit", context.index("lit"))), None),  # one of two is misaligned
        malformed[number // 11 % len(malformed)],
        (
            places((context, 0)),
            None,
        ),  # longer than max_answer_length, where not longer than a window
        (places(("灯台", context.index("灯台"))), None),
        (places(ada), "question_missing"),
        (places(("keeper", ada[1] - 7)), None),
    ]
    return kinds[number % 11]


def gold_examples(count: int, first: int = 0) -> pa.Table:
    """Make rows of all kinds, with contexts of two lengths and a column to slice by."""
    table = examples(count, first)
    numbers = range(first, first + count)
    contexts = [
        text + (" It was a long, long night of wind." * 4 if n % 4 else "")
        for n, text in zip(numbers, table["context"].to_pylist(), strict=True)
    ]
    words = ("Who kept", "When was", "How many oars had", "Name")
    kinds = [golds_of(n, context) for n, context in zip(numbers, contexts, strict=True)]
    questions = [
        None if reason == "question_missing" else f"{words[n % 4]} lamp {n}?"
        for n, (_, reason) in zip(numbers, kinds, strict=True)
    ]
    return pa.table(
        {
            "id": table["id"],
            "source": [None if n % 13 == 0 else f"book {n % 3}" for n in numbers],
            "question": pa.array(questions, pa.string()),
            "context": contexts,
            "answers": pa.array([answers for answers, _ in kinds], ANSWERS),
            "why": pa.array([reason for _, reason in kinds], pa.string()),
        }
    )


def report(output: Path) -> Json:
    """Return audit.json, which must be JSON without NaN or infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in audit.json")

    return json.loads((output / "audit.json").read_text("utf-8"), parse_constant=refuse)
