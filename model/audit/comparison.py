"""Comparison of two audits of the same examples: paired differences that merge in any order.

The interval of a mean of paired differences d is the normal one, mean +- 1.96 s / sqrt(n). Sums of
d and d^2 merge, the samples of a bootstrap do not, and with the hundreds of examples that a
comparison needs both intervals agree.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from model.audit.distributions import Z_95
from model.audit.slices import MOST_SLICES, OTHER

METRICS = ("nll", "exact_match", "f1")
"""The compared figures: loss in nats, EM and F1 in [0, 1]. A difference is after - before."""

_SCALE = {"nll": 1, "exact_match": 100, "f1": 100}
"""Factors of the figures in summaries, which give EM and F1 in per cent."""

SAME = 1e-3
"""Differences up to this size, in nats or in EM and F1, count as none.

The rounding of logits varies with the batch.
"""

MOST_UNPAIRED = 100
"""Most ids that are listed of each kind of unpaired example; all are counted."""


@dataclass(frozen=True, slots=True)
class Score:
    """What crosses the shuffle of an audited row: no text but its id and values of slices.

    after        whether the row is from the audit that is compared with the earlier one
    part, row    index of its part in the sorted list of parts, and of the row in the part
    values       one per metric of METRICS; nan where undefined
    pair, golds  hashes of question and context, and of the golds; None for a rejected row
    labels       (slice, value) of each slice
    """

    after: bool
    id: str
    part: int
    row: int
    status: str
    values: tuple[float, ...]
    pair: bytes | None
    golds: bytes | None
    labels: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Difference:
    """Paired differences of one metric.

    before, after  sums of the metric over the same `count` examples
    squares        sum of the squared differences
    better, worse  how many examples changed by more than `SAME`
    """

    count: int = 0
    before: float = 0.0
    after: float = 0.0
    squares: float = 0.0
    better: int = 0
    worse: int = 0

    def add(self, before: float, after: float, sign: int) -> None:
        """Add one example, unless a value is undefined.

        `sign` is +1 if larger values are better, -1 if smaller ones are.
        """
        if math.isfinite(before) and math.isfinite(after):
            self.count += 1
            self.before += before
            self.after += after
            self.squares += (after - before) ** 2
            self.better += sign * (after - before) > SAME
            self.worse += sign * (after - before) < -SAME

    def merge(self, other: Self) -> None:
        """Add the examples of another difference."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def summary(self, scale: float) -> dict[str, Any]:
        """Return count, both means and their difference with its 95 % interval, times `scale`."""
        if not self.count:
            return {"count": 0}
        mean = (self.after - self.before) / self.count
        variance = max(0.0, self.squares - self.count * mean * mean) / max(1, self.count - 1)
        half = Z_95 * math.sqrt(variance / self.count)
        return {
            "count": self.count,
            "before": scale * self.before / self.count,
            "after": scale * self.after / self.count,
            "difference": _rounded(scale * mean),
            "interval": [_rounded(scale * (mean - half)), _rounded(scale * (mean + half))],
            "better": self.better,
            "worse": self.worse,
        }


def _rounded(value: float) -> float:
    """Remove the rounding of float64 sums.

    1e-16, which a limit of 0 would refuse, and -0.0 become 0.0.
    """
    return round(value, 12) + 0.0


@dataclass(slots=True)
class Differences:
    """The differences of all metrics over the same examples."""

    metrics: dict[str, Difference] = field(
        default_factory=lambda: {name: Difference() for name in METRICS}
    )

    def add(self, before: Score, after: Score) -> None:
        """Add one example."""
        for name, one, other in zip(METRICS, before.values, after.values, strict=True):
            self.metrics[name].add(one, other, -1 if name == "nll" else 1)

    def merge(self, other: Self) -> None:
        """Add the examples of other differences."""
        for name, difference in self.metrics.items():
            difference.merge(other.metrics[name])

    def summary(self) -> dict[str, Any]:
        """Return the summary of each metric, EM and F1 in per cent."""
        return {name: difference.summary(_SCALE[name]) for name, difference in self.metrics.items()}


@dataclass(slots=True)
class Unpaired:
    """Rows that are not compared: their number, and the first `MOST_UNPAIRED` ids, sorted."""

    rows: int = 0
    ids: list[str] = field(default_factory=list)

    def add(self, scores: list[Score]) -> None:
        """Add rows."""
        self.rows += len(scores)
        self.ids = heapq.nsmallest(MOST_UNPAIRED, {*self.ids, *(score.id for score in scores)})

    def merge(self, other: Self) -> None:
        """Add the rows of another instance."""
        self.rows += other.rows
        self.ids = heapq.nsmallest(MOST_UNPAIRED, {*self.ids, *other.ids})


