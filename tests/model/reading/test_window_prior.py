from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.reading import window_prior
from model.reading.read_pairs import predict_passages
from model.reading.tokenizer import Ragged
from model.reading.window_prior import match_windows, weigh_windows
from model.reading.windows import WindowLimits, Windows, cut_windows
from tests.model.brute_force import log_normaliser, options, window_bounds
from tests.model.fakes import QUESTION_FIRST, make_passages
from tests.model.reading.passages import passages

LIMITS = WindowLimits(max_length=14, overlap=3, max_question=4)


def windows_of(
    questions: list[list[int]], passages: list[list[int]], pairs: list[tuple[int, int]]
) -> Windows:
    """Cut pairs (question, passage) of token ids into windows."""
    tokens = replace(
        make_passages([len(passage) for passage in passages]),
        ids=np.array([token for passage in passages for token in passage], np.int32),
    )
    of_question, of_passage = np.array(pairs, np.int64).reshape(-1, 2).T
    return cut_windows(
        QUESTION_FIRST, tokens, Ragged.of(questions), of_passage, of_question, LIMITS
    )


def limited(windows: Windows, **limits: Any) -> Windows:
    """Return the windows with other limits of what to read."""
    return replace(windows, limits=replace(windows.limits, **limits))


@st.composite
def asked(draw: st.DrawFn) -> Windows:
    """Draw pairs of few distinct tokens, so that terms repeat; some passages have one window."""
    token = st.integers(0, 12)
    questions = draw(st.lists(st.lists(token, min_size=1, max_size=6), min_size=1, max_size=3))
    passages = draw(st.lists(st.lists(token, min_size=1, max_size=60), min_size=1, max_size=3))
    pair = st.tuples(st.integers(0, len(questions) - 1), st.integers(0, len(passages) - 1))
    return windows_of(questions, passages, draw(st.lists(pair, max_size=5)))


def bm25(windows: Windows, pair: int) -> list[float]:
    """Return BM25 of a pair's windows, term by term as the formula says."""
    passage = windows.passages.ids[
        windows.passages.bounds[windows.pair_passage[pair]] : windows.passages.bounds[
            windows.pair_passage[pair] + 1
        ]
    ].tolist()
    texts = [passage[start:stop] for start, stop in window_bounds(windows, pair)]
    mean = sum(map(len, texts)) / len(texts)
    found = []
    for text in texts:
        times, total = Counter(text), 0.0
        for term in set(windows.questions[windows.pair_question[pair]].tolist()):
            holding = sum(term in other for other in texts)
            rarity = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            norm = 1.2 * (1 - 0.75 + 0.75 * len(text) / mean)
            total += rarity * times[term] * 2.2 / (times[term] + norm)
        found.append(total)
    return found


@given(asked(), st.sampled_from([1, 7, 10**6]))
def test_matches_equal_brute_force(windows: Windows, cells: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window_prior, "_CELLS_AT_ONCE", cells)
        match = match_windows(windows)
    for pair, count in enumerate(windows.counts.tolist()):
        expected = np.log1p(bm25(windows, pair)) if count > 1 else np.zeros(count)
        assert match[windows.pair == pair].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_window_with_a_rare_word_of_the_question_matches_best() -> None:
    """Token 1 is in every window, token 2 in the third alone; windows hold 9 tokens."""
    passage = [1, 5, 5, 5, 5, 5] * 5
    passage[17] = 2
    windows = windows_of([[1, 2]], [passage], [(0, 0)])
    assert [stop - start for start, stop in window_bounds(windows, 0)] == [9, 9, 9, 9, 6]
    match = match_windows(windows)
    assert match.argmax() == 2
    # Token 1 says little: it is in all five windows.
    bm25 = math.log(1 + 0.5 / 5.5) * 2 * 2.2 / (2 + norm(9, 8.4))
    assert match[0] == pytest.approx(math.log(1 + bm25), abs=1e-6)


def norm(length: float, mean: float) -> float:
    return 1.2 * (0.25 + 0.75 * length / mean)


