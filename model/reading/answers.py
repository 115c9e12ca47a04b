"""Answers: what the model says to the rows of a chunk, from which its output columns are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from model.reading.places import ContextLayout, GivenPlaces, given_page, given_section
from model.reading.posterior import PassageSpans, by_start
from model.reading.tokenizer import consecutive
from model.reading.windows import TokenizedPairs

N_BEST_TYPE = pa.list_(
    pa.struct(
        [
            pa.field("text", pa.string()),
            pa.field("start", pa.int32()),
            pa.field("end", pa.int32()),
            pa.field("probability", pa.float32()),
            pa.field("start_logit", pa.float32()),
            pa.field("end_logit", pa.float32()),
            pa.field("window_index", pa.int32()),
        ]
    )
)


class Located(NamedTuple):
    """An answer, in code points with `end` exclusive, and the layout of its context."""

    layout: ContextLayout
    start: int
    end: int


@dataclass(frozen=True)
class Answers:
    """What the model says to the rows of a chunk.

    contexts       in the order of the passages of `windows`
    questions_cut  int64 [pairs], question tokens beyond `max_question`
    no_answer, below_threshold
                   bool [pairs], see `model.reading.decoding.Decision`
    row_pair       int64 [rows], the pair that each row asks; -1 for a row with an unusable text,
                   and for some with too many windows (`reasons` has all)
    reasons        [rows], None unless the row is rejected
    least          the probability of --all_answers, if it is given
    options        the options that ask for more columns (`answer_options`)
    given          pages and sections of documents, of which each has as many of the rows as any
    """

    spans: PassageSpans
    windows: TokenizedPairs
    contexts: Sequence[str]
    questions_cut: np.ndarray
    no_answer: np.ndarray
    below_threshold: np.ndarray
    row_pair: np.ndarray
    reasons: Sequence[str | None]
    least: float | None = None
    options: frozenset[str] = frozenset()
    given: GivenPlaces = GivenPlaces()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.row_pair)

    @cached_property
    def rejected(self) -> np.ndarray:
        """Return which rows were rejected, bool [rows]."""
        return np.array([reason is not None for reason in self.reasons], bool)

    @cached_property
    def pair(self) -> np.ndarray:
        """Return the pair that each row asks, int64 [rows]; an arbitrary one for rejected rows."""
        return np.where(self.rejected, 0, self.row_pair)

    @cached_property
    def hidden(self) -> np.ndarray:
        """Return which rows show no answer, bool [rows]."""
        return self.rejected | (self.no_answer | self.below_threshold)[self.pair]

    @cached_property
    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return `candidate_offsets` of the pairs."""
        return candidate_offsets(self.spans, self.windows)

    @property
    def best_texts(self) -> list[str]:
        """Return the text of each row's best candidate."""
        start, end = (offsets[self.pair, 0] for offsets in self.offsets)
        return texts_between(self.contexts, self.windows.pair_passage[self.pair], start, end)

    @property
    def statuses(self) -> list[str]:
        """Return the status of each row."""
        if not len(self.windows.pair_passage):
            return ["rejected"] * len(self)
        cases = {
            "rejected": self.rejected,
            "no_answer": self.no_answer[self.pair],
            "below_threshold": self.below_threshold[self.pair],
        }
        return np.select(list(cases.values()), list(cases), default="answered").tolist()

    @cached_property
    def located(self) -> list[Located | None]:
        """Return where each row's answer is; None for a row without one.

        Rows of one context share its layout.
        """
        start, end = self.offsets
        layouts: dict[int, ContextLayout] = {}
        found: list[Located | None] = []
        for pair, hidden in zip(self.pair.tolist(), self.hidden.tolist(), strict=True):
            if hidden:
                found.append(None)
                continue
            passage = int(self.windows.pair_passage[pair])
            if passage not in layouts:
                layouts[passage] = ContextLayout(self.contexts[passage])
            found.append(Located(layouts[passage], int(start[pair, 0]), int(end[pair, 0])))
        return found

    @cached_property
    def sentences(self) -> list[tuple[int, int, str] | None]:
        """Return start, end and text of the sentences of each row's answer."""
        found: list[tuple[int, int, str] | None] = []
        for each in self.located:
            if each is None:
                found.append(None)
                continue
            layout, start, end = each
            begin, stop = layout.sentence(start, end)
            found.append((begin, stop, layout.context[begin:stop]))
        return found

    @property
    def pages(self) -> list[int | None]:
        """Return the page of each row's answer; None where those given are malformed."""
        if self.given.pages is not None:
            return self._among(self.given.pages, given_page)
        return [each and each.layout.page(each.start) for each in self.located]

    @cached_property
    def section_paths(self) -> list[tuple[str, ...] | None]:
        """Return the headings above each row's answer, outermost first.

        None where the sections given are malformed.
        """
        if self.given.sections is not None:
            return self._among(self.given.sections, given_section)
        return [each and each.layout.section_path(each.start) for each in self.located]

    def _among(self, given: Sequence[Any], find: Callable[[Any, int, int], Any]) -> list[Any]:
        """Return where each row's answer begins among what is given for its document."""
        asks = len(self) // max(1, len(given))
        return [
            each and find(given[row // asks], len(each.layout.context), each.start)
            for row, each in enumerate(self.located)
        ]

    @property
    def n_best(self) -> pa.Array:
        """Return the candidates of each row; null for a rejected row."""
        return self._lists(self.spans, self.offsets)

    @property
    def all_answers(self) -> pa.Array:
        """Return each row's distinct spans of at least the probability `least`, by their starts."""
        if self.spans.distinct is None or self.least is None:
            raise ValueError("the spans were decoded without all_answers")
        spans = by_start(self.spans.distinct, self.least)
        return self._lists(spans, candidate_offsets(spans, self.windows))

    def _lists(self, spans: PassageSpans, offsets: tuple[np.ndarray, np.ndarray]) -> pa.Array:
        """Return the spans of each row; null for a rejected row.

        offsets  `candidate_offsets` of the spans
        """
        counts = np.where(self.rejected, 0, spans.found[self.pair])
        row = np.repeat(np.arange(len(self)), counts)
        at = self.pair[row], consecutive(0, counts)
        start, end = (each[at] for each in offsets)
        passage = self.windows.pair_passage[self.pair[row]]
        values = {
            "text": texts_between(self.contexts, passage, start, end),
            "start": start,
            "end": end,
            "probability": spans.probability[at].astype(np.float32),
            "start_logit": spans.start_logit[at],
            "end_logit": spans.end_logit[at],
            "window_index": spans.window_index[at],
        }
        fields = list(N_BEST_TYPE.value_type)
        arrays = [pa.array(values[field.name], field.type) for field in fields]
        items = pa.StructArray.from_arrays(arrays, fields=fields)
        bounds = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        mask = pa.array(self.rejected)
        return pa.ListArray.from_arrays(bounds, items, type=N_BEST_TYPE, mask=mask)


def candidate_offsets(
    spans: PassageSpans, windows: TokenizedPairs
) -> tuple[np.ndarray, np.ndarray]:
    """Return where each candidate begins and ends in its context.

    Both are int32 [pairs, k], in code points; those beyond the last candidate mean nothing.
    """
    base = windows.passages.bounds[windows.pair_passage][:, None]
    last = len(windows.passages.ids) - 1
    if last < 0:
        return np.zeros(spans.start.shape, np.int32), np.zeros(spans.end.shape, np.int32)
    start = windows.passages.char_start[np.minimum(base + spans.start, last)]
    end = windows.passages.char_end[np.minimum(base + spans.end, last)]
    return start, end


def texts_between(
    contexts: Sequence[str], passage: np.ndarray, start: np.ndarray, end: np.ndarray
) -> list[str]:
    """Return `contexts[passage[k]][start[k]:end[k]]` for every k."""
    places = zip(passage.tolist(), start.tolist(), end.tolist(), strict=True)
    return [contexts[which][begin:stop] for which, begin, stop in places]
