"""WriteComparison: writes the differences of two audits as JSON and as a page.

The state in the manifest is the verdict of the gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from model.audit.comparison import Change, Comparison
from model.audit.golds import golds_of
from model.audit.statistics import shortened
from transforms.accounting import as_json
from transforms.claim import Output
from transforms.compare_audits import AuditSide
from transforms.read_examples import RowPlace, read_rows
from transforms.report.page import comparison_page
from transforms.run_files import RunFiles


@dataclass(frozen=True, slots=True)
class Gate:
    """The limits of a comparison; None: no limit.

    max_f1_drop, max_em_drop  percentage points by which the mean over pairs may fall
    max_loss_rise             nats by which the mean nll over pairs may rise
    max_failed_fraction       share of the rows of both sides that may lack a partner
    """

    max_f1_drop: float | None = None
    max_em_drop: float | None = None
    max_loss_rise: float | None = None
    max_failed_fraction: float = 0.5

    def problems(self, summary: Mapping[str, Any]) -> list[str]:
        """Return which limits a comparison exceeds, as messages; none if it passes."""
        problems = []
        unpaired = sum(each["rows"] for each in summary["unpaired"].values())
        # A pair is a row on each side.
        rows = 2 * summary["paired"] + unpaired
        if not summary["paired"]:
            problems.append("no example is in both audits")
        elif unpaired > self.max_failed_fraction * rows:
            limit = f"--max_failed_fraction={self.max_failed_fraction}"
            problems.append(
                f"{unpaired} of {rows} rows have no partner in the other audit, more than {limit}"
            )
        limits = (
            ("f1", "F1", -1, "max_f1_drop"),
            ("exact_match", "EM", -1, "max_em_drop"),
            ("nll", "loss", 1, "max_loss_rise"),
        )
        for metric, name, sign, option in limits:
            limit, difference = getattr(self, option), summary["all"][metric].get("difference")
            # A limit that can't be checked is not kept.
            if limit is not None and difference is None:
                problems.append(
                    f"no pair has a {name} on both sides: --{option}={limit} can't be judged"
                )
            elif limit is not None and sign * difference > limit:
                verb = "rose" if sign > 0 else "fell"
                problems.append(
                    f"{name} {verb} by {sign * difference:.4f}, more than --{option}={limit}"
                )
        return problems


@dataclass
class WriteComparison(beam.PTransform):
    """A Comparison -> `comparison.json`, `report.html` and, last, `manifest.json`.

    sides  before and after
    about  description of the job
    """

    output: Output
    sides: tuple[AuditSide, AuditSide]
    gate: Gate
    about: Mapping[str, Any]

    def expand(self, comparisons: beam.PCollection) -> beam.PCollection:
        return comparisons | beam.Map(
            write_comparison, self.output, self.sides, self.gate, self.about
        )


def write_comparison(
    comparison: Comparison,
    output: Output,
    sides: tuple[AuditSide, AuditSide],
    gate: Gate,
    about: Mapping[str, Any],
) -> None:
    """Write the files of a comparison, the manifest last.

    `state` is "complete" if the comparison keeps the limits of the gate.
    """
    # Texts are read from the parts now; only positions have crossed the shuffle.
    content = {**about, **comparison.summary()}
    paths = [side.paths() for side in sides]
    for name in ("regressions", "improvements"):
        content[name] = _listed(getattr(comparison, name), sides, paths)
    why = gate.problems(content)
    content["why"] = why
    output.commit(as_json(content), RunFiles.COMPARISON)
    output.commit(comparison_page(content), RunFiles.REPORT)
    counts = {
        "paired": content["paired"],
        **{kind: each["rows"] for kind, each in content["unpaired"].items()},
    }
    manifest = {"state": "incomplete" if why else "complete", "why": why, **about, "rows": counts}
    output.commit(as_json(manifest), RunFiles.MANIFEST)


def _listed(
    changes: list[Change], sides: tuple[AuditSide, AuditSide], paths: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Return the entries of changes, with texts from the parts."""
    texts: list[dict[RowPlace, dict[str, Any]]] = []
    for side, parts in zip(sides, paths, strict=True):
        scores = [change[4] if side.after else change[3] for change in changes]
        columns = [
            side.prefix + "prediction",
            *filter(None, [side.question, side.answers if side.after else ""]),
        ]
        texts.append(read_rows([(parts[score.part], score.row) for score in scores], columns))
    listed = []
    for _, _, row_id, *both in changes:
        entry: dict[str, Any] = {"id": row_id}
        for side, parts, rows, score in zip(sides, paths, texts, both, strict=True):
            row = rows.get((parts[score.part], score.row), {})
            # Either side may have left the column out.
            entry["question"] = shortened(row.get(side.question)) or entry.get("question", "")
            golds = golds_of(row.get(side.answers)) or {}
            entry["gold"] = [shortened(text) for text in (golds.get("text") or [])[:3]]
            nll, _, f1 = (None if math.isnan(value) else value for value in score.values)
            entry["after" if side.after else "before"] = {
                "prediction": shortened(row.get(side.prefix + "prediction")),
                "nll": nll,
                "f1": f1,
                "status": score.status,
            }
        listed.append(entry)
    return listed
