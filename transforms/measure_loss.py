"""MeasureLoss: from what the windows tell of the golds to losses, grades and statistics of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from model.audit.losses import likely_tokens, passage_losses
from model.audit.rows import Examples, audit_columns
from model.audit.statistics import measure, shortened
from model.reading.decoding import Decoding
from model.reading.span_reader import SpanReader
from model.reading.texts import as_texts
from transforms.chunk_step import ChunkStep
from transforms.records import Answered, Chunk, Outcome, Rejection, reasons_of, row_ids

NEAR = "golds misaligned only in "
"""What the counts of such golds begin with."""


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """id column; columns of --slice_by; lengths of the lists of highest losses and of suspects."""

    id: str = "id"
    slice_by: tuple[str, ...] = ()
    worst: int = 50
    suspects: int = 100


def measure_loss(chunk: Chunk[Answered], decoding: Decoding, options: AuditOptions) -> Answered:
    """Add the audit's outcome to what the stages have made of a chunk.

    Raises ValueError if its golds were not measured, RuntimeError if not one pair of several could be measured.
    """
    answered = chunk.payload
    predicted = answered.predicted
    windowed, windows, measured = predicted.windowed, predicted.windowed.windows, predicted.measured
    if measured is None:
        raise ValueError("the chunk was predicted without its golds")
    golds, unmeasured = measured.golds, measured.unmeasured
    decoded = set(windows.pair.tolist()) - predicted.prediction.failures.keys()
    if len(decoded) > 1 and decoded <= unmeasured.keys():  # not the fault of a row
        raise RuntimeError(f"nothing could be measured: {unmeasured[min(decoded)][1]}")
    rejected = {rejection.row: rejection for rejection in answered.rejections}
    for row, pair in enumerate(windowed.row_pair.tolist()):
        if pair in unmeasured:
            rejected.setdefault(row, Rejection(row, "PredictSpans", *unmeasured[pair]))
    losses = passage_losses(windows, measured)
    examples = Examples(
        windows=windows,
        spans=answered.spans,
        golds=golds,
        losses=losses,
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
    table = chunk.table
    given = {name: as_texts(table.column(name)) for name in options.slice_by}
    questions = [
        windowed.questions[windows.pair_question[pair]] if pair >= 0 else ""
        for pair in windowed.row_pair
    ]
    spec, ids = chunk.spec, row_ids(chunk, options.id)

    def example_of(row: int) -> dict[str, Any]:
        return {
            "id": as_texts(ids.slice(row, 1))[0],
            "path": spec.path,
            "row": spec.first_row + row,
            "question": shortened(questions[row]),
            "gold": [shortened(text) for text in golds.texts[row][:3]],
        }

    tokens_of_pair = partial(likely_tokens, windows, measured.losses, losses.normaliser)
    statistics = measure(
        columns,
        questions,
        given,
        example_of,
        lambda row: tokens_of_pair(int(windowed.row_pair[row])),
        options.worst,
        options.suspects,
    )
    outcome = Outcome(
        stage="audit",
        columns=columns,
        rejections=tuple(rejected[row] for row in sorted(rejected)),
        counts={
            **answered.counts,
            **Counter(columns.column("status").to_pylist()),
            "golds_dropped": int(golds.dropped.sum()),
            **{f"{NEAR}{name}": count for name, count in golds.near.items()},
            "rows_corrected": len(chunk.corrected),
        },
        statistics=statistics,
        corrected=tuple(sorted(set(chunk.corrected))),
    )
    return replace(answered, outcomes=(*answered.outcomes, outcome))


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
