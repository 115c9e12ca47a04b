"""PredictSpans: the network over a chunk's windows, decoded on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from model.prediction import Decoding, Launched, launch
from model.reader import Reader, shared
from transforms.chunk_step import ChunkStep
from transforms.records import PredictedChunk, Receipt, WindowedChunk


@dataclass(frozen=True, slots=True)
class LaunchedChunk:
    """A chunk whose batches are all under way."""

    windowed: WindowedChunk
    launched: Launched

    def result(self) -> PredictedChunk:
        """The chunk with its prediction, once the device is done."""
        return PredictedChunk(self.windowed.chunk, self.windowed, self.launched.result())


def predict_spans(
    windowed: WindowedChunk, reader: Reader, decoding: Decoding, batch_tokens: int, link: str = "softmax"
) -> LaunchedChunk:
    """Runs the reader over the windows of a chunk, and measures its golds if it has any; batches depend on it alone."""
    return LaunchedChunk(windowed, launch(reader, windowed.windows, decoding, batch_tokens, windowed.golds, link))


@dataclass
class PredictSpans(beam.PTransform):
    """WindowedChunk -> PredictedChunk. The network is loaded once per process.

    ahead  whether a GPU may be at work on one chunk while the next is made and the one before is written; the last chunk of a
           bundle then comes with its end
    """

    reader: Reader
    decoding: Decoding
    batch_tokens: int
    link: str = "softmax"
    ahead: bool = True

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        return chunks | beam.ParDo(_PredictSpans(self.reader, self.decoding, self.batch_tokens, self.link, self.ahead))


class _PredictSpans(ChunkStep):
    def __init__(self, reader: Reader, decoding: Decoding, batch_tokens: int, link: str, ahead: bool):
        super().__init__()
        self.reader, self.decoding, self.batch_tokens, self.link, self.ahead = reader, decoding, batch_tokens, link, ahead

    def setup(self) -> None:
        self.loaded = shared(self.reader)
        self.loaded.load()

    def start_bundle(self) -> None:
        self.under_way: tuple[LaunchedChunk, float] | None = None

    def process(self, record: WindowedChunk | Receipt) -> Iterator[Any]:
        if isinstance(record, Receipt):
            yield record
            return
        launched, seconds = self.attempt(
            record.chunk, lambda: predict_spans(record, self.loaded, self.decoding, self.batch_tokens, self.link)
        )
        if isinstance(launched, Receipt):
            yield launched
            return
        now: tuple[LaunchedChunk, float] | None = launched, seconds
        if self.ahead and launched.launched.on_gpu:
            now, self.under_way = self.under_way, now
        yield from self._finish(now)

    def finish_bundle(self) -> Iterator[Any]:
        for predicted in self._finish(self.under_way):
            yield GlobalWindows.windowed_value(predicted)

    def _finish(self, under_way: tuple[LaunchedChunk, float] | None) -> Iterator[Any]:
        if under_way is not None:
            launched, seconds = under_way
            predicted, waited = self.attempt(launched.windowed.chunk, launched.result)
            yield from self.told(predicted, seconds + waited)
