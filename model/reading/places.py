"""Where an answer is in its document: its sentences, its page and its section."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from model.settings import ANNOTATE, setting, some_of

PAGE_BREAK = "\f"
"""Form feed: what text extracted from PDF has between two pages."""

_LOCALE = "en-u-ss-standard"
"""ICU's rules for every script (UAX #29), and its list of English abbreviations."""

_ABBREVIATIONS = frozenset(
    ["Dr.", "St.", "Gen.", "Gov.", "Hon.", "Lt.", "Sen.", "cf.", "e.g.", "i.e."]
)
"""Abbreviations after which no sentence ends; others, such as Mr., are in ICU's list."""

_NUMBERED = frozenset(["Art.", "Ch.", "Eq.", "Fig.", "Figs.", "No.", "Nos.", "Sec.", "Vol.", "p."])
"""Abbreviations after which no sentence ends before a digit."""

_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
"""A fence of code; a line with backticks after those of its start is text with inline code."""

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t](.*))?$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_BLOCK = re.compile(r"\s*(#|[-*+•>|]|\d+[.)]|```|~~~|=+\s*$)")
"""Lines that begin something new: a heading, an item of a list, a quotation, a table, code."""


@dataclass(frozen=True, slots=True)
class Places:
    """Which columns say where an answer is."""

    locate: tuple[str, ...] = setting(
        (),
        some_of("sentence", "page", "section"),
        "columns that say where an answer is: the sentence that holds it, its page by form feeds, "
        "the Markdown heading above it",
        stages=(ANNOTATE,),
        identity=(ANNOTATE,),
        optional=True,
    )


