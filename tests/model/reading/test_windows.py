from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.reading.tokenizer import Ragged
from model.reading.windows import (
    WindowLimits,
    Windows,
    choose_windows,
    count_windows,
    cut_windows,
)
from tests.model.brute_force import owner, window_bounds
from tests.model.fakes import QUESTION_FIRST, make_passages, make_windows


@st.composite
def layouts(draw: st.DrawFn) -> dict:
    """Draw passage and question lengths of pairs, and an overlap that leaves room."""
    questions = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    least_room = draw(st.integers(1, 20))
    return {
        "lengths": [draw(st.integers(0, 70)) for _ in questions],
        "question_tokens": questions,
        "max_length": least_room + max(questions) + 3,
        "overlap": draw(st.integers(0, least_room - 1)),
    }


@given(layouts())
def test_windows_cover_every_token_fill_their_room_and_share_the_overlap(layout: dict) -> None:
    windows = make_windows(**layout)
    for pair, tokens in enumerate(layout["lengths"]):
        bounds = window_bounds(windows, pair)
        room = layout["max_length"] - 3 - layout["question_tokens"][pair]
        assert len(bounds) == windows.counts[pair]
        assert set().union(*(range(start, stop) for start, stop in bounds)) == set(range(tokens))
        assert all(stop - start == room for start, stop in bounds[:-1])
        assert all(0 < stop - start <= room for start, stop in bounds)
        following = zip(bounds, bounds[1:], strict=False)
        assert all(stop - start == layout["overlap"] for (_, stop), (start, _) in following)
    assert (windows.lengths <= layout["max_length"]).all()


@given(layouts())
def test_windows_are_grouped_by_pair_and_numbered_in_order(layout: dict) -> None:
    windows = make_windows(**layout)
    assert len(windows) == windows.counts.sum()
    assert windows.pair.tolist() == [
        pair for pair, count in enumerate(windows.counts) for _ in range(count)
    ]
    assert windows.index.tolist() == [place for count in windows.counts for place in range(count)]


@given(layouts())
def test_every_span_in_a_window_is_owned_by_the_window_that_has_it_farthest_from_its_edges(
    layout: dict,
) -> None:
    assert_owners(make_windows(**layout), layout["lengths"])


def assert_owners(windows: Windows, lengths: list[int]) -> None:
    """Assert that every span of every pair has the owner that brute force finds."""
    for pair, tokens in enumerate(lengths):
        at = np.flatnonzero(windows.pair == pair)
        bounds = window_bounds(windows, pair)
        for i in range(tokens):
            for j in range(i, tokens):
                held = [w for w, (start, stop) in enumerate(bounds) if start <= i and j < stop]
                owners = [
                    w for w in held if windows.owned_low[at[w]] <= i + j < windows.owned_high[at[w]]
                ]
                assert owners == ([owner(bounds, i, j)] if held else [])


@given(layouts(), st.randoms(use_true_random=False))
def test_a_span_in_a_chosen_window_is_owned_by_the_chosen_one_that_has_it_farthest_from_its_edges(
    layout: dict, random: Any
) -> None:
    every = make_windows(**layout)
    chosen = np.array([random.random() < 0.6 for _ in range(len(every))], bool)
    windows = choose_windows(every, chosen)
    assert windows.counts.tolist() == every.counts.tolist()
    for name in ("pair", "index", "start", "stop"):
        assert getattr(windows, name).tolist() == getattr(every, name)[chosen].tolist()
    assert_owners(windows, layout["lengths"])


def test_choosing_all_windows_changes_nothing() -> None:
    windows = make_windows([30, 0, 5], max_length=10, overlap=2)
    same = choose_windows(windows, np.ones(len(windows), bool))
    for name in ("pair", "index", "start", "stop", "owned_low", "owned_high"):
        assert getattr(same, name).tolist() == getattr(windows, name).tolist()
        assert getattr(same, name).dtype == getattr(windows, name).dtype


