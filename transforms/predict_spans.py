"""PredictSpans: run the network over a chunk's windows; decode and measure on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from model.audit.window_losses import MeasureLosses
from model.reading.decoding import Decoding
from model.reading.progress import working_on
from model.reading.read_pairs import predict_passages, read_pairs
from model.reading.reader import Reader, shared
from model.reading.span_reader import SpanReader
from model.reading.windows import Windows
from transforms.chunk_step import ChunkStep
from transforms.records import Chunk, Predicted, Windowed


def predict_spans(
    windowed: Windowed, reader: Reader, decoding: Decoding, batch_tokens: int, link: str = "softmax"
) -> Predicted:
    """Run the reader over the windows of a chunk, and measure its golds if it has any.

    link  "softmax" or "sigmoid": what makes probabilities of logits in the tokenwise loss

    The windows of a question list are cut here, block by block. Batches depend on the chunk alone.
    Raises what `predict` raises.
    """
    windows, golds = windowed.windows, windowed.golds
    if not isinstance(windows, Windows):
        return Predicted(
            windowed, *read_pairs(reader, windows, decoding, batch_tokens, windowed.settings)
        )
    if golds is None:
        return Predicted(windowed, *predict_passages(reader, windows, decoding, batch_tokens))
    measure = MeasureLosses(windows, golds, link, decoding)
    prediction, spans = predict_passages(reader, windows, decoding, batch_tokens, [measure])
    return Predicted(windowed, prediction, spans, measure.result())


@dataclass
class PredictSpans(ChunkStep[Chunk[Windowed], Chunk[Predicted]]):
    """Chunk[Windowed] -> Chunk[Predicted]. Each process loads the network once."""

    stage: ClassVar[str] = "audit"

    reader: SpanReader

    def setup(self) -> None:
        self.loaded = shared(self.reader.reader)
        self.loaded.load()

    def apply(self, chunk: Chunk[Windowed]) -> Iterator[Chunk[Predicted]]:
        reader, windowed = self.reader, chunk.payload
        if not chunk.wants("audit"):  # the golds stay unmeasured
            windowed = replace(windowed, golds=None)
        with working_on(chunk.spec.part, int(windowed.windows.counts.sum())):
            predicted = predict_spans(
                windowed, self.loaded, reader.decoding, reader.batch_tokens, reader.link
            )
        yield chunk.carrying(predicted)
