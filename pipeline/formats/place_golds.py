"""Where golds of other formats stand in their contexts, and a report of those that are not where they should be."""

from __future__ import annotations

import json
from collections import Counter
from typing import IO, Any

from model.audit.golds import gold_problem, locate_gold
from pipeline.formats.read_formats import Gold, ImportedRow

OFFSETS = ("code_points", "utf16", "utf8")
"""What starts may count: code points (Python), UTF-16 code units (JavaScript, Java), bytes of UTF-8."""


def to_code_points(context: str, start: int, unit: str) -> int:
    """A start that counts code points, of one that counts other units; a place inside a character is its own."""
    if unit == "code_points" or start < 0 or context.isascii():
        return start
    if unit == "utf8":
        return len(context.encode("utf-8", "surrogatepass")[:start].decode("utf-8", "ignore"))
    return len(context.encode("utf-16-le", "surrogatepass")[: 2 * start].decode("utf-16-le", "ignore"))


def place_gold(context: str, text: str, start: int | None, unit: str) -> tuple[int | None, str]:
    """The start of a gold in code points, None if it has no place, and what is to be said of it: "" if nothing.

    A gold without a start is looked for (`locate_gold`); one with a start stays where it is said to be, whether that is right
    or a `gold_problem`.
    """
    if start is not None:
        start = to_code_points(context, start, unit)
        problem = gold_problem(context, text, start)
        return start, problem[0] if problem else ""
    return locate_gold(context, text)


def other_unit(context: str, text: str, start: int | None, unit: str) -> str | None:
    """The unit in which a gold that is no code point's start would be right."""
    for other in OFFSETS if start is not None else ():
        if other != unit and gold_problem(context, text, to_code_points(context, start or 0, other)) is None:
            return other
    return None


def place_golds(example: ImportedRow, unit: str, report: IO[str], counts: Counter[str]) -> dict[str, list[Any]] | None:
    """The answers of a row as the contract has them; a line of the report for each gold that is not where it should be.

    Null where the file says nothing of answers, or where it has golds but none that has a place: an empty list would
    say that the question is unanswerable.
    """
    if example.golds is None or not isinstance(example.context, str):
        return None
    placed: list[Gold] = []
    for text, start in example.golds:
        place, problem = place_gold(example.context, text, start, unit)
        counts[problem or "gold_aligned"] += 1
        if place is not None:
            placed.append((text, place))
        if problem and problem != "gold_located":
            fits = other_unit(example.context, text, start, unit)
            counts[f"fits_{fits}"] += fits is not None
            stands = example.context[place : place + len(text)][:200] if place is not None and place >= 0 else None
            line = {
                "id": example.id,
                "reason": problem,
                "gold": text[:200],
                "answer_start": start,
                "found": stands,
                "fits": fits,
            }
            report.write(json.dumps(line, ensure_ascii=False) + "\n")
    if example.golds and not placed:
        counts["rows_without_placed_golds"] += 1
        return None
    return {"text": [text for text, _ in placed], "answer_start": [place for _, place in placed]}
