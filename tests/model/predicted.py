"""Both observers of a run in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.audit.golds import Golds
from model.audit.window_losses import Measured, MeasureLosses
from model.reading.decoding import DecodeSpans, Decoding
from model.reading.posterior import WindowSpans
from model.reading.prediction import Observer, Prediction, predict
from model.reading.reader import Reader
from model.reading.windows import Windows


@dataclass(frozen=True)
class Decoded:
    """A prediction and its spans."""

    prediction: Prediction
    spans: WindowSpans

    @property
    def failures(self) -> dict[int, tuple[str, str]]:
        return self.prediction.failures


def decode(reader: Reader, windows: Windows, decoding: Decoding, batch_tokens: int) -> Decoded:
    """Predict and decode, without golds."""
    observer = DecodeSpans(windows, decoding)
    return Decoded(predict(reader, windows, batch_tokens, [observer]), observer.result())


def decode_and_measure(
    reader: Reader,
    windows: Windows,
    decoding: Decoding,
    batch_tokens: int,
    golds: Golds,
    link: str = "softmax",
) -> tuple[Decoded, Measured]:
    """The same with the losses of golds."""
    spans = DecodeSpans(windows, decoding)
    losses = MeasureLosses(windows, golds, link, decoding)
    observers: list[Observer[Any]] = [spans, losses]
    prediction = predict(reader, windows, batch_tokens, observers)
    return Decoded(prediction, spans.result()), losses.result()
