"""Page: renders figures and examples as one HTML file.

A page loads nothing from the network, and its size is bounded for any data set.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from model.audit.distributions import LOSS_BINS, Z_95
from model.audit.slices import SLICES
from model.audit.statistics import WITH_TOKENS, shortened
from transforms.read_examples import Example, RowPlace
from transforms.report import figures
from transforms.report.bars import Bars, Mean, scaled
from transforms.report.passages import shown_passage

PAGE_BYTES = 3_000_000
"""A page is smaller than this: if texts are very long, it shows fewer examples."""

_FEWER = 20
"""Examples of a comparison that are shown if the page would be too large with all."""

_MOST_SLICES = 500
_MOST_BARS = 40
_MOST_GIVEN = 4
"""Most columns of `--slice_by` with a figure; the table has all."""

_SLICED = {
    "context_tokens": "context length, in tokens",
    "answer_position": "where in the context the answer starts",
    "question_word": "question word (English)",
}
"""The slices of every audit that have a figure, with their titles."""

_METRICS = (
    ("f1", "F1", " points", "Words that answer and gold share."),
    ("exact_match", "Exact match", " points", "Answers that equal a gold."),
    ("nll", "Loss", " nats", "Loss of the gold's start and end together: less is better."),
)
"""Key, name, unit and meaning of the compared metrics."""

DOUBTS = {
    "elsewhere": "the model's answer shares no token with any gold",
    "other_borders": "the model's answer shares tokens with a gold, but has other borders",
    "golds_disagree": "two golds share no token with each other",
    "no_answer": "there is a gold, but the model finds no answer",
    "answerable": "there is no gold, but the model finds an answer",
}
"""The meaning of the codes of `label_error_reason`."""


def audit_page(
    audit: Mapping[str, Any], examples: Mapping[RowPlace, Example], about: Mapping[str, Any]
) -> bytes:
    """Return `report.html` of an audit, from the content of `audit.json`."""
    everything = audit["all"]
    slices = audit["slices"]
    # Draw the figures once: they do not depend on the number of examples.
    drawn = {
        "loss": figures.loss_histogram(audit["nll_histogram"]),
        "start_end": figures.start_against_end(audit["start_against_end"], LOSS_BINS),
        "risk": figures.risk_coverage_figure(audit["risk_coverage_curve"]),
        "reliability": figures.reliability(everything["calibration"].get("reliability", [])),
    }
    if audit.get("several_answers", {}).get("curve"):
        drawn["spans"] = figures.precision_recall(audit["several_answers"]["curve"])
    given = [name for name in slices if name not in SLICES][:_MOST_GIVEN]
    sliced = []
    for name, what in (*_SLICED.items(), *zip(given, given, strict=True)):
        bars = _losses_of(slices.get(name, {}))
        if bars.bars:
            sliced.append((what, len(slices[name]), bars))
    rows = _slice_rows(slices)
    # Try with fewer examples until the page is small enough.
    for shown in (WITH_TOKENS, WITH_TOKENS // 4, 0):
        page = render(
            "audit.html",
            title="Audit",
            audit=audit,
            all=everything,
            about=about,
            # Not escaped: these drawings contain no text of the corpus.
            figures={name: Markup(svg) for name, svg in drawn.items()},
            sliced=sliced,
            most_bars=_MOST_BARS,
            slice_rows=rows[:_MOST_SLICES],
            slice_count=len(rows),
            worst=[_shown(entry, examples) for entry in audit["highest_loss"][:shown]],
            suspects=[_shown(entry, examples) for entry in audit["suspected_label_errors"][:shown]],
        )
        if len(page) < PAGE_BYTES:
            break
    return page


def comparison_page(comparison: Mapping[str, Any]) -> bytes:
    """Return `report.html` of a comparison, from the content of `comparison.json`."""
    rows = _slice_rows(comparison["slices"])
    # Bars for all pairs first, then for the slices.
    groups = [
        ("all", comparison["all"]),
        *((f"{row['slice']}: {row['value']}", row) for row in rows[:_MOST_BARS]),
    ]
    differences = {
        metric: _differences_of([(name, group[metric]) for name, group in groups])
        for metric in ("f1", "nll")
    }
    for shown in (len(comparison["regressions"]) + len(comparison["improvements"]), _FEWER, 0):
        page = render(
            "comparison.html",
            title="Comparison",
            comparison=comparison,
            differences=differences,
            metrics=_METRICS,
            slice_rows=rows[:_MOST_SLICES],
            slice_count=len(rows),
            most_bars=_MOST_BARS,
            shown=shown,
        )
        if len(page) < PAGE_BYTES:
            break
    return page


def _slice_rows(slices: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table of slices: one for each value of each slice."""
    rows = []
    for name, values in slices.items():
        for value, part in values.items():
            rows.append({"slice": name, "value": value, **part})
    return rows


