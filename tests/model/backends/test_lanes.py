"""Lanes: their number, their share of threads, and that the process's thread count is restored."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest
import torch

from model.backends import lanes as module
from model.backends.lanes import MOST_LANES, in_lanes, lanes_of


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


def test_one_lane_for_each_thread_of_a_cpu(threads: int) -> None:
    assert lanes_of(torch.device("cpu")) == threads
    torch.set_num_threads(2 * MOST_LANES)
    assert lanes_of(torch.device("cpu")) == MOST_LANES
    assert lanes_of(torch.device("cuda")) == 1


def threads_seen(lanes: int, expected: int) -> list[int]:
    """Return torch's thread count in each lane; no item ends before all expected lanes run."""
    seen = []
    waiting = list(range(3 * expected))
    together = threading.Barrier(expected)

    def task(item: int) -> None:
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        together.wait(600)

    in_lanes(task, waiting, lanes)
    assert len(seen) == 3 * expected
    return [threads for _, threads in sorted(set(seen))]


@pytest.mark.parametrize(
    ("torch_threads", "lanes", "expected"),
    [
        (4, 4, [1] * 4),
        (4, 2, [2, 2]),
        (4, 8, [1] * 8),
        (12, 8, [2] * 6),
        (8, 5, [2] * 4),
        (4, 3, [2, 2]),
        (1, 2, [1, 1]),
    ],
)
def test_lanes_share_the_threads_and_leave_none_idle(
    threads: int, torch_threads: int, lanes: int, expected: list[int]
) -> None:
    torch.set_num_threads(torch_threads)
    assert threads_seen(lanes, len(expected)) == expected
    assert torch.get_num_threads() == torch_threads


def test_a_thread_that_met_torch_while_lanes_worked_has_all_threads_when_its_turn_comes(
    threads: int,
) -> None:
    """A thread that starts while lanes run must not keep a lane's share of threads for good."""
    met, turn, seen = threading.Event(), threading.Event(), []

    def another() -> None:
        seen.append(torch.get_num_threads())
        met.set()
        assert turn.wait(600)
        seen.append(lanes_of(torch.device("cpu")))
        in_lanes(lambda item: seen.append(torch.get_num_threads()), [1], 1)

    thread = threading.Thread(target=another)

    def task(item: int) -> None:
        if item == 1:
            thread.start()
        assert met.wait(600)

    in_lanes(task, [2, 1], 4)
    turn.set()
    thread.join()
    assert seen == [1, threads, threads]


def test_a_torch_that_keeps_its_threads_works_in_lanes_too(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torch that is built without OpenMP can't resize its thread pool once it has been used."""
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    assert lanes_of(torch.device("cpu")) >= 1
    seen = []
    in_lanes(seen.append, list(range(50)), 4)
    assert sorted(seen) == list(range(50))


@pytest.mark.parametrize("lanes", [0, 1])
def test_one_lane_is_the_thread_that_asks(threads: int, lanes: int) -> None:
    seen = []
    in_lanes(
        lambda item: seen.append((item, threading.current_thread(), torch.get_num_threads())),
        [2, 1],
        lanes,
    )
    assert seen == [(item, threading.current_thread(), threads) for item in (1, 2)]


def test_items_that_tasks_add_are_worked_on(threads: int) -> None:
    waiting, seen = [16, 5], []

    def task(item: int) -> None:
        seen.append(item)
        if item > 1:
            waiting.extend([item // 2, item - item // 2])

    in_lanes(task, waiting, 3)
    assert seen.count(1) == 21


def test_what_a_task_raises_ends_all_lanes_and_is_raised(threads: int) -> None:
    waiting = list(range(1000))

    def task(item: int) -> None:
        raise MemoryError("of a lane")

    with pytest.raises(MemoryError, match="of a lane"):
        in_lanes(task, waiting, 2)
    assert waiting == []
    assert torch.get_num_threads() == threads


@pytest.fixture
def interrupted() -> Iterator[threading.Event]:
    """Set once an interrupt is raised; later ones are ignored.

    A shell's background processes ignore SIGINT, and the tests inherit that; hence the handler.
    """
    raised = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not raised.is_set():
            raised.set()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    yield raised
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_the_lanes_before_it_goes_on(
    threads: int, interrupted: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, wait = threading.Event(), module.wait
    monkeypatch.setattr(module, "wait", lambda running: waits.set() or wait(running))
    items = 100_000  # minutes of work, none of which begins once the interrupt has ended the lanes
    waiting, done, before = list(range(items)), [], set(threading.enumerate())

    def task(item: int) -> None:
        if item == items - 5:
            assert waits.wait(600)
            # Repeatedly, because one that comes just before the caller waits does not wake it.
            for _ in range(6000):
                os.kill(os.getpid(), signal.SIGINT)
                if interrupted.wait(0.1):
                    break
        if item <= items - 5:
            assert interrupted.wait(600)
            time.sleep(0.005)
        done.append(item)

    with pytest.raises(KeyboardInterrupt):
        in_lanes(task, waiting, 2)
    assert set(threading.enumerate()) <= before  # no lane works on
    assert 4 <= len(done) < items / 2
    assert waiting == []
    assert torch.get_num_threads() == threads
