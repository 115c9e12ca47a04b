"""MakeWindows: from the rows of a chunk to context windows of its distinct question/context pairs."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from model.columns import each_value, read_texts
from model.golds import read_golds
from model.reader import Reader, shared
from model.tokenizer import Tokenizer
from model.windows import cut_windows
from transforms.chunk_step import ChunkStep
from transforms.records import Chunk, Rejection, WindowedChunk

STAGE = "MakeWindows"


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """max_length, overlap and max_question in tokens; max_windows per row; names of the columns that are read.

    answers  column of the gold answers; "" where none are measured
    """

    max_length: int
    overlap: int
    max_question: int
    max_windows: int
    question: str = "question"
    context: str = "context"
    answers: str = ""


def make_windows(chunk: Chunk, tokenizer: Tokenizer, limits: WindowLimits) -> WindowedChunk:
    """Tokenizes every distinct text of the chunk once and cuts the passages of its distinct pairs into windows.

    Rejections: question_missing, question_not_utf8, question_blank, question_without_tokens, the same four of
    `context`, too_many_windows.
    """
    questions, question_problems = read_texts(chunk.table.column(limits.question))
    contexts, context_problems = read_texts(chunk.table.column(limits.context))
    rejected: dict[int, Rejection] = {}
    for name, problems in (("question", question_problems), ("context", context_problems)):
        for row, problem in problems.items():
            message = f"the {name} is {problem.replace('_', ' ').replace('utf8', 'UTF-8')}"
            rejected.setdefault(row, Rejection(row, STAGE, f"{name}_{problem}", message))

    usable = [row for row in range(len(questions)) if row not in rejected]
    question_place = {text: k for k, text in enumerate(dict.fromkeys(questions[row] for row in usable))}
    context_place = {text: k for k, text in enumerate(dict.fromkeys(contexts[row] for row in usable))}
    whole = tokenizer.questions(list(question_place))
    passages = tokenizer.passages(list(context_place))

    pair_place: dict[tuple[int, int], int] = {}
    row_pair = np.full(len(questions), -1, np.int64)
    for row in usable:
        q, c = question_place[questions[row]], context_place[contexts[row]]
        for name, tokens in (("question", whole.lengths[q]), ("context", passages.lengths[c])):
            if tokens == 0 and row not in rejected:
                rejected[row] = Rejection(row, STAGE, f"{name}_without_tokens", f"the tokenizer finds no token in the {name}")
        if row not in rejected:
            row_pair[row] = pair_place.setdefault((q, c), len(pair_place))
    pairs = np.array(list(pair_place), np.int64).reshape(-1, 2)
    windows = cut_windows(
        tokenizer.format,
        passages,
        whole.cut(limits.max_question),
        pairs[:, 1],
        pairs[:, 0],
        max_length=limits.max_length,
        overlap=limits.overlap,
        max_windows=limits.max_windows,
    )
    too_long = windows.counts == 0
    for row in np.flatnonzero(row_pair >= 0).tolist():
        if too_long[row_pair[row]]:
            message = f"{passages.lengths[pairs[row_pair[row], 1]]} tokens need more than --max_windows={limits.max_windows}"
            rejected[row] = Rejection(row, STAGE, "too_many_windows", message)
    golds = None
    if limits.answers:
        answers = each_value(chunk.table.column(limits.answers))
        golds = read_golds(answers, list(context_place), row_pair, windows)
    return WindowedChunk(
        chunk=chunk,
        row_pair=row_pair,
        questions=list(question_place),
        contexts=list(context_place),
        questions_cut=np.maximum(whole.lengths - limits.max_question, 0)[pairs[:, 0]],
        windows=windows,
        rejections=tuple(rejected[row] for row in sorted(rejected)),
        golds=golds,
    )


@dataclass
class MakeWindows(beam.PTransform):
    """Chunk -> WindowedChunk. Uses the reader's tokenizer, not its network."""

    reader: Reader
    limits: WindowLimits

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        return chunks | beam.ParDo(_MakeWindows(self.reader, self.limits))


class _MakeWindows(ChunkStep):
    def __init__(self, reader: Reader, limits: WindowLimits):
        super().__init__()
        self.reader, self.limits = reader, limits

    def setup(self) -> None:
        self.tokenizer = shared(self.reader).tokenizer()

    def apply(self, chunk: Chunk) -> WindowedChunk:
        return make_windows(chunk, self.tokenizer, self.limits)
