"""MeasureLoss: from the losses of windows to losses, grades and statistics of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa

from model.audit.columns import audit_columns
from model.audit.losses import LikelyToken, likely_tokens, passage_losses
from model.audit.rows import Examples
from model.audit.several_answers import places_of, span_curve
from model.audit.statistics import Lists, Statistics, measure, shortened
from model.audit.window_losses import Measured
from model.reading.decoding import Decoding
from model.reading.span_reader import SpanReader
from model.reading.texts import as_texts
from model.reading.windows import Windows
from transforms.chunk_step import ChunkStep
from transforms.records import Answered, Chunk, Outcome, Rejection, reasons_of, row_ids

NEAR = "golds misaligned only in "
"""Prefix of the counts of golds that are misaligned only in case, blanks or the like."""


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What an audit reports.

    id        the id column
    slice_by  the columns of --slice_by
    worst     length of the list of highest losses
    suspects  length of the list of suspected label errors
    """

    id: str = "id"
    slice_by: tuple[str, ...] = ()
    worst: int = 50
    suspects: int = 100


def measure_loss(chunk: Chunk[Answered], decoding: Decoding, options: AuditOptions) -> Answered:
    """Add the audit's outcome to what the stages have made of a chunk.

    Raises ValueError if the golds were not measured, and RuntimeError if not one pair could be
    measured and the cause is not in the values of the only one.
    """
    answered = chunk.payload
    predicted = answered.predicted
    windowed, measured = predicted.windowed, predicted.measured
    windows = windowed.windows
    if measured is None or not isinstance(windows, Windows):
        raise ValueError("the chunk was predicted without its golds")
    golds = measured.golds

    # Reject the rows that could not be measured, unless none could: then no row is at fault, and a
    # rerun tries again. A single pair whose values are the cause would fail for ever.
    decoded = set(windows.pair.tolist()) - predicted.prediction.failures.keys()
    alone = len(decoded) == 1 and decoded <= measured.for_good
    if decoded and decoded <= measured.unmeasured.keys() and not alone:
        message = measured.unmeasured[min(decoded)][1]
        raise RuntimeError(f"nothing could be measured: {message}")
    rejected = {rejection.row: rejection for rejection in answered.rejections}
    for row, pair in enumerate(windowed.row_pair.tolist()):
        if pair in measured.unmeasured:
            rejected.setdefault(row, Rejection(row, "PredictSpans", *measured.unmeasured[pair]))

    # Make the columns. Rows whose golds are unusable are rejected in them.
    examples = Examples(
        windows=windows,
        spans=predicted.spans,
        golds=golds,
        losses=passage_losses(windows, measured),
        questions=windowed.questions,
        contexts=windowed.contexts,
        row_pair=windowed.row_pair,
        reasons=reasons_of(tuple(rejected.values()), len(windowed.row_pair)),
        no_answer=answered.no_answer,
        decoding=decoding,
    )
    columns = audit_columns(examples)
    for row, (reason, message) in golds.problems.items():
        rejected.setdefault(row, Rejection(row, "MakeWindows", reason, message))

    outcome = Outcome(
        stage="audit",
        columns=columns,
        rejections=tuple(rejected[row] for row in sorted(rejected)),
        counts={
            **answered.counts,
            **Counter(columns.column("status").to_pylist()),
            "golds_dropped": int(golds.dropped.sum()),
            "rows_with_several_places": sum(len(places_of(row)) > 1 for row in golds.char_spans),
            **{f"{NEAR}{name}": count for name, count in golds.near.items()},
            "rows_corrected": len(chunk.corrected),
        },
        statistics=_statistics(chunk, columns, examples, measured, options),
        corrected=tuple(sorted(set(chunk.corrected))),
    )
    return replace(answered, outcomes=(*answered.outcomes, outcome))


def _statistics(
    chunk: Chunk[Answered],
    columns: pa.Table,
    examples: Examples,
    measured: Measured,
    options: AuditOptions,
) -> Statistics:
    """Return the statistics of a chunk from its output columns."""
    windows, spec, ids = examples.windows, chunk.spec, row_ids(chunk, options.id)
    questions = [
        examples.questions[windows.pair_question[pair]] if pair >= 0 else ""
        for pair in examples.row_pair
    ]

    def example_of(row: int) -> dict[str, Any]:
        return {
            "id": as_texts(ids.slice(row, 1))[0],
            "path": spec.path,
            "row": spec.first_row + row,
            "question": shortened(questions[row]),
            "gold": [shortened(text) for text in examples.golds.texts[row][:3]],
        }

    def tokens_of(row: int) -> Sequence[LikelyToken]:
        pair, normaliser = int(examples.row_pair[row]), examples.losses.normaliser
        return likely_tokens(windows, measured.losses, normaliser, pair)

    given = {name: as_texts(chunk.table.column(name)) for name in options.slice_by}
    lists = Lists(example_of, tokens_of, options.worst, options.suspects)
    statistics = measure(columns, questions, given, lists)
    statistics.spans = span_curve(examples)
    return statistics


@dataclass
class MeasureLoss(ChunkStep[Chunk[Answered], Chunk[Answered]]):
    """Chunk[Answered] -> the same with the audit's outcome."""

    stage: ClassVar[str] = "audit"

    reader: SpanReader
    options: AuditOptions = AuditOptions()

    def apply(self, chunk: Chunk[Answered]) -> Iterator[Chunk[Answered]]:
        if chunk.wants("audit"):
            chunk = chunk.carrying(measure_loss(chunk, self.reader.decoding, self.options))
        yield chunk