@dataclass(frozen=True, slots=True)
class GivenPlaces:
    """Where pages and sections begin, as columns of the input say.

    pages     [documents], the starts of each one's pages (`given_page`); None: form feeds end pages
    sections  [documents], each one's sections (`given_section`); None: Markdown headings
    """

    pages: Sequence[Any] | None = None
    sections: Sequence[Any] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a span of a context is.

    sentence_start, sentence_end  of the sentences that the span touches, without white space around
                                  them, in code points, `sentence_end` exclusive
    sentence_text                 `context[sentence_start:sentence_end]`
    page                          of the span's start, from 1; a form feed ends a page. None before
                                  the first page given
    section                       text of the last heading before the span's start; None before the
                                  first
    section_path                  the headings above the span, from the outermost to `section`
    """

    sentence_start: int
    sentence_end: int
    sentence_text: str
    page: int | None
    section: str | None
    section_path: tuple[str, ...]


def locate(
    context: str,
    start: int,
    end: int,
    pages: Sequence[int] | None = None,
    sections: Sequence[Mapping[str, Any]] | None = None,
) -> Place:
    """Return where `context[start:end]` is, such as a candidate of `n_best`.

    pages     starts of the pages, in place of form feeds (`given_page`)
    sections  starts and titles of the sections, in place of headings (`given_section`)

    Raises ValueError for a span that is empty or not within the context, and for malformed pages or
    sections.
    """
    if not 0 <= start < end <= len(context):
        raise ValueError(
            f"[{start}, {end}) is not a span of a context of {len(context)} code points"
        )
    layout = ContextLayout(context)
    sentence_start, sentence_end = layout.sentence(start, end)
    path = layout.section_path(start)
    page: int | None = layout.page(start)
    if pages is not None:
        if _ascending(pages, len(context)) is None:
            raise ValueError(f"pages: must be starts in ascending order from 0 to {len(context)}")
        page = given_page(pages, len(context), start)
    if sections is not None:
        found = given_section(sections, len(context), start)
        if found is None:
            raise ValueError(
                "sections: must have titles, and starts in ascending order from 0 to "
                f"{len(context)}"
            )
        path = found
    return Place(
        sentence_start,
        sentence_end,
        context[sentence_start:sentence_end],
        page,
        path[-1] if path else None,
        path,
    )


class ContextLayout:
    """The sentences, pages and sections of a context, each found when first needed."""

    def __init__(self, context: str):
        self.context = context

    @cached_property
    def sentence_ends(self) -> list[int]:
        """Return where the sentences of the context end."""
        return sentence_ends(self.context)

    @cached_property
    def headings(self) -> list[tuple[int, tuple[str, ...]]]:
        """Return where each Markdown heading begins, with the headings above it and its own."""
        paths: list[tuple[int, tuple[str, ...]]] = []
        path: list[tuple[int, str]] = []
        for start, level, title in headings(self.context):
            path = [*(above for above in path if above[0] < level), (level, title)]
            paths.append((start, tuple(name for _, name in path)))
        return paths

    def sentence(self, start: int, end: int) -> tuple[int, int]:
        """Return start and end of the sentences that a span touches, without white space around.

        The span itself is never shortened.
        """
        ends = self.sentence_ends
        first, last = bisect_right(ends, start), bisect_right(ends, end - 1)
        begin, stop = ends[first - 1] if first else 0, ends[last]
        held = self.context[begin:stop]
        begin += len(held) - len(held.lstrip())
        stop -= len(held) - len(held.rstrip())
        return min(begin, start), max(stop, end)

    def page(self, start: int) -> int:
        """Return the page of a code point, from 1; a form feed belongs to the page that it ends."""
        return self.context.count(PAGE_BREAK, 0, start) + 1

    def section_path(self, start: int) -> tuple[str, ...]:
        """Return the headings above a code point, outermost first; a heading is above itself."""
        above = bisect_right(self.headings, start, key=lambda heading: heading[0])
        return self.headings[above - 1][1] if above else ()


def given_page(starts: Any, length: int, at: int) -> int | None:
    """Return the page of a code point, from 1; None before the first page.

    starts  of the pages, ascending, from 0 to `length`; pages with equal starts are empty, except
            the last of them. Anything else is malformed: None
    length  of the context, in code points
    """
    ascending = _ascending(starts, length)
    if not ascending:
        return None
    return bisect_right(ascending, at) or None


def given_section(sections: Any, length: int, at: int) -> tuple[str, ...] | None:
    """Return the title of the section of a code point, as a path; () before the first section.

    sections  mappings with `start` and `title`, starts as in `given_page`. Anything else is
              malformed: None
    length    of the context, in code points
    """
    if not _is_list(sections) or not all(isinstance(each, Mapping) for each in sections):
        return None
    starts = _ascending([each.get("start") for each in sections], length)
    titles = [each.get("title") for each in sections]
    if starts is None or not all(isinstance(title, str) for title in titles):
        return None
    above = bisect_right(starts, at)
    return (titles[above - 1],) if above else ()


def count_unusable(given: GivenPlaces, lengths: Sequence[int | None]) -> dict[str, int]:
    """Return how many documents have null or malformed `pages`, and `sections`, where given.

    lengths  [documents], of their contexts in code points; None for those not to count
    """
    tests: dict[str, tuple[Sequence[Any] | None, Callable[[Any, int], object]]] = {
        "pages": (given.pages, _ascending),
        "sections": (given.sections, lambda sections, length: given_section(sections, length, 0)),
    }
    counts = {}
    for name, (values, find) in tests.items():
        if values is not None:
            pairs = zip(values, lengths, strict=True)
            counts[name] = sum(n is not None and find(value, n) is None for value, n in pairs)
    return counts


def _ascending(starts: Any, length: int) -> Sequence[int] | None:
    """Return the starts if they are whole numbers from 0 to `length` in ascending order."""
    if not _is_list(starts) or not all(type(start) is int for start in starts):
        return None
    bounds = [0, *starts, length]
    return starts if all(low <= high for low, high in pairwise(bounds)) else None


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def sentence_ends(context: str) -> list[int]:
    """Return where each sentence ends, in code points; each begins where the one before it ends.

    Sentences follow Unicode's rules (UAX #29), except that a line break within a paragraph ends
    none, and neither do the abbreviations listed above. White space belongs to the sentence before
    it.
    """
    # Loading ICU takes memory and time, which runs without sentences do not need.
    from icu4py.breakers import SentenceBreaker

    # ICU's positions count UTF-16 units, so that the lengths of its segments are added instead.
    segments = list(SentenceBreaker(unwrapped(context), _LOCALE))
    ends = accumulate(map(len, segments))
    return [
        end
        for end, (segment, after) in zip(ends, pairwise([*segments, ""]), strict=True)
        if not _is_abbreviated(segment, after)
    ]


def _is_abbreviated(segment: str, after: str) -> bool:
    """Return whether a segment ends with an abbreviation that belongs to the segment after it.

    after  "" after the last segment
    """
    # Only spaces may follow it: a line break that is left ends a paragraph.
    text = segment.rstrip(" \t\u00a0")
    if not after or not text.endswith("."):
        return False
    word = text.rsplit(None, 1)[-1].lstrip("([{\"'“‘«")
    return word in _ABBREVIATIONS or (word in _NUMBERED and after[0].isdecimal())


def unwrapped(context: str) -> str:
    """Return a context with spaces for the line breaks within paragraphs; offsets stay the same.

    A line ends its paragraph if it or the next is blank, if it is a Markdown heading or underlines
    one, or if the next begins a heading, an item of a list, a quotation, a table or code.
    """
    if "\n" not in context:
        return context
    lines = context.split("\n")
    pieces = []
    for line, following in pairwise(lines):
        ends = (
            not line.strip()
            or not following.strip()
            or line.lstrip().startswith("#")
            or _UNDERLINE.match(line.removesuffix("\r"))
            or _BLOCK.match(following)
        )
        if ends:
            pieces.append(line + "\n")
        else:
            pieces.append((line[:-1] + " " if line.endswith("\r") else line) + " ")
    return "".join(pieces) + lines[-1]


def headings(context: str) -> Iterator[tuple[int, int, str]]:
    """Yield offset, level (1 to 6) and text of each Markdown heading outside fenced code.

    Headings are lines that begin with `#`, and lines of text underlined with `=` or `-`
    (CommonMark's ATX and setext headings, the latter of one line).
    """
    # `before` is the text of the line before, "" unless it is text that can be underlined.
    start, begin_before, fence, before = 0, 0, "", ""
    for line in context.split("\n"):
        text = line.removesuffix("\r").lstrip(PAGE_BREAK)
        fenced = _FENCE.match(text)
        if fence:
            # Code ends with a fence of the same character that is at least as long.
            if fenced and fenced[1].startswith(fence) and not text[fenced.end() :].strip():
                fence = ""
            text = ""
        elif fenced:
            fence, text = fenced[1], ""
        elif found := _ATX.match(text):
            yield start, len(found[1]), _title(found[2] or "")
            text = ""
        elif before.strip() and not _BLOCK.match(before) and (found := _UNDERLINE.match(text)):
            yield begin_before, 1 if found[1].startswith("=") else 2, before.strip()
            text = ""
        begin_before, before = start, text
        start += len(line) + 1


def _title(text: str) -> str:
    """Return the text of an ATX heading without the `#` that may close it."""
    return re.sub(r"(^|[ \t])#+$", "", text.strip()).strip()
