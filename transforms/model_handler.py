"""SpanReaderModelHandler: the reader as a model of Beam's RunInference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from model.reading.reader import shared
from model.reading.span_reader import SpanReader
from transforms.chunk_step import NAMESPACE


class SpanReaderModelHandler(ModelHandler[Mapping[str, Any], PredictionResult, SpanReader]):
    """Mappings with `question` and `context` -> PredictionResults with an Answer as `inference`.

    reader  a reader that `SpanReader.load` returned; workers load its checkpoint from its location
    others  arguments of Beam's ModelHandler: `min_batch_size`, `max_batch_size`, ...; batches are
            sorted by length internally

    The only inference argument is `n_best`. A row that can't be answered yields an Answer
    (`model.reading.span_reader`) with the status "rejected", never an error of its batch. A value
    that is not text, such as the NaN of pandas, is a missing text. Other keys of an example are
    kept in the result's `example`.
    """

    def __init__(self, reader: SpanReader, **others: Any):
        super().__init__(**{"max_batch_size": 256, **others})
        self.reader = reader

    def load_model(self) -> SpanReader:
        shared(self.reader.reader).load()
        return self.reader

    def run_inference(
        self,
        batch: Sequence[Mapping[str, Any]],
        model: SpanReader,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[PredictionResult]:
        questions: list[Any] = [_text_or_none(example.get("question")) for example in batch]
        contexts: list[Any] = [_text_or_none(example.get("context")) for example in batch]
        answers = model.answer(questions, contexts, **(inference_args or {}))
        for example, answer in zip(batch, answers, strict=True):
            yield PredictionResult(example, answer, model.reader.digest)

    def validate_inference_args(self, inference_args: dict[str, Any] | None) -> None:
        unknown = sorted((inference_args or {}).keys() - {"n_best"})
        if unknown:
            raise ValueError(
                f"inference_args: {unknown[0]!r} is unknown; n_best is the only one, "
                "SpanReader.load takes the other settings"
            )

    def get_metrics_namespace(self) -> str:
        return NAMESPACE


def _text_or_none(value: Any) -> str | None:
    """Return a text; None for any other value, on which `SpanReader.answer` raises TypeError."""
    return value if isinstance(value, str) else None
