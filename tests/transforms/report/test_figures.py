"""Figures as numbers: positions of ticks and marks in the SVG.

`test_browser` tests how they look.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from model.audit.distributions import LOSS_BINS, loss_bin
from transforms.report.figures import (
    loss_histogram,
    reliability,
    risk_coverage_figure,
    start_against_end,
)

LEFT, RIGHT, TOP, BOTTOM = 64.8, 345.6, 10.8, 177.12
"""The frame within every figure."""


def texts(svg: str) -> list[tuple[str, float, float]]:
    """Return the horizontal texts of a figure and their positions.

    Ticks below come first, then ticks at the side, then the label below.
    """
    level = [
        text
        for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
        if text.get("x")
    ]
    return [(text.text or "", float(text.attrib["x"]), float(text.attrib["y"])) for text in level]


def corners(svg: str, style: str) -> list[list[tuple[float, float]]]:
    """Return the corners of each path whose style contains these words."""
    paths = [
        path
        for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path")
        if style in path.attrib["style"]
    ]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.attrib["d"])]
        for path in paths
    ]


def across(share: float) -> float:
    return LEFT + share * (RIGHT - LEFT)


def up(share: float) -> float:
    return BOTTOM - share * (BOTTOM - TOP)


def test_a_loss_stands_in_the_bin_that_its_tick_begins():
    below = {text: x for text, x, y in texts(loss_histogram([0] * LOSS_BINS)) if y > BOTTOM + 4}
    for nats in (0, 1, 4, 9, 16, 25):
        assert below[str(nats)] == pytest.approx(across(loss_bin(nats) / LOSS_BINS))


def test_bars_are_as_high_as_their_ticks_say():
    svg = loss_histogram([3, 500, 0, 1200, *[0] * (LOSS_BINS - 4)])
    (bars,) = corners(svg, "fill: var(--accent)")
    lines = [line[0][1] for line in corners(svg, "stroke: var(--rule); stroke-width: 0.6")]
    beside = [(text, y) for text, x, y in texts(svg) if x < LEFT]
    assert [text for text, _ in beside] == ["0", "400", "800", "1.2k"]
    assert [y for _, y in beside] == pytest.approx(lines, abs=4), "half a letter"
    heights = [
        BOTTOM - min(y for x, y in bars if x == pytest.approx(across(k / LOSS_BINS)))
        for k in range(5)
    ]
    assert heights[3] == pytest.approx(BOTTOM - lines[-1])
    assert heights == pytest.approx(
        [heights[3] * rows / 1200 for rows in (3, 500, 500, 1200, 1200)]
    ), "of the higher neighbour"


@pytest.mark.parametrize(
    ("most", "last"), [(1, "1"), (7, "6"), (99_000, "90k"), (5_000_000, "4.5M")]
)
def test_however_many_examples_ticks_have_room(most: int, last: str):
    ticks = [
        text for text, x, _ in texts(loss_histogram([most, *[0] * (LOSS_BINS - 1)])) if x < LEFT
    ]
    assert ticks[0] == "0" and ticks[-1] == last
    assert 2 <= len(ticks) <= 6 and max(map(len, ticks)) <= 4


def test_start_runs_across_and_end_runs_up():
    svg = start_against_end([[2, 5, 9], [LOSS_BINS - 1, 0, 1]], LOSS_BINS)
    first, second = corners(svg, "fill: var(--accent)")
    assert first[0] == pytest.approx((across(2 / LOSS_BINS), up(5 / LOSS_BINS)))
    assert second[2] == pytest.approx((RIGHT, up(1 / LOSS_BINS)))
    assert "fill-opacity" in svg[svg.rindex("fill: var(--accent)") :], "one row is paler than nine"


def test_points_of_reliability():
    svg = reliability([{"mean_probability": 0.5, "accuracy": 0.25}])
    marks = [
        use.attrib for use in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}use")
    ]
    assert [(float(mark["x"]), float(mark["y"])) for mark in marks] == [
        pytest.approx((across(0.5), up(0.25)))
    ]
    (beside,) = [y for text, x, y in texts(svg) if text == "0.75" and x < LEFT]
    assert beside == pytest.approx(up(0.75), abs=4)


def test_the_risk_coverage_curve():
    svg = risk_coverage_figure([[0.9, 0.25, 0.1], [0.2, 0.75, 0.4]])
    (line,) = corners(svg, "stroke: var(--accent)")
    assert [tuple(point) for point in line] == [
        pytest.approx((across(0.25), up(0.25))),
        pytest.approx((across(0.75), up(1))),
    ]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: loss_histogram([0] * 24),
        lambda: start_against_end([], 24),
        lambda: reliability([]),
        lambda: risk_coverage_figure([]),
    ],
)
def test_figures_of_no_example(draw: Callable[[], str]):
    assert ElementTree.fromstring(draw()).attrib["aria-label"]
