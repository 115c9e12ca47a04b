"""Mergeable statistics of an audit: the same for any chunking, any order and any number of workers.

Counts and sketches merge exactly; sums are of float64 and agree to 1e-9.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa

from model.audit.distributions import loss_bin
from model.audit.losses import LikelyToken
from model.audit.risk_coverage import risk_coverage_curve
from model.audit.several_answers import SpanCurve
from model.audit.slice_figures import LOSSES, Slice
from model.audit.slices import MOST_SLICES, OTHER, given_labels, slice_labels

WITH_TOKENS = 20
"""How many examples of a list come with their likely tokens: those that a report shows."""

Entry = tuple[float, str, int, dict[str, Any]]
"""-value, path, row, and what a list shows of the row."""

ExampleOf = Callable[[int], dict[str, Any]]
TokensOf = Callable[[int], Sequence[LikelyToken]]
"""Functions of a row of the chunk: what a list shows of it, and its likely tokens."""

_SHOWN_CHARACTERS = 300


def shortened(text: str | None) -> str:
    """Cut a text to what a list of examples shows; an ellipsis replaces the rest. Idempotent."""
    text = text or ""
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


@dataclass(slots=True)
class Ranking:
    """The examples of highest value, at most `most`, sorted.

    The first WITH_TOKENS have `likely_tokens`, in a chunk and in a merged list alike.
    """

    most: int = 0
    entries: list[Entry] = field(default_factory=list)

    def add(
        self, values: np.ndarray, audit: pa.Table, example_of: ExampleOf, tokens_of: TokensOf
    ) -> None:
        """Add the rows of one chunk, except those whose value isn't finite."""
        values = np.where(np.isfinite(values), values, -np.inf)
        for place, row in enumerate(
            np.lexsort((np.arange(len(values)), -values))[: self.most].tolist()
        ):
            if values[row] > -np.inf:
                example = {
                    **example_of(row),
                    **{name: audit.column(name)[row].as_py() for name in SHOWN},
                }
                if place < WITH_TOKENS:
                    example["likely_tokens"] = tokens_of(row)
                self.entries.append(
                    (-float(values[row]), str(example["path"]), int(example["row"]), example)
                )

    def merge(self, other: Self) -> None:
        """Add the examples of another ranking, and keep the highest."""
        self.most = max(self.most, other.most)
        entries = heapq.nsmallest(
            self.most, [*self.entries, *other.entries], key=lambda entry: entry[:3]
        )
        self.entries = [*entries[:WITH_TOKENS], *map(_without_tokens, entries[WITH_TOKENS:])]

    def to_json(self) -> list[Any]:
        """Return the fields as values that JSON keeps exactly; inverse of `from_json`."""
        return [self.most, self.entries]

    @classmethod
    def from_json(cls, values: list[Any]) -> Self:
        """Make a ranking from the result of `to_json`."""
        return cls(values[0], [(entry[0], entry[1], entry[2], entry[3]) for entry in values[1]])


def _without_tokens(entry: Entry) -> Entry:
    """Return an entry without its likely tokens."""
    value, path, row, example = entry
    return value, path, row, {name: example[name] for name in example if name != "likely_tokens"}


