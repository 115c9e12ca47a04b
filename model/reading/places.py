"""Where an answer is in its document: its page."""

from __future__ import annotations

from dataclasses import dataclass

from model.settings import ANNOTATE, setting, some_of

PAGE_BREAK = "\f"
"""Form feed: what text extracted from PDF has between two pages."""


@dataclass(frozen=True, slots=True)
class Places:
    """Which columns say where an answer is."""

    locate: tuple[str, ...] = setting(
        (),
        some_of("page"),
        "columns that say where an answer is: page adds its page, counted by form feeds",
        stages=(ANNOTATE,),
        identity=(ANNOTATE,),
        optional=True,
    )


def page_of(context: str, start: int) -> int:
    """Return the page of a code point, from 1; a form feed belongs to the page that it ends."""
    return context.count(PAGE_BREAK, 0, start) + 1
