from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.reading.decoding import Decoding
from model.reading.posterior import PassageSpans
from model.reading.read_pairs import predict_passages, read_pairs
from model.reading.windows import Windows
from tests.model.brute_force import Span, distinct_of, log_normaliser, options
from tests.model.fakes import FakeReader, make_windows
from tests.model.reading.passages import passages


def read(
    windows: Windows, reader: FakeReader, decoding: Decoding, batch_tokens: int
) -> PassageSpans:
    return predict_passages(reader, windows, decoding, batch_tokens)[1]


def listed(spans: Any, pair: int) -> list[tuple[int, int, int, float]]:
    """Return (start, end, window, score) of the candidates of a pair."""
    kept = slice(0, int(spans.found[pair]))
    columns = (spans.start, spans.end, spans.window_index, spans.span_score)
    return list(zip(*(column[pair, kept].tolist() for column in columns), strict=True))


def expected(spans: list[Span]) -> list[tuple[int, int, int, float]]:
    return [(span.start, span.end, span.window, span.score) for span in spans]


# Against brute force, in windows of any layout


@given(passages())
def test_distinct_candidates_equal_brute_force_over_the_passage(passage: dict[str, Any]) -> None:
    passage["decoding"] = decoding = replace(passage["decoding"], distinct=True)
    found = read(**passage)
    for pair in range(len(passage["windows"].counts)):
        spans, null = options(
            passage["windows"], pair, passage["reader"].seed, passage["reader"].levels, decoding
        )
        best = distinct_of(spans)[: decoding.n_best]
        assert listed(found, pair) == expected(best)
        scores = [span.score for span in spans] + ([] if null is None else [null])
        normaliser = log_normaliser(scores, decoding.temperature)
        shares = [np.exp(span.score / decoding.temperature - normaliser) for span in best]
        assert found.probability[pair, : len(best)] == pytest.approx(shares, rel=1e-4)
        assert not found.probability[pair, len(best) :].any()


@given(passages(), st.integers(0, 2**32))
def test_distinct_candidates_are_chosen_by_their_score_with_the_window_prior(
    passage: dict[str, Any], drawn: int
) -> None:
    passage["decoding"] = decoding = replace(passage["decoding"], distinct=True)
    windows, reader = passage["windows"], passage["reader"]
    prior = -np.random.default_rng(drawn).integers(0, 3, len(windows)).astype(np.float64)
    passage["windows"] = replace(windows, log_prior=prior)
    found = read(**passage)
    for pair in range(len(windows.counts)):
        own = prior[windows.pair == pair].tolist()
        spans, _ = options(windows, pair, reader.seed, reader.levels, decoding)
        weighed = [
            (-(span.score / decoding.temperature + own[span.window]), span.start, span.end, k)
            for k, span in enumerate(spans)
        ]
        best = distinct_of([spans[each[-1]] for each in sorted(weighed)])[: decoding.n_best]
        assert listed(found, pair) == expected(best)


@given(passages(), st.floats(0.001, 0.6), st.booleans())
def test_all_answers_are_the_distinct_spans_of_enough_probability(
    passage: dict[str, Any], least: float, distinct: bool
) -> None:
    plain = read(**passage)
    passage["decoding"] = decoding = replace(
        passage["decoding"], all_answers=least, distinct=distinct
    )
    found = read(**passage)
    assert found.distinct is not None
    for pair in range(len(passage["windows"].counts)):
        spans, _ = options(
            passage["windows"], pair, passage["reader"].seed, passage["reader"].levels, decoding
        )
        # The number of spans follows from the posterior, which other tests check.
        best = distinct_of(spans)
        normaliser = plain.log_normaliser[pair]
        enough = [np.exp(span.score / decoding.temperature - normaliser) >= least for span in best]
        wanted = max(sum(enough), decoding.n_best if distinct else 0)
        assert listed(found.distinct, pair) == expected(best[:wanted])
        if not distinct:
            assert listed(found, pair) == listed(plain, pair)


