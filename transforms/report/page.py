"""Pages: figures and examples into one HTML file that needs no network, and stays small whatever the data set's size."""

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
from transforms.read_examples import Example, Place
from transforms.report import figures
from transforms.report.bars import Bars, Mean, scaled
from transforms.report.passages import shown_passage

MOST_BYTES = 3_000_000
"""A page is below this; where texts are very long, fewer examples are shown."""

_FEWER = 20
"""Examples of a comparison that are shown where all would make too long a page."""

_MOST_SLICES = 500
_MOST_BARS = 40
_MOST_GIVEN = 4
"""Columns of `--slice_by` that have a figure; the table has all."""

_SLICED = {
    "context_tokens": "context length, in tokens",
    "answer_position": "where in the context the answer starts",
    "question_word": "question word (English)",
}
"""The slices of every audit that have a figure, and what they are by."""

_METRICS = (
    ("f1", "F1", " points", "Words that answer and gold share."),
    ("exact_match", "Exact match", " points", "Answers that equal a gold."),
    ("nll", "Loss", " nats", "What start and end of the gold cost together: less is better."),
)
"""Key, name, unit and meaning of what is compared."""

DOUBTS = {
    "elsewhere": "the model answers elsewhere, apart from every gold",
    "other_borders": "the model's answer has other borders than any gold that it shares words with",
    "golds_disagree": "the golds share no word with each other",
    "no_answer": "there is a gold, but the model finds no answer",
    "answerable": "there is no gold, but the model finds an answer",
}
"""What the codes of `label_error_reason` say."""


def audit_page(
    audit: Mapping[str, Any],
    examples: Mapping[Place, Example],
    about: Mapping[str, Any],
    title: str = "Audit",
) -> bytes:
    """`report.html` of an audit: `audit.json` as people read it."""
    everything = audit["all"]
    slices = audit["slices"]
    drawn = {
        "loss": figures.loss_histogram(audit["nll_histogram"]),
        "start_end": figures.start_against_end(audit["start_against_end"], LOSS_BINS),
        "reliability": figures.reliability(everything["calibration"].get("reliability", [])),
    }
    given = [name for name in slices if name not in SLICES][:_MOST_GIVEN]
    sliced = [
        (what, len(slices[name]), drawn_bars)
        for name, what in (*_SLICED.items(), *zip(given, given, strict=True))
        if (drawn_bars := _losses_of(slices.get(name, {}))).bars
    ]
    rows = [
        {"slice": name, "value": value, **part}
        for name, values in slices.items()
        for value, part in values.items()
    ]
    for shown in (WITH_TOKENS, WITH_TOKENS // 4, 0):
        page = render(
            "audit.html",
            title=title,
            audit=audit,
            all=everything,
            about=about,
            figures={
                name: Markup(svg) for name, svg in drawn.items()
            },  # our own drawing: no text of the corpus is in it
            sliced=sliced,
            most_bars=_MOST_BARS,
            slice_rows=rows[:_MOST_SLICES],
            slice_count=len(rows),
            worst=[_shown(entry, examples) for entry in audit["highest_loss"][:shown]],
            suspects=[_shown(entry, examples) for entry in audit["suspected_label_errors"][:shown]],
        )
        if len(page) < MOST_BYTES:
            break
    return page


def comparison_page(comparison: Mapping[str, Any]) -> bytes:
    """`report.html` of a comparison: `comparison.json` as people read it."""
    slices = comparison["slices"]
    rows = [
        {"slice": name, "value": value, **part}
        for name, values in slices.items()
        for value, part in values.items()
    ]
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
        if len(page) < MOST_BYTES:
            break
    return page


def _losses_of(values: Mapping[str, Any]) -> Bars:
    """The mean loss of every value of a slice."""
    means = []
    for value, part in list(values.items())[:_MOST_BARS]:
        loss = part["losses"]["nll"]
        if loss["count"]:
            mean, half = loss["mean"], Z_95 * loss["standard_error"]
            text = f"{mean:.3f} ± {half:.3f}" if loss["count"] > 1 else f"{mean:.3f}"
            means.append(Mean(value, text, mean, max(0.0, mean - half), mean + half))
    return scaled(means)


def _differences_of(groups: Sequence[tuple[str, Mapping[str, Any]]]) -> Bars:
    """The mean paired difference of every group."""
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


def _shown(entry: Mapping[str, Any], examples: Mapping[Place, Example]) -> dict[str, Any]:
    """An entry of a list with its passage; texts cut to what a page can hold."""
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
    """A page of a template. Everything is escaped; the page's policy lets no script run but its own."""
    script, style = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = (
        _environment()
        .get_template(template)
        .render(script=Markup(script), style=Markup(style), script_digest=digest, **values)
    )
    return text.encode("utf-8", "replace")


def _asset(name: str) -> str:
    return files("transforms.report").joinpath(name).read_text("utf-8")


@cache
def _environment() -> jinja2.Environment:
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
