from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.reading.offsets import (
    letters_in_no_token,
    over_letters,
    over_marks,
    span_ends,
    trim_whitespace,
)
from tests.model.texts import is_mark


@given(st.data(), st.text(alphabet="ab \t\n\u00a0\u3000\u2028\U0001f600", max_size=12))
def test_trim_whitespace_equals_strip(data: st.DataObject, text: str) -> None:
    places = st.integers(0, len(text))
    pairs = data.draw(st.lists(st.tuples(places, places).map(sorted), min_size=1, max_size=8))
    starts, ends = trim_whitespace(text, np.array(pairs, np.int64))
    for (start, end), trimmed_start, trimmed_end in zip(
        pairs, starts.tolist(), ends.tolist(), strict=True
    ):
        assert start <= trimmed_start <= trimmed_end <= end
        assert text[trimmed_start:trimmed_end] == text[start:end].strip()


def test_all_white_space_of_python_is_trimmed() -> None:
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    text = "x".join(spaces)
    places = 2 * np.arange(len(spaces))
    starts, ends = trim_whitespace(text, np.stack([places, places + 1], 1))
    assert (starts == ends).all()
    starts, ends = trim_whitespace(text, np.array([[0, len(text)]]))
    assert (starts.item(), ends.item()) == (1, len(text) - 1)


@given(st.data(), st.text(alphabet="ab \u0301\u0323\u0903\u093e\u0915\u200d", max_size=12))
def test_ends_move_over_marks_up_to_their_limit(data: st.DataObject, text: str) -> None:
    places = st.integers(0, len(text))
    pairs = data.draw(st.lists(st.tuples(places, places).map(sorted), min_size=1, max_size=8))
    ends, limits = np.array(pairs, np.int64).T
    for moved, (end, limit) in zip(over_marks(text, ends, limits).tolist(), pairs, strict=True):
        while end < limit and is_mark(text[end]):
            end += 1
        assert moved == end


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=10).map(sorted))
def test_spans_start_and_end_only_between_tokens_that_share_no_character(
    tokens: list[tuple[int, int]],
) -> None:
    start, width = np.array(tokens, np.int64).reshape(-1, 2).T
    can_start, can_end = span_ends(start, start + width)
    characters = [set(range(first, first + held)) for first, held in tokens]
    for k, held in enumerate(characters):
        before, after = set().union(*characters[:k]), set().union(*characters[k + 1 :])
        assert can_start[k] == (bool(held) and not before & (held | after))
        assert can_end[k] == (bool(held) and not after & (held | before))


def test_letters_go_to_the_letter_before_them_else_to_the_letter_after() -> None:
    """Three concatenated texts, "abc", "(d" and "ef g", and an empty token, which comes first."""
    text, text_start = "abc(def g", np.array([0, 3, 5, 9])
    start, end, passage = np.array([[0, 1, 0], [3, 4, 1], [6, 7, 2], [8, 9, 2]]).T
    assert letters_in_no_token(text, start, end).tolist() == [1, 2, 4, 5]
    start, end = over_letters(text, start, end, passage, text_start)
    assert list(zip(start.tolist(), end.tolist(), strict=True)) == [(0, 3), (3, 4), (5, 7), (8, 9)]
    assert letters_in_no_token(text, start, end).tolist() == [4]  # a bracket is not part of a word
    start, end, passage = np.array([[3, 4, 1], [5, 5, 1], [8, 9, 2]]).T
    start, end = over_letters(text, start, end, passage, text_start)
    assert list(zip(start.tolist(), end.tolist(), strict=True)) == [(3, 4), (4, 5), (8, 9)]


@given(st.text("ab \u0301(", max_size=12), st.data())
def test_tokens_never_lose_characters_nor_leave_their_text(text: str, data: st.DataObject) -> None:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=8)))
    start, end = np.array(places[0 : len(places) // 2 * 2 : 2]), np.array(places[1::2])
    cut = data.draw(st.integers(0, len(text)))
    passage = (start >= cut).astype(np.int64)
    end = np.where(passage == 0, np.minimum(end, cut), end)
    new_start, new_end = over_letters(text, start, end, passage, np.array([0, cut, len(text)]))
    held_before = end > start
    assert (new_start[held_before] <= start[held_before]).all()
    assert (new_end[held_before] >= end[held_before]).all()
    assert (new_start >= np.where(passage == 0, 0, cut)).all()
    assert (new_end <= np.where(passage == 0, cut, len(text))).all()
    assert set(letters_in_no_token(text, new_start, new_end)) <= set(
        letters_in_no_token(text, start, end)
    )