@given(passages())
def test_the_best_span_and_the_posterior_are_those_without_the_options(
    passage: dict[str, Any],
) -> None:
    plain = read(**passage)
    passage["decoding"] = replace(passage["decoding"], distinct=True, all_answers=0.1)
    found = read(**passage)
    for name in ("log_normaliser", "null_score", "null_probability"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
    for name in ("start", "end", "start_logit", "window_index", "probability"):
        np.testing.assert_array_equal(getattr(found, name)[:, 0], getattr(plain, name)[:, 0])


# Worked by hand


def by_hand(
    tokens: int, peaks: dict[int, dict[int, tuple[float, float]]], **layout: int
) -> PassageSpans:
    """Decide on a passage; peaks are window start -> passage token -> start and end logit."""
    windows = make_windows([tokens], max_length=layout["room"] + 4, overlap=layout["overlap"])

    def spoil(pair: int, start: int, logits: np.ndarray) -> None:
        logits[:] = -50
        for token, values in peaks.get(start, {}).items():
            logits[:, 1 + token - start] = values

    decoding = Decoding(n_best=3, max_answer_length=layout["longest"], distinct=True)
    return read(windows, FakeReader(spoil=spoil), decoding, 100)


def test_a_candidate_neither_crosses_nor_contains_a_better_one() -> None:
    peaks = {0: {1: (8, -50), 2: (9, 9), 3: (-50, 8), 5: (4, 4)}}
    found = by_hand(7, peaks, room=7, overlap=3, longest=3)
    # (1, 3) has a score of 16, but contains (2, 2).
    assert [span[:2] for span in listed(found, 0)][:2] == [(2, 2), (5, 5)]


def test_a_choice_of_the_neighbouring_window_frees_what_a_windows_own_choice_would_exclude() -> (
    None
):
    """Windows [0, 8) and [4, 12): the first owns sums below 12.

    Of the first window alone the greedy choice is (4, 5), which would exclude (3, 4); but the
    second window's (5, 7) excludes (4, 5) first.
    """
    peaks = {
        0: {3: (3, -50), 4: (5, 2), 5: (-50, 4)},
        4: {5: (9, -50), 7: (-50, 9)},
    }
    found = by_hand(12, peaks, room=8, overlap=4, longest=3)
    assert [span[:3] for span in listed(found, 0)][:2] == [(5, 7, 1), (4, 4, 0)]
    assert listed(found, 0)[1][3] == 7.0


def test_pairs_whose_windows_failed_or_are_not_finite_have_no_distinct_span() -> None:
    windows = make_windows([20, 20, 20], max_length=14, overlap=4)

    def spoil(pair: int, start: int, logits: np.ndarray) -> None:
        if pair == 1 and start:
            logits[0, 3] = np.nan

    decoding = Decoding(n_best=4, max_answer_length=3, distinct=True, all_answers=0.001)
    found = read(windows, FakeReader(spoil=spoil), decoding, 50)
    assert found.finite.tolist() == [True, False, True]
    assert found.distinct is not None
    assert (found.distinct.found > 0).tolist() == [True, False, True]


def test_no_pair_at_all() -> None:
    windows = make_windows([], max_length=10, overlap=2)
    found = read(windows, FakeReader(), Decoding(n_best=2, distinct=True), 100)
    assert found.start.shape == (0, 2)


def test_pairs_that_are_read_in_blocks_have_the_distinct_spans_of_all_at_once() -> None:
    windows = make_windows([30, 5, 30], max_length=14, overlap=4)
    decoding = Decoding(n_best=2, max_answer_length=3, distinct=True, all_answers=0.02)
    whole = read(windows, FakeReader(), decoding, 50)
    _, blocks = read_pairs(FakeReader(), windows, decoding, 50, most_windows=1)
    assert whole.distinct is not None and blocks.distinct is not None
    assert len(set(whole.distinct.found.tolist())) > 1
    for pair in range(3):
        assert listed(blocks.distinct, pair) == listed(whole.distinct, pair)
        assert listed(blocks, pair) == listed(whole, pair)
