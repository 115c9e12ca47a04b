"""MeasureLoss: from what the windows tell of the golds to losses, grades and statistics of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from model.audit.golds import gold_views
from model.audit.losses import likely_tokens, passage_losses
from model.audit.rows import audit_columns
from model.audit.statistics import measure, shortened
from model.reading.columns import as_texts
from model.reading.prediction import Decoding
from model.reading.span_reader import SpanReader
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


def measure_loss(
    chunk: Chunk[Answered], decoding: Decoding, options: AuditOptions, link: str = "softmax"
) -> Answered:
    """Add the audit's outcome to what the stages have made of a chunk; `link` makes logits probabilities (tokenwise).

    Raises ValueError if its golds were not measured, RuntimeError if not one pair of several could be measured.
    """
    answered = chunk.payload
    windowed, prediction = answered.predicted.windowed, answered.predicted.prediction
    golds, windows = windowed.golds, windowed.windows
    if golds is None or prediction.losses is None:
        raise ValueError("the chunk was predicted without its golds")
    decoded = set(windows.pair.tolist()) - prediction.failures.keys()
    if len(decoded) > 1 and decoded <= prediction.unmeasured.keys():  # not the fault of a row
        raise RuntimeError(f"nothing could be measured: {prediction.unmeasured[min(decoded)][1]}")
    views = gold_views(windows, golds)
    rejected = {rejection.row: rejection for rejection in answered.rejections}
    for row, pair in enumerate(windowed.row_pair.tolist()):
        if pair in prediction.unmeasured:
            rejected.setdefault(row, Rejection(row, "PredictSpans", *prediction.unmeasured[pair]))
    losses = passage_losses(windows, golds, views, prediction.losses, link)
    columns = audit_columns(
        windows=windows,
        spans=answered.spans,
        golds=golds,
        losses=losses,
        questions=windowed.questions,
        contexts=windowed.contexts,
        row_pair=windowed.row_pair,
        reasons=reasons_of(tuple(rejected.values()), len(windowed.row_pair)),
        no_answer=answered.no_answer,
        max_answer_length=decoding.max_answer_length,
        temperature=decoding.temperature,
        null=decoding.null,
    )
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

    tokens_of_pair = partial(likely_tokens, windows, prediction.losses, losses.normaliser)
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
            chunk = chunk.carrying(
                measure_loss(chunk, self.reader.decoding, self.options, self.reader.link)
            )
        yield chunk
