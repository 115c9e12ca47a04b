"""What a page shows of a passage: the parts around gold and prediction, cut where a mark or a gap begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transforms.read_examples import Example

_AROUND = 240
"""Characters that are shown on either side of a span's start and of its end."""

Span = tuple[int, int]
Mark = tuple[str, Span]


def excerpts(length: int, spans: Sequence[Span], around: int = _AROUND) -> list[Span]:
    """The parts of a text of so many characters that show where spans begin and end, `around` characters on either side; its
    beginning where there is none."""
    borders = sorted(border for span in spans for border in span) or [0]
    parts: list[Span] = []
    for border in borders:
        start, end = max(0, border - around), min(length, border + around)
        if parts and start <= parts[-1][1]:
            parts[-1] = parts[-1][0], end
        else:
            parts.append((start, end))
    return parts


def pieces(text: str, part: Span, marks: Sequence[Mark]) -> list[tuple[str, str]]:
    """(names of the marks, text) of a part, cut wherever a mark begins or ends."""
    borders = sorted(
        {*part, *(border for _, span in marks for border in span if part[0] < border < part[1])}
    )
    return [
        (
            " ".join(name for name, (low, high) in marks if low <= start and end <= high),
            text[start:end],
        )
        for start, end in zip(borders, borders[1:], strict=False)
    ]


def shown_passage(
    example: Example | None, marks: Sequence[Mark], likely_tokens: Sequence[Sequence[Any]]
) -> list[dict[str, Any]]:
    """The parts of an example's context: whether text is left out before and after, the pieces, and `tokens`.

    tokens: the likely ones, as `model.audit.losses.LikelyToken`s, but in code points of the part and per mille.
    """
    if example is None or not example.context:
        return []
    text = example.context
    parts = excerpts(len(text), [span for _, span in marks])
    shown = []
    for low, high in parts:
        tokens = [
            [
                start - low,
                end - low,
                *(None if p is None else round(1000 * p) for p in probabilities),
            ]
            for start, end, *probabilities in likely_tokens
            if low <= start and end <= high
        ]
        shown.append(
            {
                "before": low > 0,
                "pieces": pieces(text, (low, high), marks),
                "tokens": tokens,
                "after": high < len(text),
            }
        )
    return shown
