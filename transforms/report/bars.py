"""Bars: where means and their 95 % intervals stand on one scale, in per cent of its width. The page draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mean:
    """What a bar shows: its name, what is written beside it, the mean, and the two ends of its interval."""

    name: str
    text: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: from zero to the mean, and over it the interval; where each begins, and how wide it is."""

    name: str
    text: str
    left: float
    width: float
    low: float
    spread: float


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars on one scale, which holds zero and every interval; zero is where it stands."""

    zero: float
    bars: list[Bar]


def scaled(means: Sequence[Mean]) -> Bars:
    """The bars of some means, in their order."""
    least = min((min(0.0, each.low) for each in means), default=0.0)
    most = max((max(0.0, each.high) for each in means), default=0.0)

    def place(value: float) -> float:
        return 100 * (value - least) / ((most - least) or 1.0)

    def bar(each: Mean) -> Bar:
        ends = sorted((place(0), place(each.mean)))
        low, high = place(each.low), place(each.high)
        return Bar(
            each.name,
            each.text,
            *(round(number, 2) for number in (ends[0], ends[1] - ends[0], low, high - low)),
        )

    return Bars(round(place(0), 2), [bar(each) for each in means])
