"""Precision and recall over spans, for questions with answers at several places.

The definitions are those of CUAD (Hendrycks, Burns, Chen & Ball 2021, arXiv:2103.06268, and its
evaluate.py): all spans of all rows are ranked by probability. A span matches a gold if the Jaccard
index of their words is at least 0.5, wherever in the passage they are, as exact match and F1 ignore
places too. Among the spans of probability p or more, the true positives are the golds that one of
them matches, the false positives the spans that match no gold, and the false negatives the other
golds. Of overlapping golds, which are the readings of several annotators, one match is enough: they
are one place. CUAD's exception for the question about the parties is not made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from model.audit.metrics import UNSPACED_CHARACTER
from model.audit.rows import Examples
from model.reading.answers import candidate_offsets

MATCH = 0.5
"""The least Jaccard index of a span and a gold that match."""

LOG_ODDS_RESOLUTION = 0.02
"""Width of the bins of probability, in log-odds: below 0.005 at p = 0.5, 2 % of a small p."""

RECALLS = (80, 90)
"""At which recalls the precision is reported, in per cent."""

_LEAST = 1e-7
"""Smaller probabilities are in the bin of this one, and so are those above 1 - 1e-7."""

_STEP = 0.005
"""Distance of the points of the curve in summaries, in recall."""

_REMOVED = str.maketrans({".": "", ",": "", ";": "", ":": "", "/": " "})

CharSpan = tuple[int, int]


def places_of(golds: Sequence[CharSpan]) -> list[list[CharSpan]]:
    """Group the golds of a row, [start, end) and sorted, by place: those that overlap share one."""
    places: list[list[CharSpan]] = []
    end = -1
    for gold in golds:
        if gold[0] < end:
            places[-1].append(gold)
        else:
            places.append([gold])
        end = max(end, gold[1])
    return places


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text as CUAD compares them.

    Lower case, without `. , ; :`; a slash separates words. Characters of scripts without blanks are
    words of their own, as for character F1.
    """
    plain = text.translate(_REMOVED).lower()
    return frozenset(UNSPACED_CHARACTER.sub(r" \g<0> ", plain).split())


def matches(words: frozenset[str], others: frozenset[str]) -> bool:
    """Return whether a span matches a gold, by the words of both; those without words do not."""
    return len(words & others) >= MATCH * max(1, len(words | others))


