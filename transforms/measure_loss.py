"""MeasureLoss: from what the windows tell of the golds to losses, grades and statistics of every row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import apache_beam as beam

from model.audit.golds import gold_views
from model.audit.losses import likely_tokens, passage_losses
from model.audit.rows import audit_columns
from model.audit.statistics import measure
from model.reading.columns import as_texts
from model.reading.prediction import Decoding
from transforms.chunk_step import ChunkStep
from transforms.decode_answers import reasons_of
from transforms.make_windows import STAGE as GOLDS_READ_IN
from transforms.records import AnsweredChunk, Outcome, Rejection
from transforms.report.passages import shortened
from transforms.write_chunk import row_ids

NEAR = "golds misaligned only in "
"""What the counts of such golds begin with."""


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """link of the tokenwise loss; id column; columns of --slice_by; lengths of the lists of highest losses and of suspects."""

    link: str = "softmax"
    id: str = "id"
    slice_by: tuple[str, ...] = ()
    worst: int = 50
    suspects: int = 100


def measure_loss(answered: AnsweredChunk, decoding: Decoding, options: AuditOptions) -> AnsweredChunk:
    """Adds the audit's outcome to a chunk. Raises ValueError if its golds were not measured."""
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
    losses = passage_losses(windows, golds, views, prediction.losses, options.link)
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
        rejected.setdefault(row, Rejection(row, GOLDS_READ_IN, reason, message))
    table = answered.chunk.table
    given = {name: as_texts(table.column(name)) for name in options.slice_by}
    questions = [windowed.questions[windows.pair_question[pair]] if pair >= 0 else "" for pair in windowed.row_pair]
    spec, ids = answered.chunk.spec, row_ids(answered.chunk, options.id)

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
            "rows_corrected": len(answered.chunk.corrected),
        },
        statistics=statistics,
        corrected=tuple(sorted(set(answered.chunk.corrected))),
    )
    return replace(answered, outcomes=(*answered.outcomes, outcome))


@dataclass
class MeasureLoss(beam.PTransform):
    """AnsweredChunk -> AnsweredChunk with the audit's outcome."""

    decoding: Decoding
    options: AuditOptions

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        return chunks | beam.ParDo(_MeasureLoss(self.decoding, self.options))


class _MeasureLoss(ChunkStep):
    stage = "audit"

    def __init__(self, decoding: Decoding, options: AuditOptions):
        super().__init__()
        self.decoding, self.options = decoding, options

    def apply(self, answered: AnsweredChunk) -> AnsweredChunk:
        return measure_loss(answered, self.decoding, self.options) if answered.chunk.wants("audit") else answered
