"""Kept states: computed once, dropped oldest first, and recomputed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from model.backends.states import StateCache

SIZE = 40
"""Bytes of a state of ten float32."""


def keys(*numbers: int) -> list[bytes]:
    return [str(number).encode() for number in numbers]


class Computed:
    """Computes the states of keys, and records which."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def of(self, *numbers: int) -> Callable[[list[int]], list[torch.Tensor]]:
        def compute(missing: list[int]) -> list[torch.Tensor]:
            self.asked.append([numbers[k] for k in missing])
            return [torch.full((10,), float(numbers[k])) for k in missing]

        return compute


def values(states: list[torch.Tensor]) -> list[int]:
    return [int(state[0]) for state in states]


def test_a_state_is_computed_once_and_repeated_keys_share_it():
    cache, computed = StateCache(100 * SIZE), Computed()
    assert values(cache.take(keys(1, 2, 1), computed.of(1, 2, 1))) == [1, 2, 1]
    assert values(cache.take(keys(2, 3), computed.of(2, 3))) == [2, 3]
    assert computed.asked == [[1, 2], [3]]


def test_the_oldest_block_is_dropped_beyond_the_bound():
    cache, computed = StateCache(3 * SIZE), Computed()
    cache.take(keys(1, 2), computed.of(1, 2))
    cache.take(keys(3), computed.of(3))
    cache.take(keys(4), computed.of(4))  # 1 and 2 go
    assert values(cache.take(keys(3, 4), computed.of(3, 4))) == [3, 4]
    assert values(cache.take(keys(1), computed.of(1))) == [1]
    assert computed.asked == [[1, 2], [3], [4], [1]]


def test_a_block_above_the_bound_is_returned_but_not_kept():
    cache, computed = StateCache(SIZE), Computed()
    for _ in range(2):
        assert values(cache.take(keys(1, 2), computed.of(1, 2))) == [1, 2]
    assert computed.asked == [[1, 2], [1, 2]]


def test_forgotten_states_are_recomputed():
    cache, computed = StateCache(100 * SIZE), Computed()
    cache.take(keys(1, 2), computed.of(1, 2))
    cache.forget()
    assert values(cache.take(keys(2), computed.of(2))) == [2]
    assert computed.asked == [[1, 2], [2]]


def test_an_error_is_raised_and_leaves_the_keys_to_the_next():
    cache, computed = StateCache(100 * SIZE), Computed()

    def fail(missing: list[int]) -> list[torch.Tensor]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.take(keys(1, 2), fail)
    assert values(cache.take(keys(1, 2), computed.of(1, 2))) == [1, 2]


def test_a_lane_waits_for_what_another_computes_and_takes_over_what_that_fails_on():
    cache, computed = StateCache(100 * SIZE), Computed()
    begun, end = threading.Event(), threading.Event()

    def fail_late(missing: list[int]) -> list[torch.Tensor]:
        begun.set()
        assert end.wait(60)
        raise ValueError("no")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.take, keys(1, 2), fail_late)
        assert begun.wait(60)
        second = pool.submit(cache.take, keys(2, 3), computed.of(2, 3))
        end.set()
        assert values(second.result()) == [2, 3]
        with pytest.raises(ValueError, match="no"):
            first.result()
    # 3 was computed at once, 2 only after the other lane had failed, if it came first.
    assert computed.asked in ([[3], [2]], [[2, 3]])
