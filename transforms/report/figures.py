"""Figures with two axes as inline SVG, drawn by matplotlib; colours become CSS variables and follow the page into dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    "#101112": "currentColor",
    "#202122": "var(--accent)",
    "#303132": "var(--rule)",
}
_TEXT, _ACCENT, _RULE = _COLOURS


class _Drawing:
    """One figure under construction: `axes` to draw on, `svg` to end with.

    The room of labels is given, not measured: letters stay letters, which the reader's own fonts draw, and to measure them in
    others takes longer than to draw all else.
    """

    def __init__(self, name: str):
        from matplotlib.figure import Figure  # half a second to import: only where a report is made

        self.name = name
        self.figure = Figure(figsize=(5, 3))
        self.axes: Axes = self.figure.add_axes((0.18, 0.18, 0.78, 0.77), facecolor="none")
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
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name, "font.family": "sans-serif"}):
            self.figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        svg = out.getvalue()
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
        svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1)
        for drawn, shown in _COLOURS.items():
            svg = svg.replace(drawn, shown)
        return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


def loss_histogram(counts: Sequence[int]) -> str:
    """Rows by loss, in the bins of `model.distributions.loss_bin`."""
    drawing = _Drawing("loss")
    axes = drawing.axes
    axes.stairs(counts, fill=True, color=_ACCENT)
    _loss_ticks(axes.set_xticks, len(counts))
    axes.yaxis.grid(True, color=_RULE, linewidth=0.6)
    drawing.label("loss of the gold, nats", "examples")
    return drawing.svg("histogram of the loss")


def start_against_end(grid: Sequence[Sequence[int]], bins: int) -> str:
    """Rows by loss of the start and loss of the end: [start bin, end bin, rows]."""
    from matplotlib.collections import PolyCollection

    drawing = _Drawing("start-end")
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
    drawing = _Drawing("reliability")
    axes = drawing.axes
    axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle="--")
    x, y = [point["mean_probability"] for point in points], [point["accuracy"] for point in points]
    axes.plot(x, y, color=_ACCENT, marker="o", markersize=4)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    drawing.label("probability of the answer", "share that is right")
    return drawing.svg("reliability diagram")
