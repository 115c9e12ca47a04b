"""DecodeAnswers: from decoded passages to one answer per row or ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from model.reading.answers import Answers
from model.reading.columns import answer_columns
from model.reading.decoding import Decoding, decide
from model.reading.places import GivenPlaces, count_unusable
from model.reading.prediction import Prediction
from model.reading.span_reader import SpanReader
from model.reading.texts import each_value
from transforms.chunk_step import ChunkStep
from transforms.records import (
    Answered,
    Chunk,
    InputColumns,
    Outcome,
    Predicted,
    Rejection,
    Windowed,
    reasons_of,
)

UNUSABLE = "unusable "
"""Prefix of the counts of documents whose given pages or sections are null or malformed."""


def decode_answers(
    predicted: Predicted,
    decoding: Decoding,
    annotate: bool = True,
    options: frozenset[str] = frozenset(),
    given: GivenPlaces = GivenPlaces(),
) -> Answered:
    """Decide between the best span and no answer.

    annotate  whether annotate's outcome is made, too
    options   ask for its columns (`model.reading.columns.answer_options`)
    given     the pages and sections of the chunk's rows

    Rejections are those of earlier steps and those of `model.reading.decoding.decide`.
    """
    windowed, prediction = predicted.windowed, predicted.prediction
    decision = decide(
        predicted.spans,
        prediction.failures,
        windowed.windows,
        windowed.row_pair,
        (windowed.settings or decoding).thresholds,
    )
    rejected = {rejection.row: rejection for rejection in windowed.rejections}
    for row, (reason, message) in decision.problems.items():
        # Found here, but the prediction is at fault (`Rejection.step`).
        rejected.setdefault(row, Rejection(row, "PredictSpans", reason, message))
    counts = _counts(windowed, prediction)
    rejections = tuple(rejected[row] for row in sorted(rejected))
    outcomes: tuple[Outcome, ...] = ()
    if annotate:
        answers = Answers(
            spans=predicted.spans,
            windows=windowed.windows,
            contexts=windowed.contexts,
            questions_cut=windowed.questions_cut,
            no_answer=decision.no_answer,
            below_threshold=decision.below_threshold,
            row_pair=windowed.row_pair,
            reasons=reasons_of(rejections, len(windowed.row_pair)),
            least=decoding.all_answers,
            options=options,
            given=given,
        )
        columns = answer_columns(answers)
        statuses = Counter(answers.statuses)
        unusable = _unusable(windowed, given)
        outcomes = (Outcome("annotate", columns, rejections, {**counts, **statuses, **unusable}),)
    return Answered(predicted, decision.no_answer, rejections, counts, outcomes)


def _counts(windowed: Windowed, prediction: Prediction) -> dict[str, int]:
    """Return the counts of a chunk, all but those of rows by status."""
    windows = windowed.windows
    counts = {
        "rows": len(windowed.row_pair),
        "pairs": len(windows.pair_passage),
        "windows": int(windows.counts.sum()),
        "real_tokens": prediction.real_tokens,
        "padded_tokens": prediction.padded_tokens,
        "question_tokens_cut": int(windowed.questions_cut.sum()),
        "characters": windowed.characters,
        "unknown_characters": windowed.unknown_characters,
    }
    if windows.limits.read_windows != "all":
        counts["windows_read"] = int(windows.counts_read.sum())
    return counts


def _unusable(windowed: Windowed, given: GivenPlaces) -> dict[str, int]:
    """Return how many documents have no usable pages, and no usable sections, where given."""
    documents = len(given.pages or given.sections or ())
    if not documents:
        return {}
    # A document none of whose questions can be asked is rejected, whatever its pages.
    pairs = windowed.row_pair.reshape(documents, -1).max(1, initial=-1).tolist()
    passages = windowed.windows.pair_passage.tolist()
    lengths = [len(windowed.contexts[passages[k]]) if k >= 0 else None for k in pairs]
    counts = count_unusable(given, lengths)
    return {f"{UNUSABLE}{name}": count for name, count in counts.items()}


@dataclass
class DecodeAnswers(ChunkStep[Chunk[Predicted], Chunk[Answered]]):
    """Chunk[Predicted] -> Chunk[Answered], with annotate's outcome if `annotate` is set.

    columns  names those of pages and sections
    """

    stage: ClassVar[str] = "annotate"

    reader: SpanReader
    annotate: bool = True
    columns: InputColumns = InputColumns()

    def apply(self, chunk: Chunk[Predicted]) -> Iterator[Chunk[Answered]]:
        annotate = self.annotate and chunk.wants("annotate")
        reader, given = self.reader, GivenPlaces()
        if annotate:
            names = self.columns.pages, self.columns.sections
            given = GivenPlaces(
                *(each_value(chunk.table.column(name)) if name else None for name in names)
            )
        answered = decode_answers(chunk.payload, reader.decoding, annotate, reader.options, given)
        yield chunk.carrying(answered)
