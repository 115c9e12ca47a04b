"""A reader whose logits can be computed by hand, and chunks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from model.reading.batching import Batch
from model.reading.decoding import Decoding
from model.reading.reader import Reader
from model.reading.span_reader import SpanReader
from model.reading.tokenizer import Tokenizer
from model.reading.windows import WindowLimits
from transforms.chunk_step import ChunkStep, _RunStep
from transforms.claim import Output
from transforms.decode_answers import decode_answers
from transforms.make_windows import make_windows
from transforms.predict_spans import predict_spans
from transforms.records import Answered, Chunk, ChunkSpec
from transforms.run_files import RunFiles
from transforms.storage import create

LIMITS = WindowLimits(max_length=32, overlap=8, max_question=8, max_windows=4)
DECODING = Decoding(n_best=3, max_answer_length=4)


@dataclass(eq=False)
class FakeReader:
    """A reader for contexts of one-letter words with one token each.

    words    the tokenizer of a real checkpoint
    letters  letter -> (start logit, end logit), wherever it occurs; (0, 0) for other letters
    null     start logit and end logit of the classifier token
    trouble  called with the letters of every batch; may raise
    batches  the letters of every batch so far
    """

    words: Tokenizer
    letters: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    null: tuple[float, float] = (0.0, 0.0)
    trouble: Callable[[set[str]], None] | None = None
    batches: list[set[str]] = field(default_factory=list)

    def load(self) -> None:
        """Do nothing: there is nothing to load."""

    def tokenizer(self) -> Tokenizer:
        return self.words

    def lanes(self) -> int:
        return 1

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        ids = {
            letter: int(self.words.questions([letter]).values[0]) for letter in "abcdefghiklmnop"
        }
        held = torch.where(batch.in_context, batch.input_ids, -1)
        self.batches.append({letter for letter, token in ids.items() if (held == token).any()})
        if self.trouble:
            self.trouble(self.batches[-1])
        logits = torch.zeros(2, *batch.input_ids.shape)
        for letter, values in self.letters.items():
            for side in (0, 1):
                logits[side][held == ids[letter]] = values[side]
        for side in (0, 1):
            logits[side, :, 0] = self.null[side]
        return logits[0], logits[1]


def make_chunk(
    table: pa.Table,
    path: str = "/in/a.parquet",
    row_group: int = 0,
    row_start: int = 0,
    first_row: int = 0,
) -> Chunk:
    label = path.rsplit("/", 1)[-1]
    part = f"000000-a-g{row_group:05d}-r{row_start:09d}-n{table.num_rows}.parquet"
    return Chunk(
        ChunkSpec(path, label, row_group, row_start, first_row, table.num_rows, part), table, None
    )


def claimed(folder: Path | str, stage: str = "annotate") -> Output:
    """Return a folder as the output of a run that has begun."""
    create(str(folder), b'{"run": "this run"}', RunFiles.RUN)
    return Output(stage, str(folder), "this run")


def asked(*contexts: str | None, question: str = "who?") -> pa.Table:
    """Return rows that ask the same question about several contexts, with ids."""
    return pa.table(
        {
            "id": [f"row {row}" for row in range(len(contexts))],
            "question": [question] * len(contexts),
            "context": pa.array(contexts, pa.string()),
        }
    )


def answer(
    table: pa.Table,
    reader: FakeReader,
    decoding: Decoding = DECODING,
    null_threshold: float = 0.0,
    batch_tokens: int = 200,
    options: frozenset[str] = frozenset(),
) -> Answered:
    """Return the answers of a chunk, after all steps, with the columns of some options."""
    windowed = make_windows(make_chunk(table), reader.words, LIMITS)
    decoding = replace(decoding, null_score_diff_threshold=null_threshold)
    predicted = predict_spans(windowed, reader, decoding, batch_tokens)
    return decode_answers(predicted, decoding, options=options)


def answered_chunk(
    table: pa.Table, reader: FakeReader, *settings: Any, options: frozenset[str] = frozenset()
) -> Chunk[Answered]:
    """Return a chunk with its answers, as the steps pass it on."""
    return make_chunk(table).carrying(answer(table, reader, *settings, options=options))


def run_step(step: ChunkStep, element: Any) -> list[Any]:
    """Return the results of a step for an element, as the DoFn passes them on."""
    runner = _RunStep(step)
    runner.setup()
    return list(runner.process(element))


def span_reader(reader: Reader, decoding: Decoding = DECODING) -> SpanReader:
    """Return a reader with the settings of these tests, as steps take it."""
    return SpanReader(reader, LIMITS, decoding, link="softmax", batch_tokens=100)
