"""SpanReaderModelHandler: the results of annotate, and rows that cannot be answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.testing.util import assert_that

from model import SpanReader
from model.reading.tokenizer import Tokenizer
from transforms.model_handler import SpanReaderModelHandler

EXAMPLES = [
    {"question": "Who lit the lamp?", "context": "Ada lit the lamp. Ben rang the bell.", "page": 1},
    {"question": "Who?", "page": 2},
    {
        "question": "Who rang the bell?",
        "context": "Ada lit the lamp. Ben rang the bell.",
        "page": 3,
    },
]


@pytest.fixture(scope="module")
def reader(bert_folder: Path) -> SpanReader:
    return SpanReader.load(str(bert_folder))


def test_run_inference(reader: SpanReader):
    expected = reader.answer(
        [row["question"] for row in EXAMPLES], [row.get("context") for row in EXAMPLES], n_best=2
    )

    def check(results: list[tuple[int, PredictionResult]]) -> None:
        assert [key for key, _ in sorted(results, key=lambda result: result[0])] == [1, 2, 3]
        for key, result in results:
            assert result.example == EXAMPLES[key - 1]
            assert result.inference == expected[key - 1]
            assert result.model_id == reader.reader.digest

    handler = KeyedModelHandler(SpanReaderModelHandler(reader, min_batch_size=3))
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        keyed = pipeline | beam.Create([(row["page"], row) for row in EXAMPLES], reshuffle=False)
        assert_that(keyed | RunInference(handler, inference_args={"n_best": 2}), check)
    assert [answer.status for answer in expected] == ["answered", "rejected", "answered"]
    assert len(expected[0].n_best) == 2


def test_a_text_on_which_the_tokenizer_fails(reader: SpanReader, monkeypatch: pytest.MonkeyPatch):
    encode = Tokenizer._encode

    def fragile(self: Tokenizer, texts: Sequence[str], *more: Any) -> Any:
        if any("storm" in text for text in texts):
            raise OverflowError("too deep")
        return encode(self, texts, *more)

    first, _, last = EXAMPLES
    bad = {"question": "Who?", "context": "The storm came."}
    expected = reader.answer(*([row[name] for row in (first, last)] for name in bad))
    monkeypatch.setattr(Tokenizer, "_encode", fragile)
    results = SpanReaderModelHandler(reader).run_inference([first, bad, last], reader)
    answers = [result.inference for result in results]
    assert [answers[0], answers[2]] == expected
    rejected = answers[1]
    assert (rejected.status, rejected.reason) == ("rejected", "tokenizer_error")
    assert rejected.message == "the tokenizer fails on the context: OverflowError: too deep"
    assert rejected == reader.answer(bad["question"], bad["context"])


@pytest.mark.parametrize("odd", [float("nan"), 7, b"Who?", ["Who?"]])
@pytest.mark.parametrize("name", ["question", "context"])
def test_a_value_that_is_not_text_is_missing(reader: SpanReader, name: str, odd: Any):
    first, _, last = EXAMPLES
    results = SpanReaderModelHandler(reader).run_inference([first, {**last, name: odd}], reader)
    answer, rejected = (result.inference for result in results)
    assert answer == reader.answer(first["question"], first["context"])
    assert (rejected.status, rejected.reason) == ("rejected", f"{name}_missing")


def test_batches_are_bounded(reader: SpanReader):
    assert SpanReaderModelHandler(reader).batch_elements_kwargs() == {"max_batch_size": 256}
    assert SpanReaderModelHandler(reader, max_batch_size=8).batch_elements_kwargs() == {
        "max_batch_size": 8
    }


def test_an_inference_argument_that_is_none_is_named(reader: SpanReader):
    SpanReaderModelHandler(reader).validate_inference_args({"n_best": 3})
    with pytest.raises(ValueError, match="'top_k' is unknown; n_best is the only one"):
        SpanReaderModelHandler(reader).validate_inference_args({"top_k": 3})
