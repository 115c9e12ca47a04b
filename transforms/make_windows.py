"""MakeWindows: from the rows of a chunk to windows of its distinct question/context pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from model.audit.golds import Golds, read_golds
from model.reading.decoding import Decoding, PairSettings
from model.reading.pairs import Pairs, cross_pairs, cut_pairs
from model.reading.question_list import QuestionList
from model.reading.reader import shared
from model.reading.span_reader import SpanReader
from model.reading.texts import each_text, each_value
from model.reading.tokenizer import Ragged, Tokenizer
from model.reading.windows import WindowLimits
from transforms.chunk_step import ChunkStep
from transforms.records import Chunk, InputColumns, Rejection, Windowed


def make_windows(
    chunk: Chunk[None],
    tokenizer: Tokenizer,
    limits: WindowLimits,
    columns: InputColumns = InputColumns(),
) -> Windowed:
    """Tokenize every distinct text of a chunk once, and cut its distinct pairs into windows.

    A row that `model.reading.pairs.cut_pairs` reports a problem of becomes a rejection.
    """
    questions = each_value(chunk.table.column(columns.question))
    contexts = each_text(chunk.table.column(columns.context))
    # Rows with equal question and context share a pair, which is predicted once.
    pairs = cut_pairs(questions, contexts, tokenizer, limits)
    golds = None
    if columns.answers:
        answers = each_value(chunk.table.column(columns.answers))
        golds = read_golds(answers, pairs.contexts, pairs.row_pair, pairs.windows)
        # Of a corrected gold without a start, CorrectGolds knows more than "a start is null".
        unplaced = {row: why for row, why in chunk.unplaced.items() if row in golds.problems}
        golds = replace(golds, problems={**golds.problems, **unplaced})
    return _windowed(pairs, golds=golds)


def ask_documents(
    chunk: Chunk[None],
    tokenizer: Tokenizer,
    limits: WindowLimits,
    questions: QuestionList,
    question_tokens: Ragged,
    decoding: Decoding,
    context: str = "context",
) -> Windowed:
    """Tokenize every distinct document of a chunk once, and pair it with every question of a list.

    question_tokens  as `SpanReader.tokens_of` returns them
    decoding         gives the settings that a question does not have
    context          the column of the documents

    An unusable document rejects each of its asks.
    """
    contexts = each_value(chunk.table.column(context))
    pairs = cross_pairs(questions.texts, question_tokens, contexts, tokenizer, limits)
    return _windowed(pairs, questions.settings(pairs.windows.pair_question, decoding))


def _windowed(
    pairs: Pairs[Any], settings: PairSettings | None = None, golds: Golds | None = None
) -> Windowed:
    """Return pairs as the payload of their chunk."""
    # Unknown text is counted per row, not per distinct context: row -> passage of its context.
    passage = pairs.windows.pair_passage[pairs.row_pair[pairs.row_pair >= 0]]
    characters = np.array([len(context) for context in pairs.contexts], np.int64)
    return Windowed(
        row_pair=pairs.row_pair,
        questions=pairs.questions,
        contexts=pairs.contexts,
        questions_cut=pairs.questions_cut,
        characters=int(characters[passage].sum()),
        unknown_characters=int(pairs.unknown[passage].sum()),
        windows=pairs.windows,
        rejections=tuple(
            Rejection(row, "MakeWindows", *pairs.problems[row]) for row in sorted(pairs.problems)
        ),
        settings=settings,
        golds=golds,
    )


@dataclass
class MakeWindows(ChunkStep[Chunk[None], Chunk[Windowed]]):
    """Chunk -> Chunk[Windowed]. Uses the tokenizer of the reader, not its network.

    questions  are asked of every document, in place of the column of questions
    """

    stage: ClassVar[str] = "audit"

    reader: SpanReader
    columns: InputColumns = InputColumns()
    questions: QuestionList | None = None

    def setup(self) -> None:
        self.tokenizer = shared(self.reader.reader).tokenizer()
        if self.questions:
            self.question_tokens = self.reader.tokens_of(self.questions)

    def apply(self, chunk: Chunk[None]) -> Iterator[Chunk[Windowed]]:
        if self.questions:
            yield chunk.carrying(
                ask_documents(
                    chunk,
                    self.tokenizer,
                    self.reader.limits,
                    self.questions,
                    self.question_tokens,
                    self.reader.decoding,
                    self.columns.context,
                )
            )
            return
        # Reading golds is the extra work for the audit, which may fail alone.
        columns = self.columns if chunk.wants("audit") else replace(self.columns, answers="")
        yield chunk.carrying(make_windows(chunk, self.tokenizer, self.reader.limits, columns))
