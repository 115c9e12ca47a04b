"""WriteManifest: the last file of a run; that it is there, and `state: complete`, is what downstream jobs wait for."""

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
    """What a run did. `about` says what it was asked to do, and goes in front.

    parts, rejections: how many files of each the output holds (None: nobody counted).

    state is "complete" iff no file was refused, no chunk failed, every row is accounted for, every part is there and no
    other, no file of rejections is missing, and rejected rows are at most `max_failed_fraction` of all; else
    "incomplete", and `why` says which it is.
    """
    rows = row_accounting(stage, totals)
    unaccounted = 2 * rows["planned"] - sum(rows.values())
    lost = rows["rejected"] + rows["in_failed_chunks"]
    why = []
    if totals.refused_files:
        why.append(f"{totals.refused_files} files were refused")
    if totals.failed_chunks:
        why.append(f"{totals.failed_chunks} chunks failed")
    if unaccounted:
        why.append(f"{unaccounted} rows are not accounted for")
    done = totals.chunks - totals.failed_chunks
    if parts is not None and not done <= parts <= totals.chunks:
        why.append(
            f"{parts} parts are there, but {done} chunks were done: parts were lost, or are none of this run's"
        )
    if rejections is not None and rejections < totals.rejecting:
        why.append(
            f"{rejections} files of rejections are there, but {totals.rejecting} were written: some were lost"
        )
    if lost > max_failed_fraction * rows["planned"]:
        why.append(
            f"{lost} of {rows['planned']} rows were rejected or failed, more than --max_failed_fraction={max_failed_fraction}"
        )
    counts = totals.counts
    real, padded = counts["real_tokens"], counts["padded_tokens"]
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
        "tokens": {
            "real": real,
            "padded": padded,
            "padding": round(padded / real - 1, 6) if real else 0.0,
        },
        "question_tokens_cut": counts["question_tokens_cut"],
        "unknown_text": unknown_text(totals),
        "steps": {
            step: {
                "seconds": round(seconds, 3),
                "tokens_per_second": round(real / seconds) if seconds else 0,
            }
            for step, seconds in sorted(totals.seconds.items())
        },
        "content": f"{totals.content:032x}",
        "failures": failures(totals),
        "retries": totals.retries,
        "failures_not_listed": totals.failed_chunks + totals.refused_files - len(totals.failures),
    }


@dataclass
class WriteManifest(beam.PTransform):
    """The one Totals by stage -> the state of the last stage, once every stage has its manifest."""

    outputs: tuple[StageOutput, ...]
    max_failed_fraction: float

    def expand(self, totals: beam.PCollection) -> beam.PCollection:
        return totals | beam.Map(write_manifests, self.outputs, self.max_failed_fraction)


def write_manifests(
    totals: dict[str, Totals], outputs: tuple[StageOutput, ...], max_failed_fraction: float
) -> str:
    """Write the manifest of every stage. Returns the state of the last."""
    retries = take_retries()
    for each in outputs:
        stage, files = each.output.stage, each.output.files
        totals[stage].retries += retries
        there = len(files.part_names()), len(files.rejection_names())
        content = manifest(stage, totals[stage], each.about, max_failed_fraction, *there)
        if stage == "audit":
            digest = each.about["configuration"]["corrections"]
            content["corrections"] = corrections_report(totals[stage], digest, each.corrections)
        each.output.publish(as_json(content), RunFiles.MANIFEST)
    if content["unknown_text"]["warning"]:  # of both stages: they read the same rows
        _log.warning("%s", content["unknown_text"]["warning"])
    return str(content["state"])
