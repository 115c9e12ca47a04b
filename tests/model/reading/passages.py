"""Random passages of several windows, with a reader and settings, for comparisons."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from model.reading.decoding import Decoding
from tests.model.fakes import CONTEXT_FIRST, QUESTION_FIRST, FakeReader, make_windows


@st.composite
def passages(draw: st.DrawFn) -> dict[str, Any]:
    """Draw pairs with overlapping windows, in which some tokens can't start or end a span."""
    lengths = draw(st.lists(st.integers(1, 24), min_size=1, max_size=3))
    max_answer_length = draw(st.integers(1, 5))
    room = draw(st.integers(max_answer_length, 12))
    overlap = draw(st.integers(max_answer_length - 1, room - 1))
    marks = st.lists(
        st.sampled_from([True, True, True, False]), min_size=sum(lengths), max_size=sum(lengths)
    )
    questions = [draw(st.integers(1, 4)) for _ in lengths]
    return {
        "windows": make_windows(
            lengths,
            max_length=room + max(questions) + 3,
            overlap=overlap,
            question_tokens=questions,
            pair_format=draw(st.sampled_from([QUESTION_FIRST, CONTEXT_FIRST])),
            can_start=draw(marks),
            can_end=draw(marks),
        ),
        "reader": FakeReader(draw(st.integers(0, 10_000)), levels=draw(st.sampled_from([0, 3, 5]))),
        "decoding": Decoding(
            n_best=draw(st.integers(1, 8)),
            max_answer_length=max_answer_length,
            temperature=draw(st.sampled_from([0.5, 1.0, 2.0])),
            null=draw(st.booleans()),
        ),
        "batch_tokens": draw(st.sampled_from([1, 40, 10_000])),
    }
