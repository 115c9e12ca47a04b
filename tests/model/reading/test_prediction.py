from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.reading.batching import Batch, Pending
from model.reading.decoding import DecodeSpans, Decoding
from model.reading.posterior import WindowSpans, merge_windows
from model.reading.prediction import Logits, predict
from model.reading.windows import Windows
from tests.model.fakes import CONTEXT_FIRST, FakeReader, make_windows, pairs_of
from tests.model.predicted import Decoded, decode

DECODING = Decoding(n_best=3, max_answer_length=3, null=True)


def six_pairs() -> Windows:
    """Six pairs of one or two windows, nine in all."""
    return make_windows(
        [8, 14, 4, 9, 12, 6], max_length=12, overlap=2, question_tokens=[1, 1, 2, 1, 2, 1]
    )


def assert_equal_windows(got: WindowSpans, expected: WindowSpans, windows: Iterable[int]) -> None:
    """Equal to the last bit, but for masses, which may be summed in another order."""
    at = list(windows)
    assert at
    for name in ("start", "end", "start_logit", "end_logit", "null_score", "finite"):
        np.testing.assert_array_equal(getattr(got, name)[at], getattr(expected, name)[at], name)
    np.testing.assert_allclose(got.log_mass[at], expected.log_mass[at], rtol=1e-6)


def windows_of(windows: Windows, *, but: Iterable[int] = ()) -> list[int]:
    """Windows of all pairs but these."""
    return np.flatnonzero(~np.isin(windows.pair, list(but))).tolist()


# Batches


@given(st.integers(0, 100), st.integers(1, 200))
def test_batch_size_changes_nothing(seed: int, batch_tokens: int) -> None:
    windows = six_pairs()
    alone = decode(FakeReader(seed), windows, DECODING, 1)
    batched = decode(FakeReader(seed), windows, DECODING, batch_tokens)
    assert_equal_windows(batched.spans, alone.spans, range(len(windows)))
    assert alone.failures == batched.failures == {}


def test_the_order_of_the_pairs_changes_nothing() -> None:
    """Identical pairs in another order get the same spans, whatever else is in their batch."""
    lengths = [8, 14, 4, 9]
    options = {"max_length": 12, "overlap": 2}
    results = {}
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        windows = make_windows([lengths[k] for k in order], **options)

        def spoil(pair: int, start: int, logits: np.ndarray, order: list[int] = order) -> None:
            logits[:] = np.random.default_rng([order[pair], start]).integers(-2, 3, logits.shape)

        spans = decode(FakeReader(spoil=spoil), windows, DECODING, 40).spans
        for place, pair in enumerate(order):
            at = windows.pair == place
            results.setdefault(pair, []).append(
                [spans.start[at], spans.end[at], spans.start_logit[at], spans.null_score[at]]
            )
    assert len(results) == 4
    for first, second in results.values():
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)


def test_token_counts_of_hand_worked_batches() -> None:
    """Windows of 10, 8 and 6 tokens; two of ten fit in 20, then one of six is left."""
    windows = make_windows([6, 4, 2], max_length=10, overlap=2)
    reader = FakeReader()
    prediction = decode(reader, windows, DECODING, 20)
    assert reader.shapes == [(2, 10), (1, 6)]
    assert (prediction.prediction.real_tokens, prediction.prediction.padded_tokens) == (24, 26)


def test_no_window_asks_the_reader_nothing() -> None:
    reader = FakeReader()
    prediction = decode(reader, make_windows([0, 0], max_length=10, overlap=2), DECODING, 100)
    assert (reader.shapes, prediction.failures, prediction.prediction.padded_tokens) == ([], {}, 0)
    assert prediction.spans.start.shape == (0, 3)


@pytest.mark.parametrize("null", [True, False])
def test_the_null_score_is_read_only_where_null_is_an_option(null: bool) -> None:
    windows = make_windows([5], max_length=10, overlap=2, pair_format=CONTEXT_FIRST)
    spans = decode(FakeReader(), windows, Decoding(null=null), 100).spans
    assert np.isfinite(spans.null_score).tolist() == [null]


