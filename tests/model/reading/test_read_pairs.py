"""Reading pairs block by block gives the spans of one pass over all windows."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from model.reading.pairs import cut_pairs
from model.reading.read_pairs import blocks, predict_passages, read_pairs
from model.reading.tokenizer import Tokenizer
from tests.transforms.fakes import DECODING, LIMITS, FakeReader

LETTERS = {letter: (float(k % 5), float(-k)) for k, letter in enumerate("abcdefghiklmnop")}


@pytest.mark.parametrize(
    ("counts", "most", "bounds"),
    [
        ([], 3, [(0, 0)]),
        ([1, 2, 3], 3, [(0, 2), (2, 3)]),
        ([1, 2, 4, 1], 3, [(0, 2), (2, 3), (3, 4)]),
        ([9], 3, [(0, 1)]),
        ([0, 3, 0, 1], 3, [(0, 3), (3, 4)]),
        ([1, 1, 1], 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_blocks_are_full_and_none_is_too_large(
    counts: list[int], most: int, bounds: list[tuple[int, int]]
):
    found = [(block.start, block.stop) for block in blocks(np.array(counts, int), most)]
    assert found == bounds


@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
def test_blocks_of_any_size_give_the_same_spans(words: Tokenizer, most: int):
    contexts = ["a b c d", "c " * 60, "d", "e f g " * 20]
    questions = ["who?", "why who?", "where?"]
    pairs = cut_pairs(
        [question for _ in contexts for question in questions],
        [context for context in contexts for _ in questions],
        words,
        LIMITS,
    )

    def fail_on_g(letters: set[str]) -> None:
        if "g" in letters:
            raise ValueError("no g")

    reader = FakeReader(words, LETTERS, trouble=fail_on_g)
    whole, expected = predict_passages(reader, pairs.windows, DECODING, batch_tokens=200)
    prediction, spans = read_pairs(reader, pairs.windows, DECODING, 200, most_windows=most)
    assert sorted(whole.failures) == [9, 10, 11]
    assert prediction.failures == whole.failures
    assert prediction.real_tokens == whole.real_tokens
    assert expected.distinct is None and spans.distinct is None
    for name in {field.name for field in fields(expected)} - {"distinct"}:
        np.testing.assert_array_equal(getattr(spans, name)[:9], getattr(expected, name)[:9], name)


def test_an_error_is_raised_only_if_no_block_could_be_computed(words: Tokenizer):
    pairs = cut_pairs(["who?"] * 2, ["a b", "a c"], words, LIMITS)

    def fail(letters: set[str]) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        read_pairs(FakeReader(words, trouble=fail), pairs.windows, DECODING, 200, most_windows=1)


def test_an_error_is_raised_although_the_last_block_has_nothing_to_compute(words: Tokenizer):
    """A later run retries a chunk that failed, but not rows that were rejected."""
    pairs = cut_pairs(["who who who who"] * 2, ["c " * 60, "d " * 80], words, LIMITS)
    most, none = pairs.windows.counts.tolist()
    assert most > 1 and none == 0  # the second pair has too many windows

    def fail(letters: set[str]) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        read_pairs(FakeReader(words, trouble=fail), pairs.windows, DECODING, 200, most_windows=1)