@given(asked(), st.sampled_from([0.0, 0.5, 2.0]))
def test_the_prior_is_relative_to_the_best_window_of_the_pair(
    windows: Windows, weight: float
) -> None:
    found = weigh_windows(limited(windows, prior=weight))
    assert len(found) == len(windows)
    if not weight:
        assert found.log_prior is None
        return
    assert found.log_prior is not None
    match = match_windows(windows)
    for pair in np.unique(windows.pair):
        own = windows.pair == pair
        expected = weight * (match[own] - match[own].max())
        assert found.log_prior[own].tolist() == expected.tolist()


@given(asked(), st.sampled_from([1, 2, 3, 100, 0.1, 0.5, 0.99]), st.sampled_from([0.0, 0.5]))
def test_the_windows_that_match_best_are_read(windows: Windows, read: Any, weight: float) -> None:
    found = weigh_windows(limited(windows, read_windows=read, prior=weight))
    match = match_windows(windows)
    assert found.counts.tolist() == windows.counts.tolist()
    for pair, count in enumerate(windows.counts.tolist()):
        own = match[windows.pair == pair]
        # Python's sort is stable: among equals the first window comes first.
        ranked = sorted(range(count), key=lambda window: -own[window])
        wanted = min(count, read) if isinstance(read, int) else math.ceil(count * read)
        at = found.pair == pair
        assert found.index[at].tolist() == sorted(ranked[:wanted])
        if weight and count:
            assert found.log_prior is not None
            assert found.log_prior[at].max() == 0


@given(passages(), st.sampled_from([1, 2, 0.5]), st.floats(0, 2))
def test_the_posterior_of_what_is_read_equals_brute_force(
    passage: dict[str, Any], read: Any, weight: float
) -> None:
    """These questions share no token with their passages, so that all windows match equally."""
    reader, decoding = passage["reader"], passage["decoding"]
    windows = weigh_windows(limited(passage["windows"], read_windows=read, prior=weight))
    _, found = predict_passages(reader, windows, decoding, passage["batch_tokens"])
    for pair in range(len(windows.counts)):
        spans, null = options(windows, pair, reader.seed, reader.levels, decoding)
        best = spans[: decoding.n_best]
        kept = slice(0, len(best))
        assert found.found[pair] == len(best)
        assert found.start[pair, kept].tolist() == [span.start for span in best]
        assert found.end[pair, kept].tolist() == [span.end for span in best]
        index = windows.index[windows.pair == pair].tolist()
        assert found.window_index[pair, kept].tolist() == [index[span.window] for span in best]
        scores = [span.score for span in spans] + ([] if null is None else [null])
        normaliser = log_normaliser(scores, decoding.temperature)
        shares = [math.exp(span.score / decoding.temperature - normaliser) for span in best]
        assert found.probability[pair, kept].tolist() == pytest.approx(shares, rel=1e-4)
        if null is not None:
            share = math.exp(null / decoding.temperature - normaliser)
            assert found.null_probability[pair] == pytest.approx(share, rel=1e-4)


def test_equal_windows_are_read_from_the_first() -> None:
    windows = windows_of([[1]], [[1, 5, 5, 5, 5, 5, 5] * 9], [(0, 0)])
    assert len(set(match_windows(windows)[:-1].tolist())) == 1  # a window begins every 7 tokens
    found = weigh_windows(limited(windows, read_windows=2))
    assert found.index.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (1, [0, 1, 1, 1]),
        (5, [0, 1, 5, 5]),
        (0.07, [0, 1, 1, 7]),  # 0.07 * 100 is 7.000000000000001
        (0.2, [0, 1, 2, 20]),
        (0.25, [0, 1, 3, 25]),
        (0.999, [0, 1, 10, 100]),
        ("all", [0, 1, 10, 100]),
    ],
)
def test_shares_are_rounded_up(read: Any, expected: list[int]) -> None:
    windows = limited(windows_of([[1]], [[5]], [(0, 0)]), read_windows=read)
    windows = replace(windows, counts=np.array([0, 1, 10, 100], np.int32))
    assert windows.counts_read.tolist() == expected