def test_spans_are_passage_tokens() -> None:
    """The best span is token 9 of the passage; in the second window its position is another."""
    windows = make_windows([12], max_length=10, overlap=2, question_tokens=[2])

    def spoil(pair: int, start: int, logits: np.ndarray) -> None:
        logits[:] = 0
        if start <= 9 < start + logits.shape[1] - 1:
            logits[:, 1 + 9 - start] = 5

    spans = decode(
        FakeReader(spoil=spoil), windows, Decoding(n_best=1, max_answer_length=2), 100
    ).spans
    best = np.argmax(spans.start_logit[:, 0] + spans.end_logit[:, 0])
    assert (spans.start[best, 0], spans.end[best, 0]) == (9, 9)


# Non-finite logits


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1], ids=["start", "end"])
@pytest.mark.parametrize("place", [0, 1, -1], ids=["null", "first token", "last token"])
def test_non_finite_logits_mark_their_window_only(value: float, side: int, place: int) -> None:
    windows = six_pairs()

    def spoil(pair: int, start: int, logits: np.ndarray) -> None:
        if pair == 1 and start > 0:
            logits[side, place] = value

    spans = decode(FakeReader(spoil=spoil), windows, DECODING, 60).spans
    plain = decode(FakeReader(), windows, DECODING, 60).spans
    spoiled = np.flatnonzero((windows.pair == 1) & (windows.start > 0))
    assert len(spoiled) == 1
    assert not spans.finite[spoiled].any()
    assert plain.finite.all()
    assert_equal_windows(spans, plain, [w for w in range(len(windows)) if w not in spoiled])
    merged = merge_windows(spans, windows.pair, windows.index, 6, n_best=3, temperature=1.0)
    assert merged.finite.tolist() == [True, False, True, True, True, True]


def test_a_non_finite_null_logit_does_not_matter_where_null_is_no_option() -> None:
    def spoil(pair: int, start: int, logits: np.ndarray) -> None:
        logits[:, 0] = np.nan

    assert decode(FakeReader(spoil=spoil), six_pairs(), Decoding(null=False), 60).spans.finite.all()


# Errors


class NoMemory:
    """Raises for batches of more than `rows` windows or more than `tokens` padded tokens a row."""

    def __init__(self, error: Callable[[], Exception], rows: int = 10**9, tokens: int = 10**9):
        self.error, self.rows, self.tokens = error, rows, tokens

    def __call__(self, batch: Batch) -> None:
        rows, tokens = batch.input_ids.shape
        if rows > self.rows or tokens > self.tokens:
            raise self.error()


OUT_OF_MEMORY = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    lambda: MemoryError(),
    lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"
    ),
    lambda: torch.AcceleratorError("CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "python", "cpu", "pinned"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_out_of_memory_halves_the_batch_and_changes_nothing(
    error: Callable[[], Exception], rows: int
) -> None:
    windows = six_pairs()
    reader = FakeReader(refuse=NoMemory(error, rows))
    prediction = decode(reader, windows, DECODING, 10_000)
    assert prediction.failures == {}
    assert_equal_windows(
        prediction.spans,
        decode(FakeReader(), windows, DECODING, 10_000).spans,
        range(len(windows)),
    )
    passed = [shape for shape in reader.shapes if shape[0] <= rows]
    assert sum(count for count, _ in passed) == len(windows)
    assert prediction.prediction.padded_tokens == sum(count * length for count, length in passed)


def test_halves_keep_the_order_and_the_rest_of_the_plan() -> None:
    windows = make_windows([6] * 5 + [2], max_length=10, overlap=2)
    reader = FakeReader(refuse=NoMemory(OUT_OF_MEMORY[0], rows=2))
    decode(reader, windows, DECODING, 50)
    assert reader.shapes == [(5, 10), (2, 10), (3, 10), (1, 10), (2, 10), (1, 6)]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "python", "cpu", "pinned"])
def test_a_window_that_is_too_big_alone_fails_its_pair_only(error: Callable[[], Exception]) -> None:
    windows = make_windows([4, 9, 3], max_length=20, overlap=2)
    prediction = decode(FakeReader(refuse=NoMemory(error, tokens=8)), windows, DECODING, 10_000)
    assert {pair: reason for pair, (reason, _) in prediction.failures.items()} == {
        1: "out_of_memory"
    }
    assert prediction.failures[1][1].startswith(type(error()).__name__)
    plain = decode(FakeReader(), windows, DECODING, 10_000).spans
    assert_equal_windows(prediction.spans, plain, windows_of(windows, but=[1]))
    assert prediction.spans.finite.tolist() == [True, False, True]


def poison(*pairs: int) -> Callable[[Batch], None]:
    def refuse(batch: Batch) -> None:
        if set(pairs) & set(pairs_of(batch)):
            raise ValueError("a poisoned pair")

    return refuse


