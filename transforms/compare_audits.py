"""CompareAudits: joins the rows of two audits by id.

Figures and positions of rows cross the shuffle, never texts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from model.audit.comparison import METRICS, Comparison, Score
from model.audit.slices import given_labels, slice_labels
from model.reading.texts import as_texts
from transforms.parquet_files import open_parquet
from transforms.run_files import RunFiles

_MEASURED = ("context_characters", "num_tokens", "num_windows", "golds", "gold_start", "gold_end")
SCORE_COLUMNS = (*METRICS, "status", "pair_hash", "gold_hash", *_MEASURED)
"""The audit columns that a comparison reads."""


@dataclass(frozen=True, slots=True)
class AuditSide:
    """One of the two audits, and the names of its columns.

    Workers list its parts, so that the graph has the same size for any number of parts.

    question  "" if the output does not keep it: there are no slices by question word then
    answers   "" if the output does not keep it
    slices    the columns of `--slice_by` that the output keeps
    """

    folder: str
    after: bool
    id: str
    prefix: str
    question: str
    answers: str
    slices: tuple[str, ...]

    def paths(self) -> list[str]:
        """Return the paths of the parts in order; `Score.part` is an index into them."""
        files = RunFiles(self.folder)
        return [files.part(name) for name in files.part_names()]


@dataclass(frozen=True, slots=True)
class ScoredPart:
    """A part of an audit, and its index among the parts of its side."""

    side: AuditSide
    path: str
    index: int


def list_parts(side: AuditSide) -> Iterator[ScoredPart]:
    """Yield the parts of an audit."""
    for index, path in enumerate(side.paths()):
        yield ScoredPart(side, path, index)


def read_scores(part: ScoredPart) -> Iterator[tuple[str | None, Score]]:
    """Yield (id, Score) for every row of a part, including rejected rows."""
    side = part.side
    names = [side.prefix + name for name in SCORE_COLUMNS]
    wanted = list(dict.fromkeys([side.id, *filter(None, [side.question]), *side.slices, *names]))
    first_row = 0
    with open_parquet(part.path) as file:
        for batch in file.iter_batches(columns=wanted):
            audit = pa.table({name: batch.column(side.prefix + name) for name in SCORE_COLUMNS})
            labels = _slice_labels(batch, audit, side)
            # A metric may be null, as the loss of a rejected row: nan in a tuple of floats.
            values = zip(
                *(audit.column(name).fill_null(float("nan")).to_pylist() for name in METRICS),
                strict=True,
            )
            rest = (audit.column(name).to_pylist() for name in ("status", "pair_hash", "gold_hash"))
            rows = zip(as_texts(batch.column(side.id)), values, *rest, strict=True)
            for row, (row_id, figures, status, pair, golds) in enumerate(rows):
                slices = tuple((name, column[row]) for name, column in labels.items())
                score = Score(
                    side.after,
                    row_id or "",
                    part.index,
                    first_row + row,
                    status,
                    figures,
                    pair,
                    golds,
                    slices,
                )
                yield row_id, score
            first_row += batch.num_rows


def _slice_labels(
    batch: pa.RecordBatch, audit: pa.Table, side: AuditSide
) -> Mapping[str, Sequence[str]]:
    """Return the labels of a batch's rows by slice; none for the audit after.

    A pair belongs to the slices of its row before.
    """
    if side.after:
        return {}
    questions = as_texts(batch.column(side.question)) if side.question else []
    labels = slice_labels(audit, questions or [None] * batch.num_rows)
    if not side.question:
        del labels["question_word"]
    labels.update({name: given_labels(as_texts(batch.column(name))) for name in side.slices})
    return labels


Pairing = tuple[str, list[Score], list[Score]]
"""("paired" or a kind of UNPAIRED, scores before, scores after)"""


def pair_scores(row_id: str | None, scores: Iterable[Score]) -> Iterator[Pairing]:
    """Pair the rows of one id, holding all of them in memory.

    If a side has several rows of the id, rows with equal question and context are paired.
    """
    if row_id is None:
        for score in scores:  # one by one: any number of rows may lack an id
            yield "without_id", *(([], [score]) if score.after else ([score], []))
        return
    # Rows of one id, by the hash of question and context.
    by_texts: dict[bytes, tuple[list[Score], list[Score]]] = defaultdict(lambda: ([], []))
    for score in scores:
        by_texts[score.pair or b""][score.after].append(score)
    before, after = (
        [score for sides in by_texts.values() for score in sides[side]] for side in (False, True)
    )
    # One row on each side is a pair, even if its texts have changed.
    if len(before) <= 1 and len(after) <= 1:
        yield _judged(before, after)
    else:
        for texts in sorted(by_texts):
            yield _judged(*by_texts[texts])


def _judged(before: list[Score], after: list[Score]) -> Pairing:
    """Return the scores of one id, or of one id and its texts, with the kind of their pairing."""
    if not before or not after:
        return ("only_before" if before else "only_after"), before, after
    # Equal texts and ids: nothing says which row belongs to which.
    if len(before) > 1 or len(after) > 1:
        return "repeated", before, after
    changed = before[0].pair and after[0].pair and before[0].pair != after[0].pair
    return ("text_changed" if changed else "paired"), before, after


class _ComparisonFn(beam.CombineFn):
    """Pairings -> Comparison."""

    def __init__(self, most: int):
        self.most = most

    def create_accumulator(self) -> Comparison:
        return Comparison(self.most)

    def add_input(self, comparison: Comparison, pairing: Pairing) -> Comparison:
        kind, before, after = pairing
        if kind == "paired":
            comparison.add_pair(before[0], after[0])
        else:
            comparison.add_unpaired(kind, [*before, *after])
        return comparison

    def merge_accumulators(self, several: Iterable[Comparison]) -> Comparison:
        merged = self.create_accumulator()
        for comparison in several:
            merged.merge(comparison)
        return merged

    def extract_output(self, comparison: Comparison) -> Comparison:
        return comparison


@dataclass
class CompareAudits(beam.PTransform):
    """AuditSides -> one Comparison.

    most  regressions, and improvements, that are listed
    """

    most: int

    def expand(self, sides: beam.PCollection) -> beam.PCollection:
        return (
            sides
            | "ListParts" >> beam.FlatMap(list_parts)
            # Without it, the worker that lists the parts would also read all of them.
            | "Reshuffle" >> beam.Reshuffle()
            | "ReadScores" >> beam.FlatMap(read_scores)
            | "GroupById" >> beam.GroupByKey()
            | "PairScores" >> beam.FlatMapTuple(pair_scores)
            | "MergeComparisons" >> beam.CombineGlobally(_ComparisonFn(self.most))
        )
