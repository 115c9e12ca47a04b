"""WriteManifest: the last file of a run; that it is there, and `state: complete`, is what downstream jobs wait for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from transforms.merge_receipts import Totals
from transforms.storage import commit

MANIFEST = "manifest.json"


def manifest(totals: Totals, about: Mapping[str, Any], max_failed_fraction: float) -> dict[str, Any]:
    """What a run did. `about` says what it was asked to do, and goes in front.

    state is "complete" iff no file was refused, no chunk failed, every row is accounted for, and rejected rows are at
    most `max_failed_fraction` of all; else "incomplete", and `why` says which of these it is.
    """
    counts = totals.counts
    rows = {
        "planned": counts["rows"] + totals.failed_rows,
        "answered": counts["answered"],
        "no_answer": counts["no_answer"],
        "rejected": counts["rejected"],
        "in_failed_chunks": totals.failed_rows,
    }
    unaccounted = rows["planned"] - sum(rows[name] for name in rows if name != "planned")
    lost = rows["rejected"] + rows["in_failed_chunks"]
    why = []
    if totals.refused_files:
        why.append(f"{totals.refused_files} files were refused")
    if totals.failed_chunks:
        why.append(f"{totals.failed_chunks} chunks failed")
    if unaccounted:
        why.append(f"{unaccounted} rows are not accounted for")
    if lost > max_failed_fraction * rows["planned"]:
        why.append(
            f"{lost} of {rows['planned']} rows were rejected or failed, more than --max_failed_fraction={max_failed_fraction}"
        )
    real, padded = counts["real_tokens"], counts["padded_tokens"]
    return {
        "state": "incomplete" if why else "complete",
        "why": why,
        **about,
        "rows": rows,
        "rejected_by_reason": dict(sorted(totals.reasons.items())),
        "chunks": {"planned": totals.chunks, "failed": totals.failed_chunks},
        "refused_files": totals.refused_files,
        "distinct_pairs": counts["pairs"],
        "windows": counts["windows"],
        "tokens": {"real": real, "padded": padded, "padding": round(padded / real - 1, 6) if real else 0.0},
        "question_tokens_cut": counts["question_tokens_cut"],
        "steps": {
            step: {"seconds": round(seconds, 3), "tokens_per_second": round(real / seconds) if seconds else 0}
            for step, seconds in sorted(totals.seconds.items())
        },
        "content": f"{totals.content:032x}",
        "failures": [
            dict(zip(("path", "row_group", "row_start", "rows", "stage", "error"), failure, strict=True))
            for failure in totals.failures
        ],
        "failures_not_listed": totals.failed_chunks + totals.refused_files - len(totals.failures),
    }


@dataclass
class WriteManifest(beam.PTransform):
    """The one Totals -> `manifest.json` below the output."""

    output: str
    about: Mapping[str, Any]
    max_failed_fraction: float

    def expand(self, totals: beam.PCollection) -> beam.PCollection:
        return totals | beam.ParDo(_WriteManifest(self.output, self.about, self.max_failed_fraction))


class _WriteManifest(beam.DoFn):
    def __init__(self, output: str, about: Mapping[str, Any], max_failed_fraction: float):
        self.output, self.about, self.max_failed_fraction = output, about, max_failed_fraction

    def process(self, totals: Totals) -> list[str]:
        content = manifest(totals, self.about, self.max_failed_fraction)
        commit(self.output, json.dumps(content, indent=2, ensure_ascii=False).encode(), MANIFEST)
        return [content["state"]]