@dataclass(slots=True)
class SpanCurve:
    """Precision and recall of spans by their least probability, mergeable in any order.

    Points of the curve are at the borders of bins, where their counts are exact.

    rows     rows that count: all but the rejected ones
    several  rows with golds at two or more places
    places   places with a gold
    found    bin -> places whose most probable match is in it
    wrong    bin -> spans in it that match no gold
    shown    [found places, wrong spans] among the spans that --all_answers writes
    """

    rows: int = 0
    several: int = 0
    places: int = 0
    found: Counter[int] = field(default_factory=Counter)
    wrong: Counter[int] = field(default_factory=Counter)
    shown: list[int] = field(default_factory=lambda: [0, 0])

    def add(
        self,
        spans: Sequence[tuple[str, float]],
        golds: Sequence[Sequence[str]],
        least: float | None,
    ) -> None:
        """Add a row.

        spans  text and probability of the distinct spans
        golds  the texts of the golds by place
        least  the probability of --all_answers, if it is given
        """
        self.rows += 1
        self.several += len(golds) > 1
        self.places += len(golds)
        best, wrong = [-1.0] * len(golds), []
        of_gold = [[words_of(text) for text in place] for place in golds]
        for text, probability in spans:
            words = words_of(text)
            hits = [any(matches(words, gold) for gold in place) for place in of_gold]
            best = [
                max(before, probability) if hit else before
                for before, hit in zip(best, hits, strict=True)
            ]
            if not any(hits):
                wrong.append(probability)
        found = [probability for probability in best if probability >= 0]
        self.found.update(map(odds_bin, found))
        self.wrong.update(map(odds_bin, wrong))
        if least is not None:
            threshold = np.float32(least)
            for place, probabilities in enumerate((found, wrong)):
                enough = np.array(probabilities, np.float32) >= threshold
                self.shown[place] += int(enough.sum())

    def merge(self, other: Self) -> None:
        """Add the rows of another curve."""
        self.rows += other.rows
        self.several += other.several
        self.places += other.places
        self.found.update(other.found)
        self.wrong.update(other.wrong)
        self.shown = [mine + others for mine, others in zip(self.shown, other.shown, strict=True)]

    def points(self) -> np.ndarray:
        """Return [least probability, precision, recall] of every bin that has a span, as rows.

        Descending by probability; float64 [bins, 3]. Empty without golds.
        """
        bins = np.array(sorted({*self.found, *self.wrong}, reverse=True), int)
        if not len(bins) or not self.places:
            return np.zeros((0, 3))
        found = np.cumsum([self.found[each] for each in bins.tolist()])
        wrong = np.cumsum([self.wrong[each] for each in bins.tolist()])
        least = 1 / (1 + np.exp(-bins * LOG_ODDS_RESOLUTION))
        return np.stack([least, found / (found + wrong), found / self.places], 1)

    def summary(self, least: float | None) -> dict[str, Any]:
        """Return all figures as audit.json has them; those without a value are left out.

        least  the probability of --all_answers, if it is given
        """
        result: dict[str, Any] = {
            "rows": self.rows,
            "rows_with_several_places": self.several,
            "places": self.places,
        }
        if least is not None:
            found, wrong = self.shown
            result["all_answers"] = {
                "probability": least,
                **_scores(found / (found + wrong) if found + wrong else 0.0, found, self.places),
            }
        points = self.points()
        if not len(points):
            return result
        # CUAD's curve: it begins with precision 1 at recall 0, and the precision at a recall is the
        # best at that recall or above. The area ends at the highest recall.
        recall = np.append(0.0, points[:, 2])
        best = np.maximum.accumulate(np.append(1.0, points[:, 1])[::-1])[::-1]
        f1 = 2 * points[:, 1] * points[:, 2] / np.maximum(points[:, 1] + points[:, 2], 1e-12)
        top = int(f1.argmax())
        result["best_f1"] = {
            "probability": float(points[top, 0]),
            **_scores(float(points[top, 1]), float(points[top, 2]) * self.places, self.places),
        }
        result["aupr"] = 100 * float((np.diff(recall) * (best[1:] + best[:-1]) / 2).sum())
        result["highest_recall"] = 100 * float(recall[-1])
        for wanted in RECALLS:
            reached = np.flatnonzero(100 * recall >= wanted)
            precision = 100 * float(best[reached[0]]) if len(reached) else None
            result[f"precision_at_{wanted}_recall"] = precision
        steps = np.append(True, np.diff(np.floor(points[:, 2] / _STEP)) > 0)
        result["curve"] = points[steps].tolist()
        return result

    def to_json(self) -> list[Any]:
        """Return the fields as values that JSON keeps exactly; inverse of `from_json`."""
        counts = [sorted(each.items()) for each in (self.found, self.wrong)]
        return [self.rows, self.several, self.places, *counts, self.shown]

    @classmethod
    def from_json(cls, values: list[Any]) -> Self:
        """Make a curve from the result of `to_json`."""
        rows, several, places, found, wrong, shown = values
        return cls(rows, several, places, Counter(dict(found)), Counter(dict(wrong)), list(shown))


def span_curve(examples: Examples) -> SpanCurve:
    """Return the curve of the rows of a chunk; empty if no setting asks for distinct spans."""
    curve, spans, golds = SpanCurve(), examples.spans.distinct, examples.golds
    if spans is None:
        return curve
    begins, ends = candidate_offsets(spans, examples.windows)
    for row in np.flatnonzero(~examples.rejected).tolist():
        pair, context = examples.row_pair[row], examples.contexts[examples.passage[row]]
        places = [
            [context[start:end] for start, end in place]
            for place in places_of(golds.char_spans[row])
        ]
        of_pair = (each[pair, : spans.found[pair]] for each in (begins, ends, spans.probability))
        found = zip(*(each.tolist() for each in of_pair), strict=True)
        predicted = [(context[start:end], probability) for start, end, probability in found]
        curve.add(predicted, places, examples.decoding.all_answers)
    return curve


def odds_bin(probability: float) -> int:
    """Return the bin of a probability."""
    clipped = min(max(probability, _LEAST), 1 - _LEAST)
    return math.floor(math.log(clipped / (1 - clipped)) / LOG_ODDS_RESOLUTION)


def _scores(precision: float, found: float, places: int) -> Mapping[str, float]:
    """Return precision, recall and F1 in per cent."""
    recall = found / places if places else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"precision": 100 * precision, "recall": 100 * recall, "f1": 100 * f1}
