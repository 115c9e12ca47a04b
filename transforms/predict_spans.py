"""PredictSpans: the network over a chunk's windows, decoded on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from model.reading.prediction import Decoding, predict
from model.reading.reader import Reader, shared
from model.reading.span_reader import SpanReader
from transforms.chunk_step import ChunkStep
from transforms.records import Chunk, Predicted, Windowed


def predict_spans(
    windowed: Windowed, reader: Reader, decoding: Decoding, batch_tokens: int, link: str = "softmax"
) -> Predicted:
    """Run the reader over the windows of a chunk and measure its golds, if it has any.

    Batches depend on the chunk alone.
    """
    return Predicted(
        windowed, predict(reader, windowed.windows, decoding, batch_tokens, windowed.golds, link)
    )


@dataclass
class PredictSpans(ChunkStep[Chunk[Windowed], Chunk[Predicted]]):
    """Chunk[Windowed] -> Chunk[Predicted]. The network is loaded once per process."""

    stage: ClassVar[str] = "audit"

    reader: SpanReader

    def setup(self) -> None:
        self.loaded = shared(self.reader.reader)
        self.loaded.load()

    def apply(self, chunk: Chunk[Windowed]) -> Iterator[Chunk[Predicted]]:
        reader, windowed = self.reader, chunk.payload
        if not chunk.wants("audit"):
            windowed = replace(windowed, golds=None)
        yield chunk.carrying(
            predict_spans(windowed, self.loaded, reader.decoding, reader.batch_tokens, reader.link)
        )
