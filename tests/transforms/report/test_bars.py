"""Bars: positions of bars and their intervals."""

from __future__ import annotations

import pytest

from transforms.report.bars import Bar, Bars, Mean, scaled


def mean(value: float, low: float, high: float, name: str = "a") -> Mean:
    return Mean(name, f"{value}", value, low, high)


def test_losses_begin_at_zero_and_the_widest_interval_ends_at_the_edge():
    bars = scaled([mean(2.0, 1.0, 3.0), mean(3.0, 2.0, 4.0, "b")])
    assert bars == Bars(
        0.0, [Bar("a", "2.0", 0.0, 50.0, 25.0, 50.0), Bar("b", "3.0", 0.0, 75.0, 50.0, 50.0)]
    )


def test_differences_go_both_ways_from_zero():
    bars = scaled([mean(-1.0, -3.0, 1.0), mean(0.5, 0.0, 1.0)])
    assert bars.zero == 75.0
    assert [(bar.left, bar.width, bar.low, bar.spread) for bar in bars.bars] == [
        (50, 25, 0, 100),
        (75, 12.5, 75, 25),
    ]


def test_intervals_on_one_side_keep_zero_in_sight():
    assert scaled([mean(3.0, 2.0, 4.0)]).zero == 0.0
    assert scaled([mean(-3.0, -4.0, -2.0)]).zero == 100.0


@pytest.mark.parametrize("means", [[], [mean(0.0, 0.0, 0.0)]])
def test_where_all_is_zero_there_is_a_place_for_it(means: list[Mean]):
    bars = scaled(means)
    assert bars.zero == 0.0
    assert [(bar.left, bar.width, bar.spread) for bar in bars.bars] == [(0, 0, 0)] * len(means)
