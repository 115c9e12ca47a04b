"""Place imported golds in their contexts, and report those that are not where they should be."""

from __future__ import annotations

import json
from collections import Counter
from typing import IO, Any

from model.audit.golds import differs_only_in, gold_problem, locate_gold
from pipeline.formats.imported_rows import NUMBER_AS_TEXT, Gold, ImportedRow

START_UNITS = {
    "code_points": "count code points",
    "utf16": "count utf16",
    "utf8": "count utf8",
    "from_one": "count from 1",
    "crlf_as_one": "count \\r\\n as one",
}
"""What starts may count -> its wording in messages.

code_points  code points from 0, as in Python
utf16        UTF-16 code units, as in JavaScript and Java
utf8         bytes of UTF-8
from_one     code points from 1
crlf_as_one  code points of a text in which each line end was one character
"""


def to_code_points(context: str, start: int, unit: str) -> int:
    """Convert a start in another unit to code points from 0.

    A start inside a character becomes the start of that character.
    """
    if unit == "from_one":
        return start - 1
    if unit == "code_points" or start < 0:
        return start
    if unit == "crlf_as_one":
        # Each line end before the start counted as one character: the start moves by one for it.
        end = context.find("\r\n")
        while 0 <= end < start:
            start, end = start + 1, context.find("\r\n", end + 2)
        return start
    before = context[:start]  # at least `start` units: a code point has one or more
    if before.isascii():
        return start
    if unit == "utf8":
        return len(before.encode("utf-8", "surrogatepass")[:start].decode("utf-8", "ignore"))
    return len(
        before.encode("utf-16-le", "surrogatepass")[: 2 * start].decode("utf-16-le", "ignore")
    )


def place_gold(context: str, text: str, start: int | None, unit: str) -> tuple[int | None, str]:
    """Return a gold's start in code points, None if it can't be placed, and its problem or "".

    A gold without a start is located by its text (`locate_gold`), and so is one with the start -1,
    which programs write for a missing one. A gold with a start keeps it, even if it has a
    `gold_problem`.
    """
    if start == -1 and text.strip():
        start = None
    if start is not None:
        start = to_code_points(context, start, unit)
        problem = gold_problem(context, text, start)
        return start if abs(start) < 2**31 else None, problem[0] if problem else ""
    return locate_gold(context, text)


def fitting_units(context: str, text: str, start: int | None, unit: str) -> list[str]:
    """Return the other units in which a gold's start would be right."""
    if start is None or start < 0:
        return []
    fitting = []
    for other in START_UNITS:
        if other != unit:
            converted = to_code_points(context, start, other)
            if gold_problem(context, text, converted) is None:
                fitting.append(other)
    return fitting


def nearest(context: str, text: str, start: int | None) -> int | None:
    """Return the start, in code points, of the occurrence of a text that is nearest to `start`.

    If the text does not occur, case is ignored. None if it does not occur then either.
    """
    if not text.strip():
        return None
    start = min(max(start or 0, 0), len(context))
    # A casefolded search is only the second choice: the text may occur in the same case elsewhere.
    for searched, wanted in ((context, text), (context.casefold(), text.casefold())):
        if len(searched) != len(context):  # starts would not be those in the context
            continue
        before, after = searched.rfind(wanted, 0, start + len(wanted)), searched.find(wanted, start)
        occurrences = [occurrence for occurrence in (before, after) if occurrence >= 0]
        if occurrences:
            return min(occurrences, key=lambda occurrence: abs(occurrence - start))
    return None


def place_golds(
    example: ImportedRow, unit: str, report: IO[str], counts: Counter[str]
) -> dict[str, list[Any]] | None:
    """Return the answers of a row in the input contract: {"text": [...], "answer_start": [...]}.

    Writes a line of the report for each problem of the row, and for each gold that is not where it
    should be. Counts golds by problem, and for each unit the golds that it would mend and break.

    Returns None if the row has no answers, or golds of which none can be placed: an empty list
    would mean that the question is unanswerable.
    """
    # Problems of the row. Numbers read as text are frequent and harmless: only counted.
    for reason, value in example.problems:
        counts[f"problem_{reason}"] += 1
        if reason != NUMBER_AS_TEXT:
            write_line(report, example, reason, found=None if value is None else str(value)[:200])
    # Golds that nobody can place stay as they are, or stay unknown.
    if example.unequal is not None:
        return example.unequal
    context = example.context
    if example.golds is None or not isinstance(context, str):
        return None
    # Each gold keeps its place, right or wrong. What would be right for it is counted for all
    # units, so that a hint can weigh the golds that a unit mends against those that it breaks.
    placed: list[Gold] = []
    for text, given in example.golds:
        start, problem = place_gold(context, text, given, unit)
        counts[problem or "gold_aligned"] += 1
        fits = fitting_units(context, text, given, unit)
        if start is not None:
            placed.append((text, start))
        if not problem:
            counts.update(f"breaks_{other}" for other in START_UNITS if other not in (unit, *fits))
        elif problem != "gold_located":
            counts.update(f"mends_{other}" for other in fits)
            # Why the gold is misplaced: another unit, another occurrence, another spelling.
            near = nearest(context, text, start)
            at = near if start is None else start
            differs = None if at is None else differs_only_in(context, text, at) or None
            counts[f"differs_{differs}"] += differs is not None
            there = None
            if start is not None and start >= 0:
                there = context[start : start + len(text)][:200]
            findings = {
                "answer_start": given,
                "found": there,
                "nearest": near,
                "differs": differs,
                "fits": next(iter(fits), None),
            }
            write_line(report, example, problem, gold=text[:200], **findings)
    if example.golds and not placed:
        counts["rows_without_placed_golds"] += 1
        return None
    return {"text": [text for text, _ in placed], "answer_start": [start for _, start in placed]}


def write_line(report: IO[str], example: ImportedRow, reason: str, **findings: Any) -> None:
    """Add a line to the report: the row, its place in the file, the reason and the findings."""
    line = {"id": example.id, "where": example.where, "reason": reason, **findings}
    report.write(json.dumps(line, ensure_ascii=False) + "\n")


def better_unit(counts: Counter[str]) -> str | None:
    """Return the unit that would mend the most golds, less those that it would break.

    None if no unit mends more golds than it breaks.
    """
    gain = {unit: counts[f"mends_{unit}"] - counts[f"breaks_{unit}"] for unit in START_UNITS}
    best = max(START_UNITS, key=gain.__getitem__)
    return best if gain[best] > 0 else None
