"""Extractive question answering without Beam: tokenizer, windows, reader, prediction loop, span decoding, objective.

`from model import SpanReader` is the entrance; loaded when it is asked for: `import model` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.reading.span_reader import SpanReader

__all__ = ["SpanReader"]

DISTRIBUTION = "spanmill"
"""By which run_pipeline tells this package from another of the same name."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        from model.reading import span_reader

        return getattr(span_reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