@dataclass(slots=True)
class Statistics:
    """Statistics of all examples and of every slice, and the examples to look at first.

    everything  statistics of all examples
    slices      slice -> value -> statistics
    grid        (bin of nll_start, bin of nll_end) -> rows: at most LOSS_BINS^2 entries
    worst       the examples with the highest nll
    suspects    the examples with the highest label_error, where it is above 0
    spans       precision and recall over spans; empty if no setting asks for distinct spans
    """

    everything: Slice = field(default_factory=Slice)
    slices: dict[str, dict[str, Slice]] = field(default_factory=dict)
    grid: Counter[tuple[int, int]] = field(default_factory=Counter)
    worst: Ranking = field(default_factory=Ranking)
    suspects: Ranking = field(default_factory=Ranking)
    spans: SpanCurve = field(default_factory=SpanCurve)

    def merge(self, other: Self) -> None:
        """Add the examples of other statistics."""
        self.everything.merge(other.everything)
        for name, values in other.slices.items():
            mine = self.slices.setdefault(name, {})
            for value, part in values.items():
                mine.setdefault(value, Slice()).merge(part)
            fold_rare(mine)
        self.grid.update(other.grid)
        self.worst.merge(other.worst)
        self.suspects.merge(other.suspects)
        self.spans.merge(other.spans)

    def summary(self) -> dict[str, Any]:
        """Return all figures as audit.json has them."""
        return {
            "all": self.everything.summary(),
            "slices": {
                name: {value: values[value].summary() for value in sorted(values)}
                for name, values in sorted(self.slices.items())
            },
            "risk_coverage_curve": risk_coverage_curve(
                self.everything.calibration.bins, self.everything.graded
            ),
            "nll_histogram": self.everything.losses["nll"].histogram(),
            "start_against_end": sorted([*place, rows] for place, rows in self.grid.items()),
            "highest_loss": [
                {"nll": -loss, **example} for loss, _, _, example in self.worst.entries
            ],
            "suspected_label_errors": [example for _, _, _, example in self.suspects.entries],
        }

    def to_json(self) -> dict[str, Any]:
        """Return the fields as values that JSON keeps exactly; inverse of `from_json`."""
        return {
            "all": self.everything.to_json(),
            "slices": {
                name: {value: part.to_json() for value, part in values.items()}
                for name, values in self.slices.items()
            },
            "grid": sorted([*place, rows] for place, rows in self.grid.items()),
            "worst": self.worst.to_json(),
            "suspects": self.suspects.to_json(),
            "spans": self.spans.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Make statistics from the result of `to_json`."""
        slices = {
            name: {value: Slice.from_json(part) for value, part in each.items()}
            for name, each in values["slices"].items()
        }
        grid = Counter({(start, end): rows for start, end, rows in values["grid"]})
        worst, suspects = (Ranking.from_json(values[name]) for name in ("worst", "suspects"))
        # Receipts of earlier versions lack the spans.
        spans = SpanCurve.from_json(values["spans"]) if "spans" in values else SpanCurve()
        return cls(Slice.from_json(values["all"]), slices, grid, worst, suspects, spans)


def fold_rare(values: dict[str, Slice]) -> None:
    """Merge all but the first MOST_SLICES values, in the order of their text, into OTHER.

    A value that is among the first of all is among the first of every part that holds it. Therefore
    what is kept doesn't depend on how parts merge.
    """
    for value in sorted(value for value in values if value != OTHER)[MOST_SLICES:]:
        values.setdefault(OTHER, Slice()).merge(values.pop(value))


SHOWN = (
    "prediction",
    "prediction_start",
    "prediction_end",
    "probability",
    "gold_start",
    "gold_end",
    "gold_probability",
    "null_probability",
    "nll_start",
    "nll_end",
    "f1",
    "label_error",
    "label_error_reason",
)
"""Audit columns that the lists of examples show of each row."""


@dataclass(frozen=True, slots=True)
class Lists:
    """What the lists of examples show, and how many examples they have at most.

    example_of  what they show of a row in addition to SHOWN: path, row, id, question, gold (values
                for JSON)
    tokens_of   the likely tokens of a row, see `model.audit.losses.likely_tokens`
    worst       examples of highest loss
    suspects    suspected label errors
    """

    example_of: ExampleOf
    tokens_of: TokensOf
    worst: int
    suspects: int = 0


def measure(
    audit: pa.Table, questions: list[str], given: Mapping[str, Sequence[object]], lists: Lists
) -> Statistics:
    """Return the statistics of one chunk.

    audit      its audit columns; rejected rows are left out
    questions  [rows]
    given      columns of `--slice_by`, [rows] values each
    """
    # All figures as float64, with nan for null.
    scores = ("exact_match", "f1", "character_f1", "probability", "span_score", "null_score")
    names = (*LOSSES, *scores, "label_error")
    columns = {
        name: audit.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for name in names
    }
    status = np.array(audit.column("status").to_pylist())
    kept = status != "rejected"
    golds = audit.column("golds").fill_null(0).to_numpy()
    columns["answerable"] = (golds > 0).astype(np.float64)
    columns["answered"] = np.array(
        [bool(text) for text in audit.column("prediction").to_pylist()], np.float64
    )
    labels = {
        **slice_labels(audit, questions),
        **{name: given_labels(values) for name, values in given.items()},
    }

    # All examples, and those of each value of each slice.
    result = Statistics(worst=Ranking(lists.worst), suspects=Ranking(lists.suspects))
    result.everything.add({name: values[kept] for name, values in columns.items()})
    for name, values in labels.items():
        of_slice = np.array(values, dtype=object)
        parts = result.slices.setdefault(name, {})
        for value in sorted(set(of_slice[kept].tolist())):
            inside = kept & (of_slice == value)
            parts.setdefault(value, Slice()).add(
                {each: array[inside] for each, array in columns.items()}
            )
        fold_rare(parts)

    # Start against end loss, and the examples to look at first.
    sides = np.stack([np.where(kept, columns[f"nll_{side}"], np.nan) for side in ("start", "end")])
    sides = np.maximum(sides[:, np.isfinite(sides).all(0)], 0.0)
    result.grid.update(zip(*(loss_bin(side).tolist() for side in sides), strict=True))
    suspicion = np.where(kept & (columns["label_error"] > 0), columns["label_error"], np.nan)
    losses = np.where(kept, columns["nll"], np.nan)
    result.worst.add(losses, audit, lists.example_of, lists.tokens_of)
    result.suspects.add(suspicion, audit, lists.example_of, lists.tokens_of)
    return result
