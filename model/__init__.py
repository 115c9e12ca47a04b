"""Extractive question answering without Beam: tokenizer, windows, network, span decoding, loss.

Start with `from model import SpanReader`. Public names are imported on first access, so
`import model` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.reading.question_list import Question
    from model.reading.span_reader import SpanReader

__all__ = ["Question", "SpanReader"]

DISTRIBUTION = "spanmill"
"""The distribution's name; run_pipeline checks it, as other packages may be called `model` too."""


def __getattr__(name: str) -> Any:
    """Import a public name on first access. Raises AttributeError for any other name."""
    if name in __all__:
        from model.reading import span_reader

        return getattr(span_reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
