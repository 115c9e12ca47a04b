"""Pairs: not tokenizing contexts that provably have too many tokens changes no result."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.reading.pairs import Pairs, cut_pairs
from model.reading.tokenizer import Tokenizer
from model.reading.windows import WindowLimits
from tests.checkpoints import Checkpoint

LIMITS = WindowLimits(max_length=16, overlap=4, max_question=4, max_windows=3)
"""A question of q tokens leaves 13 - q for the context: 3 windows have at most 12 + 2 * 8 = 28."""


@pytest.fixture(scope="module")
def words(bert_folder: Path) -> Tokenizer:
    return Tokenizer(bert_folder)


class Slow(Tokenizer):
    """A tokenizer that never skips a context."""

    def surely_exceeds(self, context: str, tokens: int) -> bool:
        return False


def asked(pairs: Pairs) -> list[tuple[str, str] | str]:
    """Return, for each row, the texts of its pair, or the reason why it has none."""
    windows = pairs.windows
    return [
        pairs.problems[row][0]
        if row in pairs.problems
        else (
            pairs.questions[windows.pair_question[pair]],
            pairs.contexts[windows.pair_passage[pair]],
        )
        for row, pair in enumerate(pairs.row_pair.tolist())
    ]


CONTEXTS = st.integers(20, 34).map(lambda words: " a" * words) | st.sampled_from(
    ["a", "\x00", " ", "a b c"]
)
QUESTIONS = st.sampled_from(["a", "a a", "a a a a a", "\x00", " ", "a a a"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=st.lists(st.tuples(QUESTIONS, CONTEXTS), min_size=1, max_size=6))
def test_every_row_ends_as_if_all_were_tokenized(
    words: Tokenizer, bert_folder: Path, rows: list[tuple[str, str]]
):
    questions, contexts = zip(*rows, strict=True)
    found, slow = (
        cut_pairs(questions, contexts, each, LIMITS) for each in (words, Slow(bert_folder))
    )
    assert asked(found) == asked(slow)
    kept = slow.windows.counts[slow.windows.counts > 0].tolist()
    assert found.windows.counts[found.windows.counts > 0].tolist() == kept


def test_the_last_that_fits_and_the_first_ones_that_do_not(words: Tokenizer):
    contexts = ["a" + " a" * 27, "a" + " a" * 28, " a" * 29]
    pairs = cut_pairs(["a"] * 3, contexts, words, LIMITS)
    assert pairs.windows.counts.tolist() == [3, 0]
    # The first word of the second follows no space: it is not counted.
    assert pairs.contexts == contexts[:2]
    assert pairs.problems == {
        1: ("too_many_windows", "29 tokens need more than max_windows=3"),
        2: ("too_many_windows", "more than 28 tokens need more than max_windows=3"),
    }


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("bert", ["", "นกร้องเพลง", "", "ยามเช้า"]),
        ("roberta", ["", "", "", ""]),
    ],  # bytes know every text
)
def test_characters_in_unknown_tokens(
    checkpoints: dict[str, Checkpoint], name: str, unknown: list[str]
) -> None:
    contexts = ["It leaves at noon.", "นกร้องเพลง", "It leaves.", "noon ยามเช้า noon"]
    tokenizer = checkpoints[name].reader.tokenizer()
    pairs = cut_pairs(["When?"] * 4, contexts, tokenizer, LIMITS)
    assert pairs.unknown.tolist() == [len(text) for text in unknown]
    assert cut_pairs([], [], tokenizer, LIMITS).unknown.tolist() == []
