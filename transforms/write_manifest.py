"""WriteManifest: the last file of a run; that it is there, and `state: complete`, is what downstream jobs wait for."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from model.audit.distributions import FINE_BINS, MASS_BINS, RELATIVE_ACCURACY
from model.audit.losses import LEAST_PROBABILITY, TOPS
from model.audit.metrics import UNSPACED
from model.audit.slices import MOST_SLICES
from model.audit.statistics import WITH_TOKENS, Statistics
from transforms.chunk_step import NAMESPACE
from transforms.claim import Output
from transforms.measure_loss import NEAR
from transforms.merge_receipts import Totals
from transforms.relabel import RELABEL_CSV, RELABEL_JSON, label_studio, relabel_csv
from transforms.report.page import audit_page
from transforms.retries import take_retries
from transforms.storage import join, list_names

_log = logging.getLogger(NAMESPACE)

MANIFEST = "manifest.json"
PENDING = "manifest.pending.json"
"""The manifest of an audit until its duplicates are found."""
AUDIT = "audit.json"
REPORT = "report.html"

MOST_UNKNOWN = 0.05
"""A share of unknown text above this is a warning."""

MOST_NAMED = 100
"""How many ids of corrections without a row are named; all are counted."""

STATUSES = {
    "annotate": ("answered", "no_answer", "rejected"),
    "audit": ("scored", "null_scored", "unreachable", "rejected"),
}
"""Every row that was read has one of these."""


@dataclass(frozen=True, slots=True)
class StageOutput:
    """Where a stage writes, what its manifest says the job is, and the ids that were to be corrected."""

    output: Output
    about: Mapping[str, Any]
    corrections: tuple[str, ...] = ()


def row_accounting(stage: str, totals: Totals) -> dict[str, int]:
    """Rows planned, and what became of them: planned = the sum of the rest, if nothing is lost or counted twice."""
    planned = totals.counts["rows"] + totals.failed_rows
    by_status = {status: totals.counts[status] for status in STATUSES[stage]}
    return {"planned": planned, **by_status, "in_failed_chunks": totals.failed_rows}


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
        why.append(f"{parts} parts are there, but {done} chunks were done: parts were lost, or are none of this run's")
    if rejections is not None and rejections < totals.rejecting:
        why.append(f"{rejections} files of rejections are there, but {totals.rejecting} were written: some were lost")
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
        "tokens": {"real": real, "padded": padded, "padding": round(padded / real - 1, 6) if real else 0.0},
        "question_tokens_cut": counts["question_tokens_cut"],
        "unknown_text": unknown_text(totals),
        "steps": {
            step: {"seconds": round(seconds, 3), "tokens_per_second": round(real / seconds) if seconds else 0}
            for step, seconds in sorted(totals.seconds.items())
        },
        "content": f"{totals.content:032x}",
        "failures": _failures(totals),
        "retries": totals.retries,
        "failures_not_listed": totals.failed_chunks + totals.refused_files - len(totals.failures),
    }


def _failures(totals: Totals) -> list[dict[str, Any]]:
    """The refused files and failed chunks that are listed one by one."""
    return [
        dict(zip(("path", "row_group", "row_start", "rows", "step", "error"), failure, strict=True))
        for failure in totals.failures
    ]


def unknown_text(totals: Totals) -> dict[str, Any]:
    """Counts the characters of the rows' contexts, and those in unknown tokens, with their share.

    `warning` is "" up to a share of MOST_UNKNOWN.
    """
    characters, unknown = totals.counts["characters"], totals.counts["unknown_characters"]
    share = unknown / characters if characters else 0.0
    warning = (
        f"{100 * share:.1f} % of the contexts' characters are in unknown tokens: the tokenizer does "
        "not know their script, and losses and answers there are meaningless; use a checkpoint that "
        "was trained on these languages"
    )
    named = {"characters": characters, "unknown_characters": unknown, "share": round(share, 6)}
    return {**named, "warning": warning if share > MOST_UNKNOWN else ""}


def hints(totals: Totals, about: Mapping[str, Any]) -> list[str]:
    """Says what can be done about rows without a loss: sentences without a full stop."""
    reasons, found = totals.reasons, []
    if reasons["no_null_option"]:
        trained = "is trained in this checkpoint" if about["null_trained"] else "must be trained in the checkpoint"
        found.append(
            f"{reasons['no_null_option']} rows without golds have no loss: --null on gives them one (the null option {trained})"
        )
    if reasons["gold_blank"]:
        found.append(
            f"{reasons['gold_blank']} rows have a blank gold: unanswerable questions have empty lists "
            "(`python -m pipeline.convert import` writes them), and a loss with --null on"
        )
    for name, count in nearly_aligned(totals).items():
        found.append(f"{count} misaligned golds differ from the text at their start only in {name}")
    return found


def nearly_aligned(totals: Totals) -> dict[str, int]:
    """Counts misaligned golds by what `model.audit.golds.differs_only_in` says of them."""
    counts = sorted(totals.counts.items())
    return {name.removeprefix(NEAR): count for name, count in counts if name.startswith(NEAR)}


def corrections_report(totals: Totals, digest: str | None, ids: Sequence[str]) -> dict[str, Any]:
    """What became of the corrections of these ids, and the first ids that no row has."""
    missing = sorted(set(ids) - totals.corrected)
    return {
        "file": digest,
        "given": len(ids),
        "matched": len(ids) - len(missing),
        "rows_corrected": totals.counts["rows_corrected"],
        "ids_of_no_row": missing[:MOST_NAMED],
    }


def audit_report(totals: Totals, about: Mapping[str, Any], corrections: Sequence[str] = ()) -> dict[str, Any]:
    """`audit.json`: the accounting, the statistics of all examples and of every slice, and what was computed how.

    corrections  ids that were to be corrected
    """
    configuration = about["configuration"]
    null = configuration["null"]
    return {
        "rows": row_accounting("audit", totals),
        "reasons": dict(sorted(totals.reasons.items())),
        "failures": _failures(totals),
        "golds_dropped": totals.counts["golds_dropped"],
        "golds_misaligned_only_in": nearly_aligned(totals),
        "unknown_text": unknown_text(totals),
        "hints": hints(totals, about),
        "corrections": corrections_report(totals, configuration["corrections"], corrections),
        **(totals.statistics or Statistics()).summary(),
        "fine_print": {
            "objective": "categorical: nll = nll_start + nll_end, negative log-likelihoods in nats of the start and the end "
            "network (Xiao & Zhu, arXiv:2501.09223, Eq. 1.24, summed); nll_per_token = nll / n as Eq. 1.24 is written; "
            f"tokenwise: binary cross-entropy over the n context tokens, link {configuration['link']}",
            "unknown_text": "characters of the rows' contexts, and those in the token that replaces what the vocabulary lacks",
            "support": "the context's tokens; padding, question and special tokens never count",
            "normaliser": "one softmax over the passage's tokens, each with the logits of the window that owns it"
            + (", and the null option's" if null else "")
            + "; native losses: each window's own softmax, mean over the windows that hold the gold whole",
            "null_option": "on" if null else "off",
            "temperature": f"{configuration['temperature']} in probabilities, never in losses",
            "likely_tokens": f"of a list's first {WITH_TOKENS} examples: [start, end, start probability, end probability], "
            f"code points of the context and one softmax over the passage; the {TOPS} likeliest of each network from "
            f"{LEAST_PROBABILITY}, null where a token is not among them",
            "f1": "words are split at blanks, so it almost equals exact match in languages that are "
            f"written without them ({UNSPACED}); character_f1 counts each character of their scripts "
            "as a word, and equals f1 elsewhere",
            "misaligned": "the text at a gold's start is another: never moved, counted apart where it differs only in case, in "
            "blanks (also before and after the gold) or in Unicode normal form",
            "several_golds": "nll: the first; min_nll: the gold of least loss; marginals: over the distinct golds",
            "means": "over examples, never windows, each with its own count; rejected rows are in none",
            "quantiles": f"DDSketch, off by at most {100 * RELATIVE_ACCURACY:g} % of the value; min and max are exact",
            "calibration": f"event: exact match with a gold, of the answers given; {MASS_BINS} bins of equal mass, made of "
            f"{FINE_BINS} bins of equal width",
            "slices": f"the first {MOST_SLICES} values in order of their text, the rest as (other)",
            "model_digest": configuration["model_digest"],
        },
    }


@dataclass
class WriteManifest(beam.PTransform):
    """The one Totals by stage -> the state of the last stage, once every stage has its manifest.

    An audit's is pending; `audit.json`, `report.html` and the files for relabelling are written before it.
    """

    outputs: tuple[StageOutput, ...]
    max_failed_fraction: float

    def expand(self, totals: beam.PCollection) -> beam.PCollection:
        return totals | beam.ParDo(_WriteManifest(self.outputs, self.max_failed_fraction))


class _WriteManifest(beam.DoFn):
    def __init__(self, outputs: tuple[StageOutput, ...], max_failed_fraction: float):
        self.outputs, self.max_failed_fraction = outputs, max_failed_fraction

    def process(self, totals: dict[str, Totals]) -> list[str]:
        retries = take_retries()
        for each in self.outputs:
            stage, output = each.output.stage, each.output
            totals[stage].retries += retries
            if stage == "audit":
                report = audit_report(totals["audit"], each.about, each.corrections)
                suspects, examples = report["suspected_label_errors"], totals["audit"].examples
                output.publish(as_json(report), AUDIT)
                output.publish(relabel_csv(suspects, examples), RELABEL_CSV)
                output.publish(label_studio(suspects, examples), RELABEL_JSON)
                output.publish(audit_page(report, examples, each.about), REPORT)
            there = [len(list_names(join(output.folder, name))) for name in ("parts", "rejections")]
            content = manifest(stage, totals[stage], each.about, self.max_failed_fraction, *there)
            if stage == "audit":
                content["corrections"] = report["corrections"]
            output.publish(as_json(content), PENDING if stage == "audit" else MANIFEST)
        if content["unknown_text"]["warning"]:  # of both stages: they read the same rows
            _log.warning("%s", content["unknown_text"]["warning"])
        return [content["state"]]


def as_json(content: Mapping[str, Any]) -> bytes:
    """A value as the JSON files of an output have it."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode()