@pytest.mark.parametrize("pairs", [[0], [1], [5], [1, 4]])
def test_poison_pairs_fail_alone_and_their_neighbours_keep_their_answers(pairs: list[int]) -> None:
    windows = six_pairs()
    prediction = decode(FakeReader(refuse=poison(*pairs)), windows, DECODING, 10_000)
    assert prediction.failures == dict.fromkeys(
        pairs, ("model_error", "ValueError: a poisoned pair")
    )
    plain = decode(FakeReader(), windows, DECODING, 10_000).spans
    assert_equal_windows(prediction.spans, plain, windows_of(windows, but=pairs))


def test_the_error_is_raised_if_no_window_could_be_computed() -> None:
    with pytest.raises(ValueError, match="a poisoned pair"):
        decode(FakeReader(refuse=poison(*range(6))), six_pairs(), DECODING, 10_000)


def test_a_single_window_that_fails_is_a_row_that_fails() -> None:
    """Without other windows, a poison window looks like a broken model."""
    prediction = decode(
        FakeReader(refuse=poison(0)), make_windows([4], max_length=10, overlap=2), DECODING, 100
    )
    assert prediction.failures[0][0] == "model_error"


def test_one_good_window_is_enough_to_go_on() -> None:
    """The last of the plan: all others have failed before it."""
    windows = make_windows([6, 6, 6, 2], max_length=10, overlap=2)
    prediction = decode(FakeReader(refuse=poison(0, 1, 2)), windows, DECODING, 20)
    assert sorted(prediction.failures) == [0, 1, 2]
    assert prediction.spans.finite.tolist() == [False, False, False, True]


def test_a_lost_device_is_raised_at_once() -> None:
    reader = FakeReader(
        refuse=NoMemory(
            lambda: torch.AcceleratorError("CUDA error: unspecified launch failure"), rows=0
        )
    )
    with pytest.raises(torch.AcceleratorError):
        decode(reader, six_pairs(), DECODING, 10_000)
    assert len(reader.shapes) == 1


def test_an_interrupt_is_never_taken_for_a_poison_window() -> None:
    with pytest.raises(KeyboardInterrupt):
        decode(
            FakeReader(refuse=NoMemory(KeyboardInterrupt, rows=0)), six_pairs(), DECODING, 10_000
        )


# Lanes


def test_lanes_change_nothing_but_the_order() -> None:
    windows = six_pairs()
    reader, inside, most = FakeReader(most=3), [], []
    together, calls = threading.Barrier(2), itertools.count()

    def refuse(batch: Batch) -> None:
        inside.append(1)
        if next(calls) < 2:
            together.wait(600)  # breaks unless two lanes work at a time
        most.append(len(inside))
        inside.pop()
        poison(1)(batch)

    reader.refuse = refuse
    prediction = decode(reader, windows, DECODING, 12)
    assert 1 < max(most) <= 3
    alone = decode(FakeReader(refuse=poison(1)), windows, DECODING, 12)
    assert (
        prediction.failures == alone.failures == {1: ("model_error", "ValueError: a poisoned pair")}
    )
    assert_equal_windows(prediction.spans, alone.spans, windows_of(windows, but=[1]))
    assert prediction.prediction.padded_tokens == alone.prediction.padded_tokens
    assert sorted(reader.shapes) == sorted(alone_shapes(windows))


def alone_shapes(windows: Windows) -> list[tuple[int, int]]:
    reader = FakeReader(refuse=poison(1))
    decode(reader, windows, DECODING, 12)
    return reader.shapes


def test_few_batches_are_worked_on_in_the_thread_that_asks() -> None:
    threads = set()

    def refuse(batch: Batch) -> None:
        threads.add(threading.current_thread())

    decode(
        FakeReader(most=8, refuse=refuse),
        make_windows([6, 4, 2], max_length=10, overlap=2),
        DECODING,
        10,
    )
    assert threads == {threading.current_thread()}


def test_an_error_that_ends_the_run_ends_all_lanes() -> None:
    lost = FakeReader(
        most=2,
        refuse=NoMemory(
            lambda: torch.AcceleratorError("CUDA error: unspecified launch failure"), rows=0
        ),
    )
    with pytest.raises(torch.AcceleratorError):
        decode(lost, six_pairs(), DECODING, 1)
    assert len(lost.shapes) <= 2
    with pytest.raises(KeyboardInterrupt):
        decode(
            FakeReader(most=2, refuse=NoMemory(KeyboardInterrupt, rows=0)), six_pairs(), DECODING, 1
        )
    with pytest.raises(ValueError, match="a poisoned pair"):
        decode(FakeReader(most=2, refuse=poison(*range(6))), six_pairs(), DECODING, 1)


