"""Where golds of other formats stand in their contexts, and a report of those that are not where they should be."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from typing import IO, Any

from model.audit.golds import gold_problem, locate_gold
from pipeline.formats.imported_rows import NUMBER_AS_TEXT, Gold, ImportedRow

OFFSETS = {
    "code_points": "count code points",
    "utf16": "count utf16",
    "utf8": "count utf8",
    "from_one": "count from 1",
    "crlf_as_one": "count \\r\\n as one",
}
"""What starts may count, and how that is said: code points (Python), UTF-16 code units (JavaScript, Java), bytes of UTF-8, code
points of which the first is 1, code points in a text whose line ends were one character."""


def to_code_points(context: str, start: int, unit: str) -> int:
    """A start that counts code points from 0, of one that counts otherwise; a place inside a character is its own."""
    if unit == "from_one":
        return start - 1
    if unit == "code_points" or start < 0:
        return start
    if unit == "crlf_as_one":
        end = context.find("\r\n")
        while 0 <= end < start:
            start, end = start + 1, context.find("\r\n", end + 2)
        return start
    before = context[:start]  # holds as many units at least
    if before.isascii():
        return start
    if unit == "utf8":
        return len(before.encode("utf-8", "surrogatepass")[:start].decode("utf-8", "ignore"))
    return len(
        before.encode("utf-16-le", "surrogatepass")[: 2 * start].decode("utf-16-le", "ignore")
    )


def place_gold(context: str, text: str, start: int | None, unit: str) -> tuple[int | None, str]:
    """The start of a gold in code points, None if it has no place, and what is to be said of it: "" if nothing.

    A gold without a start is looked for (`locate_gold`), and so is one whose start is -1, which is how programs write that
    there is none. One with a start stays where it is said to be, whether that is right or a `gold_problem`.
    """
    if start == -1 and text.strip():
        start = None
    if start is not None:
        start = to_code_points(context, start, unit)
        problem = gold_problem(context, text, start)
        return start if abs(start) < 2**31 else None, problem[0] if problem else ""
    return locate_gold(context, text)


def fitting_units(context: str, text: str, start: int | None, unit: str) -> list[str]:
    """The other units in which a gold's start would be right."""
    if start is None or start < 0:
        return []
    others = [other for other in OFFSETS if other != unit]
    return [
        other
        for other in others
        if gold_problem(context, text, to_code_points(context, start, other)) is None
    ]


def nearest(context: str, text: str, place: int | None) -> int | None:
    """The start in code points that is nearest to a place, of all where a text stands; if nowhere, whatever its case."""
    if not text.strip():
        return None
    place = min(max(place or 0, 0), len(context))
    for searched, wanted in ((context, text), (context.casefold(), text.casefold())):
        if len(searched) != len(context):  # places are not those of the context
            continue
        before, after = searched.rfind(wanted, 0, place + len(wanted)), searched.find(wanted, place)
        if before >= 0 or after >= 0:
            return min(
                (start for start in (before, after) if start >= 0),
                key=lambda start: abs(start - place),
            )
    return None


def difference(context: str, text: str, place: int | None) -> str | None:
    """In what alone a gold differs from what stands at its place: "case", "blanks" (also within), "normal form", or None."""
    if place is None or not 0 <= place < len(context) or not text.strip():
        return None
    found = context[place : place + len(text)]
    if found.casefold() == text.casefold():
        return "case" if found != text else None
    found = context[place : place + 2 * len(text)]
    if (not found[0].isspace() or text[0].isspace()) and _blanks_as_one(found).startswith(
        _blanks_as_one(text)
    ):
        return "blanks"
    wide = unicodedata.normalize("NFKD", text)
    found = unicodedata.normalize("NFKC", context[place : place + len(wide)])
    return "normal form" if found.startswith(unicodedata.normalize("NFKC", text)) else None


def _blanks_as_one(text: str) -> str:
    return " ".join(text.split())


def place_golds(
    example: ImportedRow, unit: str, report: IO[str], counts: Counter[str]
) -> dict[str, list[Any]] | None:
    """The answers of a row as the contract has them; a line of the report for each gold that is not where it should be, and
    for each problem of the row.

    Null where the file says nothing of answers, or where it has golds but none that has a place: an empty list would
    say that the question is unanswerable. Counts, of all units, the golds that each would mend and break.
    """
    for reason, found in example.problems:
        counts[f"problem_{reason}"] += 1
        if reason != NUMBER_AS_TEXT:
            write_line(report, example, reason, found=None if found is None else str(found)[:200])
    if example.unequal is not None:
        return example.unequal
    context = example.context
    if example.golds is None or not isinstance(context, str):
        return None
    placed: list[Gold] = []
    for text, start in example.golds:
        place, problem = place_gold(context, text, start, unit)
        counts[problem or "gold_aligned"] += 1
        fits = fitting_units(context, text, start, unit)
        if place is not None:
            placed.append((text, place))
        if not problem:
            counts.update(f"breaks_{other}" for other in OFFSETS if other not in (unit, *fits))
        elif problem != "gold_located":
            counts.update(f"mends_{other}" for other in fits)
            at = nearest(context, text, place)
            differs = difference(context, text, at if place is None else place)
            counts[f"differs_{differs}"] += differs is not None
            stands = (
                context[place : place + len(text)][:200]
                if place is not None and place >= 0
                else None
            )
            where = {
                "answer_start": start,
                "found": stands,
                "nearest": at,
                "differs": differs,
                "fits": next(iter(fits), None),
            }
            write_line(report, example, problem, gold=text[:200], **where)
    if example.golds and not placed:
        counts["rows_without_placed_golds"] += 1
        return None
    return {"text": [text for text, _ in placed], "answer_start": [place for _, place in placed]}


def write_line(report: IO[str], example: ImportedRow, reason: str, **what: Any) -> None:
    """Adds a line to the report: which row, where, why, and what else is known."""
    line = {"id": example.id, "where": example.where, "reason": reason, **what}
    report.write(json.dumps(line, ensure_ascii=False) + "\n")


def better_unit(counts: Counter[str]) -> str | None:
    """The unit that would mend the most golds over those that it would break; None if each breaks as many as it mends."""
    gain = {unit: counts[f"mends_{unit}"] - counts[f"breaks_{unit}"] for unit in OFFSETS}
    best = max(OFFSETS, key=gain.__getitem__)
    return best if gain[best] > 0 else None
