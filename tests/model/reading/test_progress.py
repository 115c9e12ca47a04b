"""The share of a chunk's windows that the network has read, as displays see it."""

from __future__ import annotations

import numpy as np
import pytest

from model.reading.batching import Batch, Pending
from model.reading.decoding import DecodeSpans, Decoding
from model.reading.prediction import Logits, predict
from model.reading.progress import current, shares, working_on
from tests.model.fakes import FakeReader, make_windows


class Seen(DecodeSpans):
    """Decodes, and notes the shares that a display would see while batches are computed."""

    def take(self, batch: Batch, logits: Logits, chosen: np.ndarray) -> Pending:
        self.seen = [*getattr(self, "seen", []), *shares().values()]
        return super().take(batch, logits, chosen)


def test_the_share_grows_with_every_batch_up_to_one() -> None:
    windows = make_windows([8, 14, 4, 9, 12, 6], max_length=12, overlap=2)
    observer = Seen(windows, Decoding(n_best=1, max_answer_length=3))
    with working_on("a part", len(windows)):
        predict(FakeReader(0), windows, 12, [observer])
        assert shares() == {"a part": pytest.approx(1.0)}
    assert observer.seen == sorted(set(observer.seen))
    assert len(observer.seen) == len(windows)
    assert observer.seen[0] == 0
    assert shares() == {}


def test_windows_in_several_passes_add_up() -> None:
    first = make_windows([8, 14], max_length=12, overlap=2)
    second = make_windows([4, 9, 12, 6], max_length=12, overlap=2)
    with working_on("a part", len(first) + len(second)):
        for windows in (first, second):
            observer = DecodeSpans(windows, Decoding(n_best=1, max_answer_length=3))
            predict(FakeReader(0), windows, 24, [observer])
            expected = len(first) / (len(first) + len(second)) if windows is first else 1.0
            assert shares()["a part"] == pytest.approx(expected)


def test_windows_that_nobody_follows_are_not_counted() -> None:
    windows = make_windows([8], max_length=12, overlap=2)
    predict(FakeReader(0), windows, 12, [DecodeSpans(windows, Decoding(n_best=1))])
    assert current() is None
    assert shares() == {}
