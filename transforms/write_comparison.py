"""WriteComparison: what two audits differ in, as JSON, as a page, and as a manifest whose state is the gate's verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from model.comparison import Change, Comparison
from transforms.claim import Output
from transforms.compare_audits import ScoredPart
from transforms.read_examples import Place, read_rows
from transforms.report.page import comparison_page
from transforms.report.passages import shortened
from transforms.write_manifest import MANIFEST, REPORT, as_json

COMPARISON = "comparison.json"


@dataclass(frozen=True, slots=True)
class Gate:
    """The limits that a comparison must keep; None: no limit.

    max_f1_drop, max_em_drop  points of per cent by which the mean over pairs may fall
    max_loss_rise             nats by which the mean of nll over pairs may rise
    max_failed_fraction       share of the rows of both sides that may be without a partner
    """

    max_f1_drop: float | None = None
    max_em_drop: float | None = None
    max_loss_rise: float | None = None
    max_failed_fraction: float = 0.5

    def problems(self, summary: Mapping[str, Any]) -> list[str]:
        """What is wrong with a comparison, in words; nothing if it passes."""
        found = []
        unpaired = sum(each["rows"] for each in summary["unpaired"].values())
        rows = 2 * summary["paired"] + unpaired
        if not summary["paired"]:
            found.append("no example stands in both audits")
        elif unpaired > self.max_failed_fraction * rows:
            limit = f"--max_failed_fraction={self.max_failed_fraction}"
            found.append(f"{unpaired} of {rows} rows have no partner in the other audit, more than {limit}")
        limits = (
            ("f1", "F1", -1, "max_f1_drop"),
            ("exact_match", "EM", -1, "max_em_drop"),
            ("nll", "loss", 1, "max_loss_rise"),
        )
        for metric, name, sign, option in limits:
            limit, difference = getattr(self, option), summary["all"][metric].get("difference")
            if limit is not None and difference is None:
                found.append(f"no pair has a {name} on both sides: --{option}={limit} can't be judged")
            elif limit is not None and sign * difference > limit:
                verb = "rose" if sign > 0 else "fell"
                found.append(f"{name} {verb} by {sign * difference:.4f}, more than --{option}={limit}")
        return found


@dataclass
class WriteComparison(beam.PTransform):
    """The one Comparison -> `comparison.json`, `report.html` and, last, `manifest.json`.

    parts    of both sides, each in the order of their index
    answers  name of the column of golds after; "" where the output does not keep it
    about    what the job is
    """

    output: Output
    parts: tuple[ScoredPart, ...]
    answers: str
    gate: Gate
    about: Mapping[str, Any]

    def expand(self, comparisons: beam.PCollection) -> beam.PCollection:
        return comparisons | beam.Map(write_comparison, self.output, self.parts, self.answers, self.gate, self.about)


def write_comparison(
    comparison: Comparison, output: Output, parts: tuple[ScoredPart, ...], answers: str, gate: Gate, about: Mapping[str, Any]
) -> None:
    """Writes the files of a comparison, the manifest last: `state` is "complete" if the gate lets it pass."""
    content = {**about, **comparison.summary()}
    by_side = {side: [part for part in parts if part.after == side] for side in (False, True)}
    for name in ("regressions", "improvements"):
        content[name] = _listed(getattr(comparison, name), by_side, answers)
    why = gate.problems(content)
    content["why"] = why
    output.commit(as_json(content), COMPARISON)
    output.commit(comparison_page(content), REPORT)
    counts = {"paired": content["paired"], **{kind: each["rows"] for kind, each in content["unpaired"].items()}}
    manifest = {"state": "incomplete" if why else "complete", "why": why, **about, "rows": counts}
    output.commit(as_json(manifest), MANIFEST)


def _listed(changes: list[Change], by_side: Mapping[bool, list[ScoredPart]], answers: str) -> list[dict[str, Any]]:
    """Changes with their texts, which are read again from the parts."""
    texts: dict[bool, dict[Place, dict[str, Any]]] = {}
    for side in (False, True):
        parts = by_side[side]
        scores = [change[4] if side else change[3] for change in changes]
        columns = [parts[0].prefix + "prediction", *filter(None, [parts[0].question, answers if side else ""])] if parts else []
        texts[side] = read_rows([(parts[score.part].path, score.row) for score in scores], columns)
    listed = []
    for _, _, row_id, *both in changes:
        entry: dict[str, Any] = {"id": row_id}
        for side, score in zip((False, True), both, strict=True):
            part = by_side[side][score.part]
            row = texts[side].get((part.path, score.row), {})
            name = "after" if side else "before"
            entry["question"] = shortened(row.get(part.question)) or entry.get("question", "")
            entry["gold"] = [shortened(text) for text in ((row.get(answers) or {}).get("text") or [])[:3]]
            nll, _, f1 = (None if value != value else value for value in score.values)
            entry[name] = {
                "prediction": shortened(row.get(part.prefix + "prediction")),
                "nll": nll,
                "f1": f1,
                "status": score.status,
            }
        listed.append(entry)
    return listed
