"""Lanes: how many, which threads they compute with, and that the caller's own are left as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from model.lanes import MOST_LANES, in_lanes, lanes_of


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
    assert lanes_of(torch.device("cuda")) == 2


@pytest.mark.parametrize(("lanes", "each"), [(4, 1), (2, 2), (8, 1)])
def test_lanes_share_the_threads(threads: int, lanes: int, each: int) -> None:
    together = threading.Barrier(lanes, timeout=10)
    seen = []

    def work() -> None:
        together.wait()
        seen.append(torch.get_num_threads())

    in_lanes(work, lanes)
    assert seen == [each] * lanes
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("lanes", [0, 1])
def test_one_lane_is_the_thread_that_asks(threads: int, lanes: int) -> None:
    seen = []
    in_lanes(lambda: seen.append((threading.current_thread(), torch.get_num_threads())), lanes)
    assert seen == [(threading.current_thread(), threads)]


def test_what_a_lane_raises_is_raised(threads: int) -> None:
    def work() -> None:
        raise MemoryError("of a lane")

    with pytest.raises(MemoryError, match="of a lane"):
        in_lanes(work, 2)
    assert torch.get_num_threads() == threads
