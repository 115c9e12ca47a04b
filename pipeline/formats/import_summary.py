"""What `pipeline.convert import` prints: how many golds are right, and what may help the others."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator

from pipeline.formats.imported_rows import NUMBER_AS_TEXT
from pipeline.formats.place_golds import START_UNITS, better_unit
from pipeline.formats.survey_rows import ENCODING_HINT, Survey


def import_summary(
    counts: Counter[str], survey: Survey, answers_column: str, report: str
) -> Iterator[str]:
    """Yield a line for each finding about an import.

    counts  what `convert_rows` counted
    report  path of the report that lists golds and rows with problems
    """
    golds = _counts_of("gold_", counts)
    if not survey.documents:
        yield from _about_golds(golds, counts, survey, answers_column)

    # What was read otherwise than it was written, or not at all.
    problems = _counts_of("problem_", counts)
    if numbers := problems.pop(NUMBER_AS_TEXT, 0):
        yield f"{numbers} numbers read as text"
    if unplaced := counts["rows_without_placed_golds"]:
        yield f"{unplaced} rows have golds, but none that can be placed: their answers are null"
    if problems:
        yield f"problems: {_listed(problems)}: {report}"
    mixed = [name for name, kind in survey.kinds.items() if kind is None]
    if mixed:
        yield f"columns with values of several types, written as text: {', '.join(mixed)}"
    if left_out := _counts_of("left_out_", counts):
        total = sum(left_out.values())
        yield f"{total} rows left out, which Parquet can't hold: {_listed(left_out)}: {report}"
        if any(name.endswith("_not_utf8") for name in left_out):
            yield f"text that is not UTF-8{ENCODING_HINT}"
    wrong = sum(count for name, count in golds.items() if name not in ("aligned", "located"))
    # With the other problems, as many as the report has lines.
    others = sum(problems.values()) + sum(left_out.values())
    besides = f", {others} other problems" if others else ""
    if not survey.documents:
        yield f"golds that are not where they should be: {wrong}{besides}: {report}"


def _about_golds(
    golds: dict[str, int], counts: Counter[str], survey: Survey, answers_column: str
) -> Iterator[str]:
    """Yield the counts of golds, and what would help more of them.

    Another column, other units, or a correction of one kind may help.
    """
    yield f"golds: {_listed(golds) or 'none'}"
    if not survey.answers:
        yield f"there is no column {answers_column!r}{_other_column(answers_column, survey)}"
    if unit := better_unit(counts):
        mended = counts[f"mends_{unit}"]
        yield f"{mended} of them are right if starts {START_UNITS[unit]}: see --offsets={unit}"
    for aspect, count in _counts_of("differs_", counts).items():
        yield f"{count} of them {'differs' if count == 1 else 'differ'} only in {aspect}"


def _counts_of(prefix: str, counts: Counter[str]) -> dict[str, int]:
    """Return the positive counts whose names begin with a prefix, sorted by name without it."""
    return {
        name.removeprefix(prefix): counts[name]
        for name in sorted(counts)
        if name.startswith(prefix) and counts[name]
    }


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _other_column(answers_column: str, survey: Survey) -> str:
    """Return a hint at a column that may hold the answers, "" if none looks like it."""
    # A column whose name says answer or gold is more likely than one with a similar name.
    near = [
        name for name in survey.kinds if any(word in name.casefold() for word in ("answer", "gold"))
    ]
    near += difflib.get_close_matches(answers_column, list(survey.kinds))
    return f", but {near[0]!r}: see --answers_column={near[0]}" if near else ""
