"""Passages: the parts of a passage around gold and prediction, cut at the borders of marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transforms.read_examples import Example

_AROUND = 240
"""Characters that are shown on either side of each end of a span."""

_WORD = 20
"""Characters by which a part shrinks at most, so that it does not begin or end inside a word."""

Span = tuple[int, int]
"""Start and end, exclusive, in code points."""

Mark = tuple[str, Span]
"""Name (a CSS class) and span."""


def excerpts(text: str, spans: Sequence[Span], around: int = _AROUND) -> list[Span]:
    """Return the parts of a text to show, in order and without overlap.

    A part reaches about `around` characters to either side of the ends of spans, and is cut at a
    space if one is near. Without spans, the part is the beginning of the text.
    """
    borders = sorted(border for span in spans for border in span) or [0]
    parts: list[Span] = []
    for border in borders:
        start, end = max(0, border - around), min(len(text), border + around)
        # Overlapping parts become one.
        if parts and start <= parts[-1][1]:
            parts[-1] = parts[-1][0], end
        else:
            parts.append((start, end))
    within = min(_WORD, around)
    return [_at_spaces(text, part, within) for part in parts]


def _at_spaces(text: str, part: Span, within: int) -> Span:
    """Return a part without the incomplete words at its ends, of up to `within` characters."""
    start, end = part
    if start > 0:
        start = text.find(" ", start - 1, start + within) + 1 or start
    if end < len(text):
        space = text.rfind(" ", end - within, end + 1)
        end = space if space >= 0 else end
    return start, end


def pieces(text: str, part: Span, marks: Sequence[Mark]) -> list[tuple[str, str]]:
    """Return (names of the marks, text) of the pieces between the borders of marks in a part."""
    within = {border for _, span in marks for border in span if part[0] < border < part[1]}
    borders = sorted({*part, *within})
    cut = []
    for start, end in zip(borders, borders[1:], strict=False):
        names = [name for name, (low, high) in marks if low <= start and end <= high]
        cut.append((" ".join(names), text[start:end]))
    return cut


def shown_passage(
    example: Example | None, marks: Sequence[Mark], likely_tokens: Sequence[Sequence[Any]]
) -> list[dict[str, Any]]:
    """Return the parts of an example's context to show; none if its text could not be read.

    before, after  whether text is left out there
    pieces         (names of marks, text)
    tokens         likely tokens like `model.audit.losses.LikelyToken`, with offsets in the part and
                   probabilities in per mille
    """
    if example is None or not example.context:
        return []
    text = example.context
    parts = excerpts(text, [span for _, span in marks])
    shown = []
    for low, high in parts:
        tokens = []
        for start, end, *probabilities in likely_tokens:
            if low <= start and end <= high:
                per_mille = [None if p is None else round(1000 * p) for p in probabilities]
                tokens.append([start - low, end - low, *per_mille])
        shown.append(
            {
                "before": low > 0,
                "pieces": pieces(text, (low, high), marks),
                "tokens": tokens,
                "after": high < len(text),
            }
        )
    return shown
