"""WriteAudit: writes `audit.json`, `report.html` and the files for relabelling."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from model.audit.answerability import MARGIN_RESOLUTION
from model.audit.distributions import FINE_BINS, MASS_BINS, RELATIVE_ACCURACY
from model.audit.losses import LEAST_PROBABILITY
from model.audit.metrics import UNSPACED
from model.audit.several_answers import LOG_ODDS_RESOLUTION, MATCH
from model.audit.slices import MOST_SLICES
from model.audit.statistics import WITH_TOKENS, Statistics
from model.audit.window_losses import TOPS
from transforms.accounting import (
    StageOutput,
    as_json,
    corrections_report,
    failures,
    hints,
    measures_spans,
    nearly_aligned,
    row_accounting,
    unknown_text,
)
from transforms.merge_receipts import Totals, closing
from transforms.relabel import is_filled_in, label_studio, relabel_csv
from transforms.report.page import audit_page
from transforms.run_files import RunFiles
from transforms.storage import join

_log = logging.getLogger("spanmill")


def audit_report(
    totals: Totals, about: Mapping[str, Any], corrections: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the content of `audit.json`.

    It holds the accounting, the statistics of all examples and of every slice, and the definitions
    of the figures.

    corrections  ids of the rows to correct
    """
    configuration, statistics = about["configuration"], totals.statistics or Statistics()
    several = {}
    if measures_spans(configuration):
        least = configuration.get("all_answers")
        several["several_answers"] = statistics.spans.summary(least)
    return {
        "rows": row_accounting("audit", totals),
        "reasons": dict(sorted(totals.reasons.items())),
        "failures": failures(totals),
        "golds_dropped": totals.counts["golds_dropped"],
        "golds_misaligned_only_in": nearly_aligned(totals),
        "unknown_text": unknown_text(totals),
        "hints": hints(totals, about),
        "corrections": corrections_report(totals, configuration["corrections"], corrections),
        **statistics.summary(),
        **several,
        "fine_print": fine_print(configuration),
    }


def fine_print(configuration: Mapping[str, Any]) -> dict[str, str]:
    """Return the definitions of the figures, by subject."""
    in_null = ", and the null option's" if configuration["null"] else ""
    return {
        "objective": "categorical: nll = nll_start + nll_end, negative log-likelihoods in nats of "
        "the start and the end network (Xiao & Zhu, arXiv:2501.09223, Eq. 1.24, summed); "
        "nll_per_token = nll / n as Eq. 1.24 is written; tokenwise: binary cross-entropy over the "
        f"n context tokens, link {configuration['link']}; joint_nll: -log of the first gold's "
        "share of all valid spans, T = 1 (Fajcik et al. 2021, arXiv:2008.12804)",
        "unknown_text": "characters of the rows' contexts, and those in the token that replaces "
        "what the vocabulary lacks",
        "support": "the context's tokens; padding, question and special tokens never count",
        "normaliser": "one softmax over the passage's tokens, each with the logits of the window "
        f"that owns it{in_null}; native losses: each window's own softmax, mean over the windows "
        "that hold the gold whole",
        "null_option": "on" if configuration["null"] else "off",
        "temperature": f"{configuration['temperature']} in probabilities, never in losses",
        "likely_tokens": f"of a list's first {WITH_TOKENS} examples: [start, end, start "
        "probability, end probability], code points of the context and one softmax over the "
        f"passage; the {TOPS} likeliest of each network from {LEAST_PROBABILITY}, null where a "
        "token is not among them",
        "f1": "words are split at blanks, so it almost equals exact match in languages that are "
        f"written without them ({UNSPACED}); character_f1 counts each character of their scripts "
        "as a word, and equals f1 elsewhere",
        "answerability_auc": "area under the ROC curve of null_score - span_score: how often it is "
        "higher for an unanswerable question than for an answerable one, equal ones counting half; "
        f"in bins of {MARGIN_RESOLUTION}; interval by DeLong et al. 1988",
        "misaligned": "the text at a gold's start is another: never moved, counted apart where it "
        "differs only in case, in blanks (also before and after the gold) or in Unicode normal "
        "form",
        "several_golds": "nll: the first; min_nll: the gold of least loss; marginals: over the "
        "distinct golds",
        "several_answers": f"over the distinct spans of all rows, ranked by probability in bins of "
        f"{LOG_ODDS_RESOLUTION} in log-odds; a span matches a gold if the Jaccard index of their "
        f"words is at least {MATCH}; overlapping golds are one place; precision = places found / "
        "(places found + spans without a match), as CUAD has it (arXiv:2103.06268)",
        "means": "over examples, never windows, each with its own count; rejected rows are in none",
        "quantiles": f"DDSketch, off by at most {100 * RELATIVE_ACCURACY:g} % of the value; min "
        "and max are exact",
        "calibration": "event: exact match with a gold, of the answers given; "
        f"{MASS_BINS} bins of equal mass, made of {FINE_BINS} bins of equal width",
        "risk_coverage": "answers given to the rows with an exact match, the most probable first; "
        f"answers whose probabilities are in one of {FINE_BINS} bins count as equally probable; "
        "aurc: mean selective risk over the numbers of answers (Geifman & El-Yaniv 2017, "
        "arXiv:1705.08500); coverage_at_precision: the largest coverage whose precision on these "
        "rows is at least that, which owes a part of it to chance: model.calibrate --precision "
        "fits a threshold that keeps it",
        "slices": f"the first {MOST_SLICES} values in order of their text, the rest as (other)",
        "model_digest": configuration["model_digest"],
    }


def write_audit(totals: dict[str, Totals], stage_output: StageOutput) -> dict[str, Totals]:
    """Write the files of an audit. Idempotent. Returns the totals."""
    audit, output, about = totals["audit"], stage_output.output, stage_output.about
    report = audit_report(audit, about, stage_output.corrections)
    # Each file is read back after its commit, since nothing counts them later.
    suspects = report["suspected_label_errors"]
    output.publish(as_json(report), RunFiles.AUDIT)
    for name, write in (
        (RunFiles.RELABEL_CSV, relabel_csv),
        (RunFiles.RELABEL_JSON, label_studio),
    ):
        # People fill these files in where they are, and may run the same audit again.
        path = join(output.folder, name)
        if is_filled_in(path):
            _log.warning("%s is filled in, and kept as it is", path)
        else:
            output.publish(write(suspects, audit.examples), name)
    output.publish(audit_page(report, audit.examples, about), RunFiles.REPORT)
    return totals


@dataclass
class WriteAudit(beam.PTransform):
    """The Totals by stage -> the same, once the files of the audit are written, or have failed."""

    output: StageOutput

    def expand(self, totals: beam.PCollection) -> beam.PCollection:
        return totals | beam.Map(_close, self.output)


def _close(totals: dict[str, Totals], stage_output: StageOutput) -> dict[str, Totals]:
    with closing(totals["audit"], "WriteAudit", stage_output.output):
        write_audit(totals, stage_output)
    return totals
