"""DecodeAnswers: from decoded windows to one answer per row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import apache_beam as beam

from model.reading.columns import answer_columns
from model.reading.prediction import Decoding, decide
from model.reading.span_reader import SpanReader
from transforms.chunk_step import ChunkStep
from transforms.records import AnsweredChunk, Outcome, PredictedChunk, Rejection


def decode_answers(predicted: PredictedChunk, decoding: Decoding, annotate: bool = True) -> AnsweredChunk:
    """Merges windows to passages and decides between the best span and no answer, see `model.reading.prediction.decide`.

    With `annotate`, the outcome has annotate's columns. Rejections: those of earlier steps and of `decide`.
    """
    windowed, prediction = predicted.windowed, predicted.prediction
    windows = windowed.windows
    pairs = len(windows.pair_passage)
    decision = decide(prediction, windows, windowed.row_pair, decoding)
    spans, no_answer = decision.spans, decision.no_answer
    rejected = {rejection.row: rejection for rejection in windowed.rejections}
    for row, (reason, message) in decision.problems.items():
        rejected.setdefault(row, Rejection(row, "PredictSpans", reason, message))
    counts = {
        "rows": len(windowed.row_pair),
        "pairs": pairs,
        "windows": len(windows),
        "real_tokens": prediction.real_tokens,
        "padded_tokens": prediction.padded_tokens,
        "question_tokens_cut": int(windowed.questions_cut.sum()),
        "characters": windowed.characters,
        "unknown_characters": windowed.unknown_characters,
    }
    rejections = tuple(rejected[row] for row in sorted(rejected))
    outcomes: tuple[Outcome, ...] = ()
    if annotate:
        columns = answer_columns(
            spans,
            windows,
            windowed.contexts,
            windowed.row_pair,
            reasons_of(rejections, len(windowed.row_pair)),
            windowed.questions_cut,
            no_answer,
        )
        statuses = Counter(columns.column("status").to_pylist())
        outcomes = (Outcome("annotate", columns, rejections, {**counts, **statuses}),)
    return AnsweredChunk(predicted.chunk, predicted, spans, no_answer, rejections, counts, outcomes)


def reasons_of(rejections: tuple[Rejection, ...], rows: int) -> list[str | None]:
    """The reason of every row, None for one that is not rejected."""
    reasons: list[str | None] = [None] * rows
    for rejection in rejections:
        reasons[rejection.row] = rejection.reason
    return reasons


@dataclass
class DecodeAnswers(beam.PTransform):
    """PredictedChunk -> AnsweredChunk."""

    reader: SpanReader
    annotate: bool = True

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        return chunks | beam.ParDo(_DecodeAnswers(self.reader, self.annotate))


class _DecodeAnswers(ChunkStep):
    stage = "annotate"

    def __init__(self, reader: SpanReader, annotate: bool):
        super().__init__()
        self.reader, self.annotate = reader, annotate

    def apply(self, predicted: PredictedChunk) -> AnsweredChunk:
        annotate = self.annotate and predicted.chunk.wants("annotate")
        return decode_answers(predicted, self.reader.decoding, annotate)