@given(layouts(), st.integers(1, 25))
def test_an_overlap_of_the_longest_answer_less_one_gives_every_answer_a_window(
    layout: dict, max_answer_length: int
) -> None:
    layout["overlap"] = max_answer_length - 1
    layout["max_length"] = max(
        layout["max_length"], max_answer_length + max(layout["question_tokens"]) + 3
    )
    windows = make_windows(**layout)
    for pair, tokens in enumerate(layout["lengths"]):
        bounds = window_bounds(windows, pair)
        for i in range(tokens):
            j = min(i + max_answer_length, tokens) - 1
            assert any(start <= i and j < stop for start, stop in bounds)


def test_a_smaller_overlap_leaves_some_answer_without_a_window() -> None:
    windows = make_windows([20], max_length=14, overlap=3)
    assert window_bounds(windows, 0) == [(0, 10), (7, 17), (14, 20)]
    assert owner(window_bounds(windows, 0), 6, 10) is None  # five tokens, one more than overlap + 1


def test_windows_of_a_hand_worked_layout() -> None:
    windows = make_windows([12], max_length=10, overlap=2)
    assert window_bounds(windows, 0) == [(0, 6), (4, 10), (8, 12)]
    assert windows.owned_high.tolist()[:2] == [
        10,
        18,
    ]  # (5, 5) is at the edge of both and goes to the first
    assert windows.owned_low.tolist()[1:] == [10, 18]
    assert windows.lengths.tolist() == [10, 10, 8]


@pytest.mark.parametrize(
    ("tokens", "windows"), [(0, 0), (1, 1), (6, 1), (7, 2), (10, 2), (11, 3), (14, 3), (15, 4)]
)
def test_count_windows(tokens: int, windows: int) -> None:
    assert count_windows(np.array([tokens]), np.array([6]), 2).tolist() == [windows]


def test_a_pair_over_max_windows_gets_none_and_its_neighbours_keep_theirs() -> None:
    layout = {"max_length": 10, "overlap": 2}
    windows = make_windows([6, 15, 14], max_windows=3, **layout)
    assert windows.counts.tolist() == [1, 0, 3]
    assert windows.pair.tolist() == [0, 2, 2, 2]
    free = make_windows([6, 0, 14], **layout)
    for name in ("start", "stop", "owned_low", "owned_high"):
        assert getattr(windows, name).tolist() == getattr(free, name).tolist()


def test_no_pair_makes_no_window() -> None:
    windows = make_windows([], max_length=10, overlap=2)
    assert (len(windows), len(windows.counts), len(windows.lengths)) == (0, 0, 0)


def test_a_question_that_leaves_no_more_room_than_the_overlap_is_refused() -> None:
    make_windows([20], max_length=10, overlap=5)
    with pytest.raises(
        ValueError,
        match="room for 6 context tokens in a window of 10, but neighbouring windows share 6",
    ):
        make_windows([20], max_length=10, overlap=6)


def test_windows_of_a_split_reader_are_the_same_for_all_questions() -> None:
    layout = {"max_length": 16, "overlap": 3}
    pair_format = QUESTION_FIRST.split(max_question=6)
    assert pair_format.passage_position == 8
    limits = WindowLimits(16, 3, 5, 1000)
    questions = Ragged.of([[7], [7] * 5, [7] * 9])
    windows = cut_windows(
        pair_format, make_passages([30]), questions, np.zeros(3, int), np.arange(3), limits
    )
    longest = make_windows([30], question_tokens=[5], **layout)
    for name in ("index", "start", "stop", "owned_low", "owned_high"):
        expected = getattr(longest, name).tolist()
        assert getattr(windows, name).tolist() == expected * 3
    assert windows.lengths.max() == 16
    with pytest.raises(ValueError, match="max_question=7: the split reader has positions for 6"):
        cut_windows(
            pair_format,
            make_passages([30]),
            questions,
            np.zeros(1, int),
            np.zeros(1, int),
            WindowLimits(16, 3, 7, 1000),
        )
