"""WriteManifest: writes the manifest, the last file of a run.

Downstream jobs wait until it exists and has the state "complete".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from transforms.accounting import (
    StageOutput,
    as_json,
    corrections_report,
    failures,
    row_accounting,
    unknown_text,
    unusable_places,
)
from transforms.chunk_step import NAMESPACE
from transforms.merge_receipts import Totals
from transforms.retries import take_retries
from transforms.run_files import RunFiles

_log = logging.getLogger(NAMESPACE)


def manifest(
    stage: str,
    totals: Totals,
    about: Mapping[str, Any],
    max_failed_fraction: float,
    parts: int | None = None,
    rejections: int | None = None,
) -> dict[str, Any]:
    """Return the content of a manifest.

    about                description of the job, which goes after the state; with a question list
                         it has the number of `questions`, and asks are counted in place of rows;
                         with a `price_per_hour`, the manifest has the cost
    max_failed_fraction  largest share of rows that may be rejected or in failed chunks
    parts, rejections    number of these files in the output, None if they were not counted

    The state is "complete" if no file was refused, no chunk and no later step failed, every row is
    accounted for, the output has at least as many parts as chunks were finished and no more than
    were planned, no file of rejections is missing, and max_failed_fraction is kept; else it is
    "incomplete", and `why` gives the reasons.
    """
    # The verdict comes from totals and from what the output holds.
    rows = row_accounting(stage, totals, about.get("questions", 1))
    unit = "questions" if "questions" in about else "rows"
    why = _why_incomplete(totals, rows, unit, max_failed_fraction, parts, rejections)
    counts = totals.counts
    # The totals, sorted by name: their own order depends on which receipt came first. The padding
    # is relative to the tokens of texts.
    real, padded = counts["real_tokens"], counts["padded_tokens"]
    places = unusable_places(totals)
    return {
        "state": "incomplete" if why else "complete",
        "why": why,
        **about,
        "rows": rows,
        "reasons": dict(sorted(totals.reasons.items())),
        "chunks": {"planned": totals.chunks, "failed": totals.failed_chunks},
        "refused_files": totals.refused_files,
        "distinct_pairs": counts["pairs"],
        "windows": counts["windows"],
        # Only with --read_windows.
        **({"windows_read": counts["windows_read"]} if "windows_read" in counts else {}),
        # Only with --page_column or --section_column.
        **({"unusable_places": places} if places else {}),
        "tokens": {
            "real": real,
            "padded": padded,
            "padding": round(padded / real - 1, 6) if real else 0.0,
        },
        "question_tokens_cut": counts["question_tokens_cut"],
        "unknown_text": unknown_text(totals),
        "steps": _steps(totals, real),
        **_cost(totals, rows["planned"], unit, about.get("price_per_hour")),
        "content": f"{totals.content:032x}",
        "failures": failures(totals),
        "retries": totals.retries,
        "failures_not_listed": totals.failures_not_listed,
    }


def _steps(totals: Totals, tokens: int) -> dict[str, Any]:
    """Return the seconds of each step on all chunks, and its speed in tokens of texts."""
    return {
        step: {
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds) if seconds else 0,
        }
        for step, seconds in sorted(totals.seconds.items())
    }


def _cost(totals: Totals, planned: int, unit: str, price: float | None) -> dict[str, Any]:
    """Return the cost of the work on all chunks, by the time of their steps; {} without a price.

    unit   what `planned` counts
    price  of one worker process for an hour
    """
    if price is None:
        return {}
    hours = sum(sorted(totals.seconds.values())) / 3600
    thousands = planned / 1000
    return {
        "cost": {
            "worker_hours": round(hours, 6),
            "total": round(price * hours, 6),
            f"per_1000_{unit}": round(price * hours / thousands, 6) if planned else 0.0,
        }
    }


def _why_incomplete(
    totals: Totals,
    rows: Mapping[str, int],
    unit: str,
    max_failed_fraction: float,
    parts: int | None,
    rejections: int | None,
) -> list[str]:
    """Return the reasons why a run is not complete; none if it is. See `manifest`.

    unit  what `rows` counts
    """
    why = []
    if totals.refused_files:
        why.append(f"{totals.refused_files} files were refused")
    if totals.failed_chunks:
        why.append(f"{totals.failed_chunks} chunks failed")
    why += [f"{step} failed" for step in totals.failed_steps]
    # planned = sum of the others, so that the sum of all is twice the planned rows.
    unaccounted = 2 * rows["planned"] - sum(rows.values())
    if unaccounted:
        why.append(f"{unaccounted} {unit} are not accounted for")
    # A chunk that failed for one stage may have a part of the other.
    finished = totals.chunks - totals.failed_chunks
    if parts is not None and not finished <= parts <= totals.chunks:
        why.append(
            f"the output has {parts} parts, but {finished} chunks were finished: parts were lost, "
            "or belong to another run"
        )
    if rejections is not None and rejections < totals.rejecting:
        why.append(
            f"the output has {rejections} files of rejections, but {totals.rejecting} were "
            "written: some were lost"
        )
    lost = rows["rejected"] + rows["in_failed_chunks"]
    if lost > max_failed_fraction * rows["planned"]:
        why.append(
            f"{lost} of {rows['planned']} {unit} were rejected or failed, more than "
            f"--max_failed_fraction={max_failed_fraction}"
        )
    return why


@dataclass
class WriteManifest(beam.PTransform):
    """The Totals by stage -> the state of the last stage, once all manifests are written.

    outputs  in the order of writing
    """

    outputs: tuple[StageOutput, ...]
    max_failed_fraction: float

    def expand(self, totals: beam.PCollection) -> beam.PCollection:
        return totals | beam.Map(write_manifests, self.outputs, self.max_failed_fraction)


def write_manifests(
    totals: dict[str, Totals], outputs: tuple[StageOutput, ...], max_failed_fraction: float
) -> str:
    """Write the manifest of every stage. Returns the state of the last."""
    # Retries of this process since its last receipt would otherwise be lost.
    retries = take_retries()
    for each in outputs:
        stage, files = each.output.stage, each.output.files
        totals[stage].retries += retries
        # Count the files: a store may have lost one that it reported as written.
        present = len(files.part_names()), len(files.rejection_names())
        content = manifest(stage, totals[stage], each.about, max_failed_fraction, *present)
        if stage == "audit":
            digest = each.about["configuration"]["corrections"]
            content["corrections"] = corrections_report(totals[stage], digest, each.corrections)
        each.output.publish(as_json(content), RunFiles.MANIFEST)
    if content["unknown_text"]["warning"]:  # equal for all stages, which read the same rows
        _log.warning("%s", content["unknown_text"]["warning"])
    return str(content["state"])
