"""MakeWindows: from the rows of a chunk to context windows of its distinct question/context pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import apache_beam as beam
import numpy as np

from model.audit.golds import read_golds
from model.reading.columns import each_value
from model.reading.pairs import WindowLimits, cut_pairs
from model.reading.reader import shared
from model.reading.span_reader import SpanReader
from model.reading.tokenizer import Tokenizer
from transforms.chunk_step import ChunkStep
from transforms.records import Chunk, Rejection, WindowedChunk

STAGE = "MakeWindows"


@dataclass(frozen=True, slots=True)
class InputColumns:
    """Names of the columns that are read; `answers` is "" where no golds are measured."""

    question: str = "question"
    context: str = "context"
    answers: str = ""


def make_windows(
    chunk: Chunk, tokenizer: Tokenizer, limits: WindowLimits, columns: InputColumns = InputColumns()
) -> WindowedChunk:
    """Tokenizes every distinct text of the chunk once and cuts the passages of its distinct pairs into windows.

    Rejections: the problems of `model.reading.pairs.cut_pairs`.
    """
    questions, contexts = (each_value(chunk.table.column(name)) for name in (columns.question, columns.context))
    pairs = cut_pairs(questions, contexts, tokenizer, limits)
    golds = None
    if columns.answers:
        answers = each_value(chunk.table.column(columns.answers))
        golds = read_golds(answers, pairs.contexts, pairs.row_pair, pairs.windows)
        better = {row: chunk.unplaced[row] for row in chunk.unplaced if row in golds.problems}  # than "a start is null"
        golds = replace(golds, problems={**golds.problems, **better})
    passage = pairs.windows.pair_passage[pairs.row_pair[pairs.row_pair >= 0]]
    characters = np.array([len(context) for context in pairs.contexts], np.int64)
    return WindowedChunk(
        chunk=chunk,
        row_pair=pairs.row_pair,
        questions=pairs.questions,
        contexts=pairs.contexts,
        questions_cut=pairs.questions_cut,
        characters=int(characters[passage].sum()),
        unknown_characters=int(pairs.unknown[passage].sum()),
        windows=pairs.windows,
        rejections=tuple(Rejection(row, STAGE, *pairs.problems[row]) for row in sorted(pairs.problems)),
        golds=golds,
    )


@dataclass
class MakeWindows(beam.PTransform):
    """Chunk -> WindowedChunk. Uses the reader's tokenizer, not its network."""

    reader: SpanReader
    columns: InputColumns = InputColumns()

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        return chunks | beam.ParDo(_MakeWindows(self.reader, self.columns))


class _MakeWindows(ChunkStep):
    stage = "audit"

    def __init__(self, reader: SpanReader, columns: InputColumns):
        super().__init__()
        self.reader, self.columns = reader, columns

    def setup(self) -> None:
        self.tokenizer = shared(self.reader.reader).tokenizer()

    def apply(self, chunk: Chunk) -> WindowedChunk:
        columns = self.columns if chunk.wants("audit") else replace(self.columns, answers="")
        return make_windows(chunk, self.tokenizer, self.reader.limits, columns)
