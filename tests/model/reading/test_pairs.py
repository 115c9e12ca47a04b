"""Pairs: contexts that are surely too long, and texts on which the tokenizer fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.reading.pairs import Pairs, cut_pairs
from model.reading.tokenizer import Tokenizer
from model.reading.windows import WindowLimits
from tests.checkpoints import Checkpoint

LIMITS = WindowLimits(max_length=16, overlap=4, max_question=4, max_windows=3)
"""A question of q tokens leaves 13 - q for the context: 3 windows have at most 12 + 2 * 8 = 28."""


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


PanicException = type("PanicException", (BaseException,), {})


class Fragile(Tokenizer):
    """A tokenizer that raises `error` for every list of texts that has one with `trigger` in it."""

    def __init__(self, folder: Path, error: BaseException, trigger: str = "bad"):
        self.lists: list[list[str]] = []
        self.trigger, self.error = "\ud800", error  # not while the tokenizer is set up
        super().__init__(folder)
        self.lists.clear()
        self.trigger = trigger

    def _encode(self, texts: Sequence[str], *encode: Any) -> Any:
        self.lists.append(list(texts))
        if any(self.trigger in text for text in texts):
            raise self.error
        return super()._encode(texts, *encode)


@pytest.mark.parametrize("error", [ValueError("no merge"), PanicException("no merge")])
def test_a_text_on_which_the_tokenizer_fails_rejects_its_rows_alone(
    bert_folder: Path, words: Tokenizer, error: BaseException
):
    rows = [
        ("a", "a b c"),
        ("a bad", "a b c"),
        ("b", "a b c"),
        ("b", "c bad"),
        ("c", "c"),
        ("a bad", "c bad"),
        ("a", "b c a"),
        ("b", "c bad"),
        ("a bad", " a" * 40),
    ]
    good = [row for row, texts in enumerate(rows) if "bad" not in "".join(texts)]
    pairs = cut_pairs(*zip(*rows, strict=True), Fragile(bert_folder, error), LIMITS)
    alone = cut_pairs(*zip(*(rows[row] for row in good), strict=True), words, LIMITS)
    message = f"{type(error).__name__}: no merge"
    of_question, of_context = (
        ("tokenizer_error", f"the tokenizer fails on the {name}: {message}")
        for name in ("question", "context")
    )
    assert pairs.problems == {
        1: of_question,
        3: of_context,
        5: of_question,
        7: of_context,
        8: of_question,
    }
    assert pairs.row_pair[good].tolist() == alone.row_pair.tolist()
    assert np.delete(pairs.row_pair, good).tolist() == [-1] * 5
    assert pairs.questions == alone.questions
    assert pairs.contexts == alone.contexts
    for name in ("pair", "start", "stop", "counts", "pair_question", "pair_passage"):
        assert getattr(pairs.windows, name).tolist() == getattr(alone.windows, name).tolist()
    for name in ("ids", "char_start", "char_end", "can_start", "can_end", "bounds"):
        mine, expected = (getattr(each.windows.passages, name) for each in (pairs, alone))
        assert mine.dtype == expected.dtype
        assert mine.tolist() == expected.tolist()
    assert pairs.windows.questions.values.tolist() == alone.windows.questions.values.tolist()
    assert pairs.windows.questions.bounds.tolist() == alone.windows.questions.bounds.tolist()


def test_a_tokenizer_that_does_not_fail_gets_each_column_once(bert_folder: Path):
    tokenizer = Fragile(bert_folder, ValueError("no merge"))
    cut_pairs(["a", "b", "a"], ["c", "c", "a b"], tokenizer, LIMITS)
    assert tokenizer.lists == [["a", "b"], ["c", "a b"]]


def test_one_row_has_a_context_on_which_the_tokenizer_fails(bert_folder: Path):
    tokenizer = Fragile(bert_folder, ValueError("no merge"))
    pairs = cut_pairs(["a"], ["bad"], tokenizer, LIMITS)
    assert asked(pairs) == ["tokenizer_error"]
    assert (pairs.contexts, len(pairs.windows)) == ([], 0)


@pytest.mark.parametrize("error", [ValueError("no merge"), PanicException("no merge")])
def test_a_tokenizer_that_fails_on_every_text_is_not_the_fault_of_the_rows(
    bert_folder: Path, error: BaseException
):
    tokenizer = Fragile(bert_folder, error, trigger="")
    with pytest.raises(type(error), match="no merge"):
        cut_pairs(["a", "b"], ["c", "c"], tokenizer, LIMITS)


@pytest.mark.parametrize("error", [PermissionError("no merge"), KeyboardInterrupt("no merge")])
def test_errors_that_no_text_causes_are_raised(bert_folder: Path, error: BaseException):
    tokenizer = Fragile(bert_folder, error)
    with pytest.raises(type(error), match="no merge"):
        cut_pairs(["a", "b"], ["c", "bad"], tokenizer, LIMITS)


def test_texts_that_do_not_fit_into_memory_together_are_tokenized_apart(
    bert_folder: Path, words: Tokenizer
):
    class Small(Fragile):
        def _encode(self, texts: Sequence[str], *encode: Any) -> Any:
            if len(texts) > 1 and self.trigger == "bad":
                raise MemoryError("too many")
            return super()._encode(texts, *encode)

    rows = [("a", "a b"), ("b", "bad"), ("c", "a"), ("a", "b c")]
    tokenizer = Small(bert_folder, MemoryError("too long"))
    pairs = cut_pairs(*zip(*rows, strict=True), tokenizer, LIMITS)
    expected = cut_pairs(*zip(*rows, strict=True), words, LIMITS)
    message = "the tokenizer fails on the context: MemoryError: too long"
    assert pairs.problems == {1: ("out_of_memory", message)}
    assert [asked(pairs)[row] for row in (0, 2, 3)] == [asked(expected)[row] for row in (0, 2, 3)]