def _losses_of(values: Mapping[str, Any]) -> Bars:
    """Return the bars of the mean loss of the values of a slice."""
    means = []
    for value, part in list(values.items())[:_MOST_BARS]:
        loss = part["losses"]["nll"]
        if loss["count"]:
            # The loss is never negative, so its interval is cut at zero.
            mean, half = loss["mean"], Z_95 * loss["standard_error"]
            text = f"{mean:.3f} ± {half:.3f}" if loss["count"] > 1 else f"{mean:.3f}"
            means.append(Mean(value, text, mean, max(0.0, mean - half), mean + half))
    return scaled(means)


def _differences_of(groups: Sequence[tuple[str, Mapping[str, Any]]]) -> Bars:
    """Return the bars of the mean paired difference of groups."""
    means = []
    for name, each in groups:
        if each["count"]:
            mean, (low, high) = each["difference"], each["interval"]
            text = (
                f"{mean:+z.3f} [{low:+z.3f}, {high:+z.3f}]"
                if each["count"] > 1
                else f"{mean:+z.3f}"
            )
            means.append(Mean(name, text, mean, low, high))
    return scaled(means)


def _shown(entry: Mapping[str, Any], examples: Mapping[RowPlace, Example]) -> dict[str, Any]:
    """Return an entry of a list with the parts of its passage, and with shortened texts."""
    marks = []
    for name in ("gold", "prediction"):
        start, end = entry[f"{name}_start"], entry[f"{name}_end"]
        if start is not None and end is not None:
            marks.append((name, (start, end)))
    example = examples.get((entry["path"], entry["row"]))
    parts = shown_passage(example, marks, entry.get("likely_tokens", ()))
    texts = {name: shortened(entry[name]) for name in ("id", "question", "prediction")}
    doubt = DOUBTS.get(entry["label_error_reason"] or "", "")
    return {
        **entry,
        **texts,
        "gold": [shortened(text) for text in entry["gold"]],
        "parts": parts,
        "doubt": doubt,
    }


def render(template: str, **values: Any) -> bytes:
    """Return the page of a template.

    All values are escaped, and the page's content security policy allows its own script only.
    """
    script, style = _asset("page.js"), _asset("page.css")
    # The policy allows exactly this script: its hash goes into the page.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = (
        _environment()
        .get_template(template)
        .render(script=Markup(script), style=Markup(style), script_digest=digest, **values)
    )
    # Lone surrogates in the corpus can't be encoded.
    return text.encode("utf-8", "replace")


def _asset(name: str) -> str:
    """Return the text of a file of this package."""
    return files("transforms.report").joinpath(name).read_text("utf-8")


@cache
def _environment() -> jinja2.Environment:
    """Return the templates' environment, with the filters `number`, `signed` and `count`."""
    loader = jinja2.FunctionLoader(_asset)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.globals["z_95"] = Z_95
    environment.filters["number"] = lambda value, digits=2: (
        "–" if value is None else f"{value:z.{digits}f}"
    )
    environment.filters["signed"] = lambda value: "–" if value is None else f"{value:+z.3f}"
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment
