from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.audit.golds import (
    Golds,
    differs_only_in,
    gold_tokens,
    gold_views,
    locate_gold,
    read_golds,
)
from model.reading.tokenizer import Passages, Tokenizer
from model.reading.windows import Windows
from tests.checkpoints import Checkpoint, joined_emoji_tokenizer
from tests.model.fakes import make_passages, make_windows
from tests.model.texts import FAMILY, TRICKY_CONTEXTS

CONTEXT = "a a a a a a"
"""The context of a hand-made passage of six tokens."""


# From characters to tokens


def tokens_of(passages: Passages, passage: int, char_start: int, char_end: int) -> tuple[int, int]:
    """Tokens of one gold, which does not depend on its neighbours."""
    three = (
        np.array([0, passage, len(passages) - 1]),
        np.array([0, char_start, 1]),
        np.array([1, char_end, 9]),
    )
    first, last = gold_tokens(passages, *three)
    return int(first[1]), int(last[1])


@pytest.mark.parametrize(
    ("start", "end", "tokens"),
    [
        (0, 1, (0, 0)),
        (2, 5, (1, 2)),
        (1, 4, (1, 1)),  # from space to space
        (0, 11, (0, 5)),
        (10, 11, (5, 5)),
        (1, 2, (-1, -1)),  # a space alone
        (2, 2, (-1, -1)),  # nothing
        (11, 20, (-1, -1)),
    ],
)
def test_a_gold_is_the_tokens_that_it_meets(start: int, end: int, tokens: tuple[int, int]) -> None:
    assert tokens_of(make_passages([3, 6]), 1, start, end) == tokens


def test_a_part_of_a_token_counts_as_the_token() -> None:
    passages = replace(make_passages([2]), char_start=np.array([0, 4]), char_end=np.array([3, 9]))
    assert tokens_of(passages, 0, 1, 2) == (0, 0)
    assert tokens_of(passages, 0, 2, 5) == (0, 1)
    assert tokens_of(passages, 0, 3, 5) == (1, 1)


def test_a_gold_beside_a_long_text() -> None:
    """Thousands of passages, one with a million characters: tokens' places exceed 32 bits."""
    passages = make_passages([2] * 3000)
    passages.char_end[1] = 1_100_000
    asked = np.array([0, 1, 1953, 2999], np.int32)
    first, last = gold_tokens(passages, asked, np.array([2, 2, 2, 0]), np.array([3, 3, 3, 3]))
    assert (first.tolist(), last.tolist()) == ([1, 1, 1, 0], [1, 1, 1, 1])


def test_a_gold_before_its_text_is_none_of_the_text_before() -> None:
    first, last = gold_tokens(
        make_passages([3, 3]), np.array([1, 1]), np.array([-9, -9]), np.array([-6, 1])
    )
    assert (first.tolist(), last.tolist()) == ([-1, 0], [-1, 0])


def test_golds_start_and_end_where_spans_may(checkpoint: Checkpoint) -> None:
    """Whatever piece of the text is the gold, its tokens are a span that decoding could find."""
    contexts = list(TRICKY_CONTEXTS.values())
    passages = checkpoint.reader.tokenizer().passages(contexts)
    for passage, context in enumerate(contexts):
        low = passages.bounds[passage]
        for start in range(len(context)):
            for length in (1, 2, 5):
                first, last = tokens_of(passages, passage, start, min(start + length, len(context)))
                if first < 0:
                    continue
                assert first <= last
                assert passages.can_start[low + first] and passages.can_end[low + last]
                begin, end = passages.char_start[low + first], passages.char_end[low + last]
                assert begin < start + length and start < end


@pytest.mark.parametrize("name", ["bert", "roberta", "xlnet"])
def test_every_gold_against_a_plain_search(checkpoints: dict[str, Checkpoint], name: str) -> None:
    """The tokens that meet [start, end), and those that share characters with the outer two."""
    contexts = list(TRICKY_CONTEXTS.values())
    passages = checkpoints[name].reader.tokenizer().passages(contexts)
    for passage, context in enumerate(contexts):
        mine = slice(passages.bounds[passage], passages.bounds[passage + 1])
        ranges = list(
            zip(passages.char_start[mine].tolist(), passages.char_end[mine].tolist(), strict=True)
        )
        can_start, can_end = passages.can_start[mine], passages.can_end[mine]
        for start in range(len(context)):
            for end in range(start + 1, min(start + 12, len(context)) + 1):
                met = [
                    k
                    for k, (begin, stop) in enumerate(ranges)
                    if begin < stop and begin < end and stop > start
                ]
                first, last = (met[0], met[-1]) if met else (-1, -1)
                while met and not can_start[first]:
                    first -= 1
                while met and not can_end[last]:
                    last += 1
                assert tokens_of(passages, passage, start, end) == (first, last)


def test_a_gold_within_a_joined_emoji(tmp_path: Path) -> None:
    """A token from the joiner into the next emoji belongs to both, so neither can be had alone."""
    context = f"a {FAMILY} b"
    joined_emoji_tokenizer().save_pretrained(tmp_path)
    passages = Tokenizer(tmp_path).passages([context])

    def text(start: int, end: int) -> str:
        first, last = tokens_of(passages, 0, start, end)
        return context[passages.char_start[first] : passages.char_end[last]]

    assert text(2, 2 + len(FAMILY)) == FAMILY
    assert text(2, 3) == "👨"
    assert text(3, 4) == text(4, 5) == "\u200d👩"
    assert text(2, 4) == "👨\u200d👩"
    assert text(0, 1) == "a"


# The answers column


def read(
    *answers: Any, contexts: list[str] | None = None, row_pair: list[int] | None = None
) -> Golds:
    """Golds of rows that ask passages of six tokens, by default each row its own."""
    pairs = row_pair or list(range(len(answers)))
    windows = make_windows([6] * (max(pairs) + 1), max_length=20, overlap=2)
    return read_golds(answers, contexts or [CONTEXT] * (max(pairs) + 1), np.array(pairs), windows)


def answers(*golds: tuple[str, int]) -> dict[str, list]:
    return {"text": [text for text, _ in golds], "answer_start": [start for _, start in golds]}


def spans(golds: Golds, row: int) -> list[tuple[int, int, int]]:
    """(pair, first, last) of a row's golds."""
    return [
        (golds.pair[k].item(), golds.first[k].item(), golds.last[k].item())
        for k in golds.of_row[row]
    ]


def test_golds_of_several_rows_in_the_order_of_their_answers() -> None:
    golds = read(answers(("a a", 4), ("a", 0)), answers(), answers(("a", 10)))
    assert [spans(golds, row) for row in range(3)] == [[(0, 2, 3), (0, 0, 0)], [], [(2, 5, 5)]]
    assert golds.texts == [["a a", "a"], [], ["a"]]
    assert golds.dropped.tolist() == [0, 0, 0]
    assert golds.problems == {}
    assert len(golds) == 3


def test_golds_of_equal_tokens_count_once_and_keep_all_texts() -> None:
    golds = read(answers(("a ", 0), ("a", 0), (" a a ", 1)))
    assert spans(golds, 0) == [(0, 0, 0), (0, 1, 2)]
    assert golds.texts == [["a ", "a", " a a "]]


def test_places_are_of_the_texts_and_not_of_their_tokens() -> None:
    """An unknown token holds a whole run of letters, and every gold in it."""
    windows = make_windows([1], max_length=20, overlap=2)
    windows.passages.char_end[:] = 9
    golds = read_golds(
        [answers(("bc", 1), ("d e ", 3), ("bc", 1), ("x", 0))],
        ["abcd e fg"],
        np.array([0]),
        windows,
    )
    assert spans(golds, 0) == [(0, 0, 0)]
    assert golds.char_spans == [[(1, 3), (3, 6)]]


def test_rows_that_ask_the_same_pair_share_golds() -> None:
    golds = read(answers(("a", 0)), answers(("a", 2), ("a", 0)), row_pair=[0, 0])
    assert len(golds) == 2
    assert [golds.of_row[row].tolist() for row in range(2)] == [[0], [1, 0]]


