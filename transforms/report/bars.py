"""Bars: positions of means and their 95 % intervals on one scale.

Positions are in per cent of the width of the scale. The page draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean to draw: its name, its label, its value, and the ends of its interval."""

    name: str
    text: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar from zero to the mean, with its interval drawn over it.

    left, width  start and width of the bar
    low, spread  start and width of the interval
    """

    name: str
    text: str
    left: float
    width: float
    low: float
    spread: float


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars on one scale that contains zero and every interval; `zero` is the position of zero."""

    zero: float
    bars: list[Bar]


def scaled(means: Sequence[Mean]) -> Bars:
    """Return the bars of some means, in their order."""
    # The scale contains zero, where bars begin.
    least = min((min(0.0, each.low) for each in means), default=0.0)
    most = max((max(0.0, each.high) for each in means), default=0.0)

    def position(value: float) -> float:
        # With no spread at all, everything is at the left end.
        return 100 * (value - least) / ((most - least) or 1.0)

    def bar(each: Mean) -> Bar:
        ends = sorted((position(0), position(each.mean)))
        low, high = position(each.low), position(each.high)
        return Bar(
            each.name,
            each.text,
            left=round(ends[0], 2),
            width=round(ends[1] - ends[0], 2),
            low=round(low, 2),
            spread=round(high - low, 2),
        )

    return Bars(round(position(0), 2), [bar(each) for each in means])
