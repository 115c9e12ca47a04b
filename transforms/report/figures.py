"""Figures with two axes as inline SVG, drawn by matplotlib; colours become CSS variables and follow the page into dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

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

_Scale = tuple[str, Mapping[float, str]]
"""Of an axis: what it shows, and its ticks."""


class _Drawing:
    """One figure under construction: `axes` to draw on, from 0 to its width and height, `svg` to end with.

    The room of labels is given, not measured: letters stay letters, which the reader's own fonts draw, and to measure them in
    others takes longer than to draw all else. Ticks are texts and no more: matplotlib's own are five objects each, and were
    most of what a figure took.
    """

    def __init__(self, name: str, width: float, height: float):
        from matplotlib.figure import Figure  # half a second to import: only where a report is made

        self.name = name
        self.figure = Figure(figsize=(5, 3))
        self.axes: Axes = self.figure.add_axes(
            (0.18, 0.18, 0.78, 0.77), facecolor="none", xticks=(), yticks=()
        )
        self.axes.set(xlim=(0, width), ylim=(0, height))
        for spine in self.axes.spines.values():
            spine.set_color(_RULE)

    def scales(self, x: _Scale, y: _Scale) -> None:
        """Writes along both axes."""
        (across, columns), (up, rows) = x, y
        (_, width), (_, height) = self.axes.get_xlim(), self.axes.get_ylim()
        for value, text in columns.items():
            self._text(value / width, -0.03, text, "center", "top")
        for value, text in rows.items():
            self._text(-0.02, value / height, text, "right", "center")
        self._text(0.5, -0.14, across, "center", "top")
        self._text(-0.2, 0.5, up, "center", "center", rotation=90)

    def _text(
        self, x: float, y: float, text: str, horizontal: str, vertical: str, rotation: float = 0
    ) -> None:
        within = self.axes.transAxes
        self.axes.text(
            x,
            y,
            text,
            color=_TEXT,
            fontsize=10,
            transform=within,
            ha=horizontal,
            va=vertical,
            rotation=rotation,
        )

    def svg(self, description: str) -> str:
        """The figure's `<svg>`, named for screen readers. Its ids are its own."""
        from matplotlib import rc_context

        out = io.StringIO()
        with rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": self.name, "font.family": "sans-serif"}
        ):
            self.figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        svg = out.getvalue()
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
        svg = re.sub(
            r'(<svg[^>]*?) width="[^"]*"',
            r"\1",
            re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1),
            count=1,
        )
        for drawn, shown in _COLOURS.items():
            svg = svg.replace(drawn, shown)
        return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


def loss_histogram(counts: Sequence[int]) -> str:
    """Rows by loss, in the bins of `model.audit.distributions.loss_bin`."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    most = max(1.05 * max(counts), 1)
    ticks = [value for value in MaxNLocator(4, integer=True).tick_values(0, most) if value <= most]
    drawing = _Drawing("loss", len(counts), most)
    drawing.axes.hlines(ticks, 0, len(counts), color=_RULE, linewidth=0.6, zorder=0)
    drawing.axes.stairs(counts, fill=True, color=_ACCENT)
    shown = {tick: EngFormatter(sep="")(tick) for tick in ticks}  # millions have no room
    drawing.scales(("loss of the gold, nats", _loss_ticks(len(counts))), ("examples", shown))
    return drawing.svg("histogram of the loss")


def start_against_end(grid: Sequence[Sequence[int]], bins: int) -> str:
    """Rows by loss of the start and loss of the end: [start bin, end bin, rows]."""
    from matplotlib.collections import PolyCollection

    drawing = _Drawing("start-end", bins, bins)
    most = max((rows for _, _, rows in grid), default=1)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    cells = [corners + np.array((start, end)) for start, end, _ in grid]
    shares = [round(0.12 + 0.88 * (rows / most) ** 0.3, 2) for _, _, rows in grid]
    shown = PolyCollection(cells, facecolors=_ACCENT, alpha=shares or None, linewidths=0)
    drawing.axes.add_collection(shown, autolim=False)
    drawing.scales(
        ("loss of the start, nats", _loss_ticks(bins)), ("loss of the end, nats", _loss_ticks(bins))
    )
    return drawing.svg("loss of the start against loss of the end")


def _loss_ticks(bins: int) -> dict[float, str]:
    return {4 * nats**0.5: str(nats) for nats in (0, 1, 4, 9, 16, 25) if 4 * nats**0.5 < bins}


def reliability(points: Sequence[dict[str, float]]) -> str:
    """How often answers of a probability are right, against that probability."""
    drawing = _Drawing("reliability", 1, 1)
    axes = drawing.axes
    axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle="--")
    x, y = [point["mean_probability"] for point in points], [point["accuracy"] for point in points]
    axes.plot(x, y, color=_ACCENT, marker="o", markersize=4)
    ticks = {share / 4: f"{share / 4:g}" for share in range(5)}
    drawing.scales(("probability of the answer", ticks), ("share that is right", ticks))
    return drawing.svg("reliability diagram")