def test_rejected_rows_have_no_golds_and_no_problem() -> None:
    golds = read(None, answers(("a", 0)), row_pair=[-1, 0])
    assert spans(golds, 0) == []
    assert golds.problems == {}
    assert spans(golds, 1) == [(0, 0, 0)]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "answers_missing"),
        ({"text": None, "answer_start": [0]}, "answers_missing"),
        ({"text": ["a"], "answer_start": None}, "answers_missing"),
        ({"text": [None], "answer_start": [0]}, "answers_with_nulls"),
        ({"text": ["a", "a"], "answer_start": [0, None]}, "answers_with_nulls"),
        ({"text": ["a", "a"], "answer_start": [0]}, "answers_unequal"),
        ({"text": [], "answer_start": [0]}, "answers_unequal"),
        (answers(("", 0)), "gold_blank"),
        (answers(("  ", 0)), "gold_blank"),
        (answers(("a", -1)), "gold_out_of_range"),
        (answers(("a", 11)), "gold_out_of_range"),
        (answers(("a a", 9)), "gold_out_of_range"),
        (answers(("a", 1)), "gold_misaligned"),
        (answers(("A", 0)), "gold_misaligned"),
        (answers(("b", 0)), "gold_misaligned"),
    ],
)
def test_unusable_answers_have_a_reason(answer: Any, reason: str) -> None:
    golds = read(answers(("a", 0)), answer)
    assert {row: problem for row, (problem, _) in golds.problems.items()} == {1: reason}
    assert spans(golds, 0) == [(0, 0, 0)]
    assert spans(golds, 1) == golds.texts[1] == []


def test_the_place_of_a_gold_out_of_range_is_told() -> None:
    """A negative start does not count from the end, as it does in Python."""
    golds = read(answers((".", -1)), answers(("a a", 9)), contexts=["a a a a a ."] * 2)
    assert golds.problems[0] == (
        "gold_out_of_range",
        "gold at [-1, 0) of a context of 11 characters",
    )
    assert golds.problems[1] == (
        "gold_out_of_range",
        "gold at [9, 12) of a context of 11 characters",
    )


def test_a_misaligned_gold_is_never_searched_for_elsewhere() -> None:
    """It occurs once in the context, one character away."""
    windows = make_windows([6], max_length=20, overlap=2)
    golds = read_golds([answers(("b", 3))], ["a b a a a a"], np.array([0]), windows)
    assert golds.problems[0] == ("gold_misaligned", "gold 'b', but the text at its start is ' '")


@pytest.mark.parametrize(
    ("context", "text", "start", "only"),
    [
        ("The ferry leaves.", "the ferry", 0, "case"),
        ("Die STRASSE endet.", "straße", 4, "case"),
        ("It leaves at noon.", "noon ", 13, "blanks"),
        ("It leaves at noon", "noon \n", 13, "blanks"),  # beyond the end: gold_out_of_range
        ("It leaves at noon.", " noon", 13, "blanks"),
        ("It leaves  at\nnoon.", "leaves at noon", 3, "blanks"),
        ("Am Cafe\u0301 dort.", "Café", 3, "Unicode normal form"),
        ("Am Café dort.", "Cafe\u0301", 3, "Unicode normal form"),
        ("Im Jahr ２０１６ war es.", "2016", 8, "Unicode normal form"),
        ("Am Cafe\u0301  dort.", "café dort ", 3, "case, blanks and Unicode normal form"),
        ("a\u00a0b", "a b", 0, "blanks"),
        ("It leaves at noon.", "dusk", 13, ""),
        ("It leaves at noon.", "noon", 12, ""),  # the start is wrong, not the text
        ("It leaves at noon.", "noon", -1, ""),
        ("It leaves at noon.", "noon", 99, ""),
        ("It leaves at noon.", " ", 13, ""),
    ],
)
def test_misaligned_golds_that_differ_in_little_are_counted_apart(
    context: str, text: str, start: int, only: str
) -> None:
    windows = make_windows([6], max_length=20, overlap=2)
    golds = read_golds([answers((text, start), (text, start))], [context], np.array([0]), windows)
    assert differs_only_in(context, text, start) == only
    assert dict(golds.near) == ({only: 2} if only else {})
    assert golds.dropped.tolist() == [2]
    reason, message = golds.problems[0]
    if reason == "gold_misaligned":
        assert message.endswith(f": they differ only in {only}") == bool(only)
    else:
        assert reason in ("gold_out_of_range", "gold_blank")