def test_memory_that_lanes_lack_together_is_no_failure_of_a_row() -> None:
    """Room for the longest window alone, and no more."""
    windows, inside = six_pairs(), []
    room = int(windows.lengths.max())

    def refuse(batch: Batch) -> None:
        inside.append(batch.input_ids.numel())
        try:
            time.sleep(0.005)
            if sum(inside) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            inside.remove(batch.input_ids.numel())

    prediction = decode(FakeReader(most=2, refuse=refuse), windows, DECODING, 1)
    assert prediction.failures == {}
    assert_equal_windows(
        prediction.spans, decode(FakeReader(), windows, DECODING, 1).spans, range(len(windows))
    )


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_batch_that_failed_is_not_kept_in_memory(lanes: int) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    most = []

    def refuse(batch: Batch) -> None:
        most.append(sum(tensor() is not None for tensor in held))
        activations = torch.zeros(10)
        held.append(weakref.ref(activations))
        if len(batch.input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    gc.disable()
    try:
        decode(FakeReader(most=lanes, refuse=refuse), six_pairs(), DECODING, 60)
    finally:
        gc.enable()
    assert len(most) > 9
    assert max(most) < lanes
    assert not any(tensor() is not None for tensor in held)


def test_threads_take_turns_on_the_device() -> None:
    inside, most = [], []

    def refuse(batch: Batch) -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()

    results: list[Decoded] = []
    reader, windows = FakeReader(refuse=refuse), six_pairs()
    threads = [
        threading.Thread(target=lambda: results.append(decode(reader, windows, DECODING, 30)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    for result in results:
        assert_equal_windows(result.spans, results[0].spans, range(len(windows)))
    assert len(results) == 4


# Observers


class Watch:
    """An observer that counts the context tokens of each window, and may raise for a window."""

    def __init__(self, windows: Windows, refuse: Iterable[int] = ()):
        self.tokens = np.zeros(len(windows), np.int64)
        self.refuse = list(refuse)
        self.chosen: list[int] = []

    def take(self, batch: Batch, logits: Logits, chosen: np.ndarray) -> Pending:
        self.chosen.append(len(chosen))
        found = Pending()
        found.put(self.tokens, chosen, batch.in_context.sum(1))
        if set(self.refuse) & set(chosen.tolist()):
            raise ValueError("an observer that fails")
        return found

    def result(self) -> np.ndarray:
        return self.tokens


def test_every_observer_sees_every_window() -> None:
    windows, reader = six_pairs(), FakeReader()
    first, spans, last = Watch(windows), DecodeSpans(windows, DECODING), Watch(windows)
    prediction = predict(reader, windows, 60, [first, spans, last])
    assert prediction.failures == {}
    assert (
        first.result().tolist() == last.result().tolist() == (windows.stop - windows.start).tolist()
    )
    alone = decode(FakeReader(), windows, DECODING, 60).spans
    assert_equal_windows(spans.result(), alone, range(len(windows)))
    assert first.chosen == last.chosen == [shape[0] for shape in reader.shapes]


def test_without_observers_windows_are_computed_all_the_same() -> None:
    windows, reader = six_pairs(), FakeReader()
    prediction = predict(reader, windows, 60, [])
    assert sum(count for count, _ in reader.shapes) == len(windows)
    assert prediction.padded_tokens == sum(count * length for count, length in reader.shapes)


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_an_observer_that_fails_is_a_batch_that_fails(order: int) -> None:
    """Nothing of the window is left, whichever observer comes first; its neighbours keep theirs."""
    windows = six_pairs()
    spans, watch = DecodeSpans(windows, DECODING), Watch(windows, refuse=[3])
    prediction = predict(FakeReader(), windows, 60, [spans, watch][::order])
    assert prediction.failures == {
        windows.pair[3]: ("model_error", "ValueError: an observer that fails")
    }
    others = [window for window in range(len(windows)) if window != 3]
    assert not spans.result().finite[3]
    assert spans.result().finite[others].all()
    assert watch.result()[3] == 0
    assert (watch.result()[others] > 0).all()
