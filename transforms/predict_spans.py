"""PredictSpans: the network over a chunk's windows, decoded on the device."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam

from model.reading.prediction import Decoding, predict
from model.reading.reader import Reader, shared
from model.reading.span_reader import SpanReader
from transforms.chunk_step import ChunkStep
from transforms.records import PredictedChunk, WindowedChunk


def predict_spans(
    windowed: WindowedChunk, reader: Reader, decoding: Decoding, batch_tokens: int, link: str = "softmax"
) -> PredictedChunk:
    """Runs the reader over the windows of a chunk; batches depend on the chunk alone.

    Measures the chunk's golds if it has any and wants an audit.
    """
    golds = windowed.golds if windowed.chunk.wants("audit") else None
    prediction = predict(reader, windowed.windows, decoding, batch_tokens, golds, link)
    return PredictedChunk(windowed.chunk, windowed, prediction)


@dataclass
class PredictSpans(beam.PTransform):
    """WindowedChunk -> PredictedChunk. The network is loaded once per process."""

    reader: SpanReader

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        return chunks | beam.ParDo(_PredictSpans(self.reader))


class _PredictSpans(ChunkStep):
    stage = "audit"

    def __init__(self, reader: SpanReader):
        super().__init__()
        self.reader = reader

    def setup(self) -> None:
        self.loaded = shared(self.reader.reader)
        self.loaded.load()

    def apply(self, windowed: WindowedChunk) -> PredictedChunk:
        reader = self.reader
        return predict_spans(windowed, self.loaded, reader.decoding, reader.batch_tokens, reader.link)