def test_golds_that_stand_where_they_say_are_not_counted_as_near() -> None:
    assert dict(read(answers(("a", 0), ("a a", 2))).near) == {}


def test_some_unusable_golds_are_dropped_and_counted() -> None:
    golds = read(answers(("b", 0), ("a", 4), ("", 0), ("a", 99)), answers(("a", 1), ("", 2)))
    assert spans(golds, 0) == [(0, 2, 2)]
    assert golds.dropped.tolist() == [3, 2]
    assert golds.texts == [["a"], []]
    assert {row: problem for row, (problem, _) in golds.problems.items()} == {
        1: "gold_misaligned"
    }, "the first one's"


def test_a_gold_without_tokens() -> None:
    """BERT drops control characters such as the zero-width joiner."""
    windows = make_windows([6], max_length=20, overlap=2)
    golds = read_golds([answers(("\u200d", 1))], ["a\u200da a a a a"], np.array([0]), windows)
    assert golds.problems[0][0] == "gold_without_tokens"


def test_starts_count_code_points(checkpoints: dict[str, Checkpoint]) -> None:
    context = f"{FAMILY} 🇩🇪 waved at Ada."
    tokenizer = checkpoints["roberta"].reader.tokenizer()
    passages = tokenizer.passages([context])
    first, last = tokens_of(passages, 0, context.index("Ada"), context.index("Ada") + 3)
    assert context[passages.char_start[first] : passages.char_end[last]] == "Ada"


# Golds and windows


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)), max_size=8),
)
def test_every_window_sees_the_golds_of_its_pair(
    lengths: list[int], rows: list[tuple[int, int, int]]
) -> None:
    windows: Windows = make_windows(lengths, max_length=10, overlap=2)
    rows = [row for row in rows if row[0] < len(lengths)]
    pair, first, last = np.array(rows, np.int64).reshape(-1, 3).T
    golds = Golds(pair, first, last, None, None, {}, [], [])
    views = gold_views(windows, golds)
    expected = [
        (w, g) for w in range(len(windows)) for g in range(len(rows)) if pair[g] == windows.pair[w]
    ]
    assert list(zip(views.window.tolist(), views.gold.tolist(), strict=True)) == expected
    for window in range(len(windows)):
        seen = views.window[views.bounds[window] : views.bounds[window + 1]]
        assert (seen == window).all()
    assert views.bounds[-1] == len(expected)


@pytest.mark.parametrize(
    ("context", "text", "place"),
    [
        ("Otto often mends nets.", "ten", (None, "gold_inside_word")),
        ("Otto often mends ten nets.", "ten", (17, "gold_located")),
        ("ten nets, ten boats", "ten", (None, "gold_ambiguous")),
        ("The order of 12016 nets", "2016", (None, "gold_inside_word")),
        ("It weighs 1,340.5 kg", "340", (None, "gold_inside_word")),
        ("It weighs 340. Then", "340", (10, "gold_located")),
        ("Ada's lamp", "Ada", (0, "gold_located")),
        ("a_b", "a", (None, "gold_inside_word")),
        ("cafe\u0301", "cafe", (None, "gold_inside_word")),
        ("👩\u200d🚒", "👩", (None, "gold_inside_word")),
        ("在湖边，老张修了一座木桥", "老张", (4, "gold_located")),
        ("新しいiPhoneです", "iPhone", (3, "gold_located")),
        ("서울에서 만났다", "서울", (0, "gold_located")),
        ("นกร้องเพลงริมบึงยามเช้า", "ริมบึง", (10, "gold_located")),
        ("Ada left.", "Ben", (None, "gold_absent")),
        ("Ada left.", " ", (None, "gold_absent")),
    ],
)
def test_a_gold_without_a_start_is_a_word_of_its_own(
    context: str, text: str, place: tuple[int | None, str]
):
    """Where words have blanks around them; other scripts have none."""
    assert locate_gold(context, text) == place
