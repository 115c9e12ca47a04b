"""The observer of golds: what it can't measure fails no window. Its figures: test_losses.py."""

from __future__ import annotations

import numpy as np
import pytest

from model.audit.golds import Golds
from model.audit.window_losses import MeasureLosses
from model.reading.batching import Batch, Pending
from model.reading.decoding import Decoding
from model.reading.prediction import Logits, predict
from model.reading.tokenizer import Ragged
from tests.model.fakes import FakeReader
from tests.model.predicted import decode, decode_and_measure
from tests.model.reading.test_prediction import (
    DECODING,
    assert_equal_windows,
    six_pairs,
    windows_of,
)


def no_golds() -> Golds:
    """Six rows without a gold."""
    none = np.zeros(0, np.int64)
    return Golds(
        none, none, none, Ragged.of([[]] * 6), np.zeros(6, np.int64), {}, [[]] * 6, [[]] * 6
    )


@pytest.mark.parametrize("error", [RuntimeError("odd"), MemoryError(), IndexError("odd")], ids=repr)
def test_what_can_not_be_measured_is_still_answered(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Spans equal those of a prediction without golds to the bit; the neighbours are measured."""
    windows, golds = six_pairs(), no_golds()
    _, whole = decode_and_measure(FakeReader(), windows, DECODING, 60, golds)
    measure = MeasureLosses.measure

    def refuse(
        self: MeasureLosses, batch: Batch, logits: Logits, chosen: np.ndarray, pending: Pending
    ) -> None:
        measure(self, batch, logits, chosen, pending)
        if 3 in chosen:
            raise error

    monkeypatch.setattr(MeasureLosses, "measure", refuse)
    reader = FakeReader()
    decoded, measured = decode_and_measure(reader, windows, DECODING, 60, golds)
    assert sum(count for count, _ in reader.shapes) == len(windows)  # no window is read twice
    assert decoded.failures == {}
    reason = "out_of_memory" if isinstance(error, MemoryError) else "loss_error"
    assert measured.unmeasured == {windows.pair[3]: (reason, f"{type(error).__name__}: {error}")}
    assert measured.for_good == ({windows.pair[3]} if isinstance(error, IndexError) else set())
    plain = decode(FakeReader(), windows, DECODING, 60).spans
    assert_equal_windows(decoded.spans, plain, range(len(windows)))
    others = windows_of(windows, but=[int(windows.pair[3])])
    for name in ("context", "owned", "null", "negative", "tops", "rest"):
        np.testing.assert_allclose(
            getattr(measured.losses, name)[:, others],
            getattr(whole.losses, name)[:, others],
            rtol=1e-6,
        )
    assert np.isnan(measured.losses.context[:, 3]).all()


class RefuseOnce:
    """An observer that fails on the first batch of window 3."""

    def __init__(self) -> None:
        self.seen = False

    def take(self, batch: Batch, logits: Logits, chosen: np.ndarray) -> Pending:
        if 3 in chosen and not self.seen:
            self.seen = True
            raise ValueError("again")
        return Pending()

    def result(self) -> None:
        """Nothing."""


def test_a_window_in_a_recomputed_batch_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its failure in the batch that another observer then refused is forgotten."""
    windows, alone = six_pairs(), []
    measure = MeasureLosses.measure

    def fail_until_alone(
        self: MeasureLosses, batch: Batch, logits: Logits, chosen: np.ndarray, pending: Pending
    ) -> None:
        if 3 in chosen and not alone:
            if len(chosen) == 1:
                alone.append(3)
            raise RuntimeError("odd")
        measure(self, batch, logits, chosen, pending)

    monkeypatch.setattr(MeasureLosses, "measure", fail_until_alone)
    observer = MeasureLosses(windows, no_golds(), "softmax", Decoding(null=True))
    prediction = predict(FakeReader(), windows, 60, [observer, RefuseOnce()])
    assert alone == [3]
    assert prediction.failures == observer.result().unmeasured == {}
    assert np.isfinite(observer.result().losses.context).all()
