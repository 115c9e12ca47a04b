"""The network over a chunk: every window once, one loaded network per process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.checkpoint import CheckpointError, LocalFolder
from model.reading.reader import CheckpointReader
from model.reading.tokenizer import Tokenizer
from tests.transforms.fakes import DECODING, LIMITS, FakeReader, asked, make_chunk, span_reader
from transforms.make_windows import make_windows
from transforms.predict_spans import PredictSpans, predict_spans
from transforms.records import Predicted

LETTERS = "abcdefghiklmnop"


def predict(reader: FakeReader, *contexts: str | None, batch_tokens: int = 200) -> Predicted:
    windowed = make_windows(make_chunk(asked(*contexts)), reader.words, LIMITS)
    return predict_spans(windowed, reader, DECODING, batch_tokens)


def test_every_window_is_predicted_once_within_the_budget(words: Tokenizer):
    reader = FakeReader(words)
    # A window is [CLS] who ? [SEP] letter [SEP], six tokens.
    predicted = predict(reader, *LETTERS, batch_tokens=21)
    assert [len(batch) for batch in reader.batches] == [3, 3, 3, 3, 3]
    assert set().union(*reader.batches) == set(LETTERS)
    assert predicted.prediction.real_tokens == 15 * 6
    assert predicted.prediction.padded_tokens == 15 * 6
    assert predicted.prediction.failures == {}


def test_the_windows_travel_along(words: Tokenizer):
    windowed = make_windows(make_chunk(asked("a b")), words, LIMITS)
    predicted = predict_spans(windowed, FakeReader(words), DECODING, 100)
    assert predicted.windowed is windowed
    assert predicted.measured is None


def test_batches_depend_on_the_chunk_alone(words: Tokenizer):
    def batches_by_chunk(order: Sequence[int]) -> dict[int, list[Any]]:
        """Predict chunks with one reader, in this order."""
        reader, found = FakeReader(words), {}
        for row in order:
            before = len(reader.batches)
            predict(reader, f"{LETTERS[row]} b c", LETTERS[row + 1], "a " * 60, batch_tokens=64)
            found[row] = reader.batches[before:]
        return found

    assert batches_by_chunk([0, 1, 2]) == batches_by_chunk([2, 0, 1])


def test_a_chunk_of_rejected_rows_needs_no_network(words: Tokenizer):
    reader = FakeReader(words)
    predicted = predict(reader, None, " ")
    assert reader.batches == []
    assert len(predicted.spans.start) == 0
    assert predicted.prediction.padded_tokens == 0


def test_padding_does_not_change_what_is_predicted(words: Tokenizer):
    letters = {letter: (float(k), float(-k)) for k, letter in enumerate(LETTERS)}
    apart = predict(FakeReader(words, letters), "a b c", batch_tokens=10)
    beside = predict(FakeReader(words, letters), "a b c", "d " * 20, batch_tokens=1000)
    for name in ("start", "end", "start_logit", "end_logit", "log_normaliser"):
        np.testing.assert_array_equal(getattr(apart.spans, name)[0], getattr(beside.spans, name)[0])


class TestFailures:
    def trouble(self, error: Exception, letter: str = "c"):
        def refuse(letters: set[str]) -> None:
            if letter in letters:
                raise error

        return refuse

    def test_one_poison_row_is_found_by_halving(self, words: Tokenizer):
        reader = FakeReader(words, trouble=self.trouble(RuntimeError("shape mismatch")))
        predicted = predict(reader, *LETTERS)
        assert predicted.prediction.failures == {2: ("model_error", "RuntimeError: shape mismatch")}
        finite = np.ones(15, bool)
        finite[2] = False
        assert predicted.spans.finite.tolist() == finite.tolist()
        assert len(reader.batches) <= 2 * 4 + 1  # 15 rows: at most four halvings, not fifteen tries

    def test_a_lost_device_ends_the_run(self, words: Tokenizer):
        reader = FakeReader(words, trouble=self.trouble(torch.AcceleratorError("device lost", 1)))
        with pytest.raises(torch.AcceleratorError):
            predict(reader, "a", "c")

    def test_a_network_that_computes_nothing_is_no_matter_of_rows(self, words: Tokenizer):
        reader = FakeReader(words, trouble=self.trouble(RuntimeError("wrong shape"), "a"))
        with pytest.raises(RuntimeError, match="wrong shape"):
            predict(reader, "a", "a b", "a c")


class TestLoading:
    def test_equal_readers_share_one_network(self, bert_folder: Path):
        """Threads and steps of a process each unpickle their own reader."""
        steps = [
            PredictSpans(span_reader(CheckpointReader(LocalFolder(str(bert_folder)), device="cpu")))
            for _ in range(2)
        ]
        for step in steps:
            step.setup()
        assert steps[0].loaded is steps[1].loaded
        assert steps[0].loaded._network is steps[1].loaded._network

    def test_a_model_that_can_not_be_loaded_ends_the_run(self, tmp_path: Path):
        step = PredictSpans(span_reader(CheckpointReader(LocalFolder(str(tmp_path)), device="cpu")))
        with pytest.raises(CheckpointError, match=r"no config\.json"):
            step.setup()

    def test_the_network_is_loaded_before_the_first_chunk(self):
        @dataclass(eq=False)
        class FakeLoading:
            loads: int = 0

            def load(self) -> None:
                self.loads += 1

        reader = FakeLoading()
        PredictSpans(span_reader(reader)).setup()
        assert reader.loads == 1
