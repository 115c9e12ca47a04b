"""Accounting: what the totals of a stage say in its manifest and in its report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transforms.claim import Output
from transforms.decode_answers import UNUSABLE
from transforms.measure_loss import NEAR
from transforms.merge_receipts import Totals

MOST_UNKNOWN = 0.05
"""Largest share of unknown text without a warning."""

MOST_UNMATCHED = 100
"""Most ids of corrections without a row that are listed; all are counted."""

STATUSES = {
    "annotate": ("answered", "no_answer", "below_threshold", "rejected"),
    "audit": ("scored", "null_scored", "unreachable", "rejected"),
}
"""The statuses by stage; every row that was read has one of them."""


@dataclass(frozen=True, slots=True)
class StageOutput:
    """Where a stage writes, and what its manifest says about the job.

    about        the description of the job
    corrections  ids of the rows to correct
    """

    output: Output
    about: Mapping[str, Any]
    corrections: tuple[str, ...] = ()


def row_accounting(stage: str, totals: Totals, questions: int = 1) -> dict[str, int]:
    """Return the number of planned rows, of rows by status, and of rows in failed chunks.

    With a question list, asks are counted in place of rows.

    questions  asked of every row

    `planned` is the sum of the others unless rows were lost or counted twice.
    """
    # Receipts of failed chunks have no counts, so these rows are counted apart.
    failed = totals.failed_rows * questions
    planned = totals.counts["rows"] + failed
    by_status = {status: totals.counts[status] for status in STATUSES[stage]}
    return {"planned": planned, **by_status, "in_failed_chunks": failed}


def failures(totals: Totals) -> list[dict[str, Any]]:
    """Return the listed refused files and failed chunks, for JSON."""
    return [
        dict(zip(("path", "row_group", "row_start", "rows", "step", "error"), failure, strict=True))
        for failure in totals.failures
    ]


def unknown_text(totals: Totals) -> dict[str, Any]:
    """Return the number of characters in contexts, of those in unknown tokens, and their share.

    `warning` is "" if the share is at most MOST_UNKNOWN.
    """
    characters, unknown = totals.counts["characters"], totals.counts["unknown_characters"]
    share = unknown / characters if characters else 0.0
    warning = (
        f"{100 * share:.1f} % of the contexts' characters are in unknown tokens: the tokenizer "
        "does not know their script, and losses and answers there are meaningless; use a "
        "checkpoint that was trained on these languages"
    )
    named = {"characters": characters, "unknown_characters": unknown, "share": round(share, 6)}
    return {**named, "warning": warning if share > MOST_UNKNOWN else ""}


def hints(totals: Totals, about: Mapping[str, Any]) -> list[str]:
    """Return advice about rows without a loss: sentences without a full stop."""
    reasons = totals.reasons
    advice = []
    # The reasons here can be fixed by an option or by the input; others need a look at the golds.
    if reasons["no_null_option"]:
        trained = (
            "is trained in this checkpoint"
            if about["null_trained"]
            else "must be trained in the checkpoint"
        )
        advice.append(
            f"{reasons['no_null_option']} rows without golds have no loss: --null on gives them "
            f"one (the null option {trained})"
        )
    if reasons["gold_blank"]:
        advice.append(
            f"{reasons['gold_blank']} rows have a blank gold: unanswerable questions have empty "
            "lists (`python -m pipeline.convert import` writes them), and a loss with --null on"
        )
    several, configuration = totals.counts["rows_with_several_places"], about["configuration"]
    if several and not measures_spans(configuration):
        advice.append(
            f"{several} rows have golds at several places: --distinct or --all_answers X measures "
            "how many of them are found"
        )
    for name, count in nearly_aligned(totals).items():
        advice.append(
            f"{count} misaligned golds differ from the text at their start only in {name}"
        )
    return advice


def measures_spans(configuration: Mapping[str, Any]) -> bool:
    """Return whether an audit measures distinct spans."""
    return bool(configuration.get("distinct") or configuration.get("all_answers"))


def nearly_aligned(totals: Totals) -> dict[str, int]:
    """Return the number of misaligned golds by `model.audit.golds.differs_only_in`."""
    counts = sorted(totals.counts.items())
    return {name.removeprefix(NEAR): count for name, count in counts if name.startswith(NEAR)}


def unusable_places(totals: Totals) -> dict[str, int]:
    """Return how many rows have null or malformed `pages` and `sections`, where these are given."""
    counts = sorted(totals.counts.items())
    return {name.removeprefix(UNUSABLE): n for name, n in counts if name.startswith(UNUSABLE)}


def corrections_report(totals: Totals, digest: str | None, ids: Sequence[str]) -> dict[str, Any]:
    """Return how many corrections were applied, and the first ids that match no row.

    digest  of the file of corrections, None without one
    ids     of all corrections
    """
    # Several rows may have the same id, so matched ids and corrected rows are counted apart.
    missing = sorted(set(ids) - totals.corrected)
    return {
        "file": digest,
        "given": len(ids),
        "matched": len(ids) - len(missing),
        "rows_corrected": totals.counts["rows_corrected"],
        "ids_of_no_row": missing[:MOST_UNMATCHED],
    }


def as_json(content: Mapping[str, Any]) -> bytes:
    """Return a value as the bytes of a JSON file of an output."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode()
