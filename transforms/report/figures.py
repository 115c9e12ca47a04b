"""Figures as inline SVG, drawn by matplotlib; colours become CSS variables, so that they follow the page into dark mode."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import escape
from rich.text import Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    "#101112": "currentColor",
    "#202122": "var(--accent)",
    "#303132": "var(--second)",
    "#404142": "var(--rule)",
    "#505152": "var(--third)",
}
_TEXT, _ACCENT, _SECOND, _RULE, _THIRD = _COLOURS
_OUTCOMES = {"scored": _ACCENT, "null_scored": _THIRD, "unreachable": _SECOND, "rejected": _RULE, "in_failed_chunks": _TEXT}

Bar = tuple[str, float, float]
"""Name, mean, half of its 95 % interval."""

_LONGEST_LABEL = 30
"""In columns of a terminal, of which wide letters take two."""


class _Drawing:
    """One figure under construction: `axes` to draw on, `svg` to end with.

    Sizes and the room on the left and above the axes are in inches. Room is given, not measured: letters stay letters, which
    the reader's own fonts draw, and to measure them in others takes longer than to draw all else.
    """

    def __init__(self, name: str, width: float, height: float, left: float = 0.9, above: float = 0.15):
        from matplotlib.figure import Figure  # half a second to import: only where a report is made

        self.name = name
        self.figure = Figure(figsize=(width, height))
        right, below = 0.2, 0.55
        sides = (left / width, below / height, (width - left - right) / width, (height - above - below) / height)
        self.axes: Axes = self.figure.add_axes(sides, facecolor="none")
        self.axes.set_axisbelow(True)
        self.axes.locator_params(nbins=4)  # ticks are most of what a figure takes
        self.axes.tick_params(colors=_TEXT, labelsize=10)
        for spine in self.axes.spines.values():
            spine.set_color(_RULE)

    def label(self, x: str, y: str) -> None:
        self.axes.set_xlabel(x, color=_TEXT, fontsize=10)
        self.axes.set_ylabel(y, color=_TEXT, fontsize=10)

    def svg(self, description: str) -> str:
        """The figure's `<svg>`, named for screen readers. Its ids are its own."""
        from matplotlib import rc_context

        out = io.StringIO()
        with (
            rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name, "font.family": "sans-serif"}),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Glyph")  # letters stay letters, which the reader's own fonts draw
            self.figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        svg = out.getvalue()
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
        svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1)
        for drawn, shown in _COLOURS.items():
            svg = svg.replace(drawn, shown)
        return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


def _labels(names: Sequence[str]) -> tuple[list[str], float]:
    """Names as they stand beside an axis, and their room in inches.

    Each is on one line, cut so that the figure keeps its room, and no formula between dollars.
    """
    texts = [Text(" ".join(name.split())) for name in names]
    for text in texts:
        text.truncate(_LONGEST_LABEL, overflow="ellipsis")
    room = 0.25 + 0.085 * max((text.cell_len for text in texts), default=0)
    return [text.plain.replace("$", r"\$") for text in texts], room


def accounting(rows: dict[str, int]) -> str:
    """One bar from rows planned to what became of them."""
    drawing = _Drawing("accounting", 8, 1.25, left=0.2, above=0.4)
    axes = drawing.axes
    left = 0
    for name, colour in _OUTCOMES.items():
        if rows.get(name):
            axes.barh([0], [rows[name]], left=left, color=colour, label=name.replace("_", " "), height=0.6)
            left += rows[name]
    axes.set_yticks([])
    axes.set_xlim(0, max(1, rows["planned"]))
    drawing.label("rows", "")
    if left:
        axes.legend(ncols=5, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, labelcolor=_TEXT, fontsize=10)
    return drawing.svg("rows by what became of them")


def loss_histogram(counts: Sequence[int]) -> str:
    """Rows by loss, in the bins of `model.distributions.loss_bin`."""
    drawing = _Drawing("loss", 5, 3)
    axes = drawing.axes
    axes.bar(range(len(counts)), counts, width=0.9, align="edge", color=_ACCENT)
    _loss_ticks(axes.set_xticks, len(counts))
    axes.yaxis.grid(True, color=_RULE, linewidth=0.6)
    drawing.label("loss of the gold, nats", "examples")
    return drawing.svg("histogram of the loss")


def start_against_end(grid: Sequence[Sequence[int]], bins: int) -> str:
    """Rows by loss of the start and loss of the end: [start bin, end bin, rows]."""
    from matplotlib.collections import PolyCollection

    drawing = _Drawing("start-end", 5, 3)
    axes = drawing.axes
    most = max((rows for _, _, rows in grid), default=1)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    cells = [corners + np.array((start, end)) for start, end, _ in grid]
    shares = [round(0.12 + 0.88 * (rows / most) ** 0.3, 2) for _, _, rows in grid]
    axes.add_collection(PolyCollection(cells, facecolors=_ACCENT, alpha=shares or None, linewidths=0))
    axes.set_xlim(0, bins)
    axes.set_ylim(0, bins)
    _loss_ticks(axes.set_xticks, bins)
    _loss_ticks(axes.set_yticks, bins)
    drawing.label("loss of the start, nats", "loss of the end, nats")
    return drawing.svg("loss of the start against loss of the end")


def _loss_ticks(set_ticks: Any, bins: int) -> None:
    shown = [nats for nats in (0, 1, 4, 9, 16, 25) if 4 * nats**0.5 < bins]
    set_ticks([4 * nats**0.5 for nats in shown], [str(nats) for nats in shown])


def reliability(points: Sequence[dict[str, float]]) -> str:
    """How often answers of a probability are right, against that probability."""
    drawing = _Drawing("reliability", 5, 3)
    axes = drawing.axes
    axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle="--")
    x, y = [point["mean_probability"] for point in points], [point["accuracy"] for point in points]
    axes.plot(x, y, color=_ACCENT, marker="o", markersize=4)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    drawing.label("probability of the answer", "share that is right")
    return drawing.svg("reliability diagram")


def bars(name: str, groups: Sequence[Bar], unit: str) -> str:
    """A mean with its interval for every value of a slice, in their order."""
    labels, room = _labels([name for name, _, _ in groups])
    drawing = _Drawing(name, 5, 0.9 + 0.28 * max(2, len(groups)), left=room)
    axes = drawing.axes
    places = range(len(groups))
    means, halves = [mean for _, mean, _ in groups], [half for _, _, half in groups]
    axes.barh(places, means, xerr=halves, color=_ACCENT, ecolor=_TEXT, height=0.7)
    axes.set_xlim(left=0)
    axes.set_yticks(list(places), labels)
    axes.invert_yaxis()
    axes.xaxis.grid(True, color=_RULE, linewidth=0.6)
    drawing.label(unit, "")
    return drawing.svg(f"{unit} by {name.replace('_', ' ')}")


def differences(groups: Sequence[Bar], unit: str) -> str:
    """Mean differences with their intervals, as points beside zero."""
    labels, room = _labels([name for name, _, _ in groups])
    drawing = _Drawing("differences", 8, 0.9 + 0.28 * max(2, len(groups)), left=room)
    axes = drawing.axes
    axes.axvline(0, color=_RULE)
    means, halves = [mean for _, mean, _ in groups], [half for _, _, half in groups]
    axes.errorbar(means, range(len(groups)), xerr=halves, fmt="o", color=_ACCENT, ecolor=_ACCENT, capsize=3, markersize=4)
    axes.set_yticks(range(len(groups)), labels)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    drawing.label(unit, "")
    return drawing.svg(f"{unit} by slice")