UNPAIRED = ("only_before", "only_after", "text_changed", "repeated", "without_id")
"""Why rows are not compared.

Only one audit has them, their question or context differs, their id and texts appear more than once
in an audit, or their id is null.
"""

Change = tuple[float, float, str, Score, Score]
"""(F1 change, loss change, id, before, after), signed so that the largest changes sort first."""


@dataclass(slots=True)
class Comparison:
    """The comparison of two audits; it merges.

    everything                 differences over all paired examples
    slices                     slice -> value -> differences
    statuses                   (status before, status after) -> number of examples
    golds_changed              number of paired examples whose golds differ
    regressions, improvements  the `most` largest changes for the worse and for the better: by F1,
                               then by loss
    changes                    "regressions" and "improvements" -> number of all
    unpaired                   kind of `UNPAIRED` -> its rows
    """

    most: int
    everything: Differences = field(default_factory=Differences)
    slices: dict[str, dict[str, Differences]] = field(default_factory=dict)
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    golds_changed: int = 0
    regressions: list[Change] = field(default_factory=list)
    improvements: list[Change] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)
    unpaired: dict[str, Unpaired] = field(
        default_factory=lambda: {name: Unpaired() for name in UNPAIRED}
    )

    def add_pair(self, before: Score, after: Score) -> None:
        """Add an example that both audits have."""
        self.everything.add(before, after)
        self.statuses[before.status, after.status] += 1
        self.golds_changed += before.golds != after.golds
        for name, value in before.labels if before.status != "rejected" else ():
            values = self.slices.setdefault(name, {})
            values.setdefault(value, Differences()).add(before, after)
            _fold_rare(values)
        # F1 decides whether an example is better or worse; where it is the same, the loss does.
        changes = [
            b - a if math.isfinite(b - a) else 0.0
            for b, a in zip(before.values, after.values, strict=True)
        ]
        loss, f1 = -changes[0], -changes[2]
        if f1 < -SAME or (f1 <= SAME and loss > SAME):
            self._keep("regressions", [(f1, -loss, before.id, before, after)])
            self.changes["regressions"] += 1
        elif f1 > SAME or loss < -SAME:
            self._keep("improvements", [(-f1, loss, before.id, before, after)])
            self.changes["improvements"] += 1

    def add_unpaired(self, kind: str, scores: list[Score]) -> None:
        """Add rows that are not compared, for a reason of `UNPAIRED`."""
        self.unpaired[kind].add(scores)

    def _keep(self, name: str, changes: list[Change]) -> None:
        """Add changes to `regressions` or `improvements`, and drop all but the `most` largest."""
        setattr(
            self, name, heapq.nsmallest(self.most, [*getattr(self, name), *changes], key=_order)
        )

    def merge(self, other: Self) -> None:
        """Add the examples of another comparison of the same two audits."""
        self.everything.merge(other.everything)
        for name, values in other.slices.items():
            mine = self.slices.setdefault(name, {})
            for value, differences in values.items():
                mine.setdefault(value, Differences()).merge(differences)
            _fold_rare(mine)
        self.statuses.update(other.statuses)
        self.golds_changed += other.golds_changed
        self.changes.update(other.changes)
        for name in ("regressions", "improvements"):
            self._keep(name, getattr(other, name))
        for kind, unpaired in self.unpaired.items():
            unpaired.merge(other.unpaired[kind])

    def summary(self) -> dict[str, Any]:
        """Return all figures, without the lists of regressions and improvements."""
        return {
            "paired": sum(self.statuses.values()),
            "unpaired": {
                kind: {"rows": each.rows, "ids": each.ids} for kind, each in self.unpaired.items()
            },
            "golds_changed": self.golds_changed,
            "changes": {name: self.changes[name] for name in ("regressions", "improvements")},
            "statuses": [
                {"before": before, "after": after, "rows": rows}
                for (before, after), rows in sorted(self.statuses.items())
            ],
            "all": self.everything.summary(),
            "slices": {
                name: {value: values[value].summary() for value in sorted(values)}
                for name, values in sorted(self.slices.items())
            },
        }


def _order(change: Change) -> tuple[float, float, str, int, int]:
    """Return the sort key of a change: largest first, ties by id and position."""
    f1, loss, row_id, before, _ = change
    return f1, loss, row_id, before.part, before.row


def _fold_rare(values: dict[str, Differences]) -> None:
    """Merge all but the first `MOST_SLICES` values in sorted order into `OTHER`."""
    if len(values) > MOST_SLICES:
        for value in sorted(value for value in values if value != OTHER)[MOST_SLICES:]:
            values.setdefault(OTHER, Differences()).merge(values.pop(value))
