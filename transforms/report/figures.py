"""Figures: plots with two axes as inline SVG, drawn by matplotlib.

Colours become CSS variables, so that the figures follow the page into dark mode.
"""

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
"""Placeholder colours for matplotlib -> their values in the page."""

_TEXT, _ACCENT, _RULE = _COLOURS

_Scale = tuple[str, Mapping[float, str]]
"""The title of an axis, and its ticks: value -> text."""


class _Drawing:
    """A figure under construction: draw on `axes`, from 0 to `width` and `height`, then call `svg`.

    The space for labels is fixed, not measured. Letters stay letters, which the reader's fonts
    draw; measuring them in other fonts takes longer than drawing everything else. Ticks are texts
    only: matplotlib's own ticks are five objects each, which took most of the time of a figure.
    """

    def __init__(self, name: str, width: float, height: float):
        from matplotlib.figure import Figure  # takes half a second to import, for reports only

        self.name = name
        self.figure = Figure(figsize=(5, 3))
        self.axes: Axes = self.figure.add_axes(
            (0.18, 0.18, 0.78, 0.77), facecolor="none", xticks=(), yticks=()
        )
        self.axes.set(xlim=(0, width), ylim=(0, height))
        for spine in self.axes.spines.values():
            spine.set_color(_RULE)

    def scales(self, x: _Scale, y: _Scale) -> None:
        """Write titles and ticks along both axes."""
        (across, columns), (up, rows) = x, y
        (_, width), (_, height) = self.axes.get_xlim(), self.axes.get_ylim()
        for value, text in columns.items():
            self._text((value / width, -0.03), text, "center", "top")
        for value, text in rows.items():
            self._text((-0.02, value / height), text, "right", "center")
        self._text((0.5, -0.14), across, "center", "top")
        self._text((-0.2, 0.5), up, "center", "center", rotation=90)

    def _text(
        self,
        position: tuple[float, float],
        text: str,
        horizontal: str,
        vertical: str,
        rotation: float = 0,
    ) -> None:
        """Write a text, aligned to a position in shares of the axes, rotated by degrees."""
        self.axes.text(
            *position,
            text,
            color=_TEXT,
            fontsize=10,
            transform=self.axes.transAxes,
            ha=horizontal,
            va=vertical,
            rotation=rotation,
        )

    def svg(self, description: str) -> str:
        """Return the figure as `<svg>`, with a description for screen readers.

        Its ids don't collide with those of the page's other figures.
        """
        from matplotlib import rc_context

        out = io.StringIO()
        with rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": self.name, "font.family": "sans-serif"}
        ):
            # Without a date and with a fixed salt, equal figures are equal files.
            self.figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        svg = out.getvalue()
        # Drop the XML header, the metadata, unused ids, and the size, which the page sets.
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
        for size in ("height", "width"):
            svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
        # CSS variables can't be passed to matplotlib.
        for drawn, shown in _COLOURS.items():
            svg = svg.replace(drawn, shown)
        return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


def loss_histogram(counts: Sequence[int]) -> str:
    """Return a histogram of rows by loss, in the bins of `model.audit.distributions.loss_bin`."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    # Leave some space above the highest bar.
    most = max(1.05 * max(counts), 1)
    ticks = [value for value in MaxNLocator(4, integer=True).tick_values(0, most) if value <= most]
    drawing = _Drawing("loss", len(counts), most)
    drawing.axes.hlines(ticks, 0, len(counts), color=_RULE, linewidth=0.6, zorder=0)
    drawing.axes.stairs(counts, fill=True, color=_ACCENT)
    shown = {
        tick: EngFormatter(sep="")(tick) for tick in ticks
    }  # as "2M": long numbers would not fit
    drawing.scales(("loss of the gold, nats", _loss_ticks(len(counts))), ("examples", shown))
    return drawing.svg("histogram of the loss")


def start_against_end(grid: Sequence[Sequence[int]], bins: int) -> str:
    """Return a map of rows by loss of the start and of the end, from [start bin, end bin, rows]."""
    from matplotlib.collections import PolyCollection

    drawing = _Drawing("start-end", bins, bins)
    most = max((rows for _, _, rows in grid), default=1)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    # One polygon per cell: most cells of the grid are empty.
    cells = [corners + np.array((start, end)) for start, end, _ in grid]
    # A root makes rare cells visible next to very frequent ones.
    shares = [round(0.12 + 0.88 * (rows / most) ** 0.3, 2) for _, _, rows in grid]
    shown = PolyCollection(cells, facecolors=_ACCENT, alpha=shares or None, linewidths=0)
    drawing.axes.add_collection(shown, autolim=False)
    drawing.scales(
        ("loss of the start, nats", _loss_ticks(bins)), ("loss of the end, nats", _loss_ticks(bins))
    )
    return drawing.svg("loss of the start against loss of the end")


def _loss_ticks(bins: int) -> dict[float, str]:
    """Return the ticks of a loss axis. Bin 4 sqrt(nats) begins at this loss."""
    ticks = {4 * nats**0.5: str(nats) for nats in (0, 1, 4, 9, 16, 25)}
    return {position: text for position, text in ticks.items() if position < bins}


def reliability(points: Sequence[dict[str, float]]) -> str:
    """Return a reliability diagram: the share of right answers against their probability."""
    drawing = _Drawing("reliability", 1, 1)
    axes = drawing.axes
    axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle="--")
    x, y = [point["mean_probability"] for point in points], [point["accuracy"] for point in points]
    axes.plot(x, y, color=_ACCENT, marker="o", markersize=4)
    ticks = {share / 4: f"{share / 4:g}" for share in range(5)}
    drawing.scales(("probability of the answer", ticks), ("share that is right", ticks))
    return drawing.svg("reliability diagram")


def precision_recall(curve: Sequence[Sequence[float]]) -> str:
    """Return precision against recall over spans, from [probability, precision, recall] points."""
    drawing = _Drawing("precision-recall", 1, 1)
    _, precision, recall = zip(*curve, strict=True)
    drawing.axes.plot(recall, precision, color=_ACCENT, marker="o", markersize=2)
    ticks = {share / 4: f"{share / 4:g}" for share in range(5)}
    drawing.scales(("recall: share of the places found", ticks), ("precision", ticks))
    return drawing.svg("precision against recall over spans")


def risk_coverage_figure(points: Sequence[Sequence[float]]) -> str:
    """Return the risk-coverage curve, from [threshold, coverage, risk]."""
    coverage, risk = [point[1] for point in points], [point[2] for point in points]
    most = max([0.1, *risk])
    drawing = _Drawing("risk", 1, most)
    drawing.axes.plot(coverage, risk, color=_ACCENT)
    columns = {share / 4: f"{share / 4:g}" for share in range(5)}
    rows = {most * share / 4: f"{most * share / 4:.2f}" for share in range(5)}
    drawing.scales(("coverage", columns), ("share that is wrong", rows))
    return drawing.svg("risk-coverage curve")
