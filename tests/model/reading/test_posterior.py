from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.reading.decoding import Decoding
from model.reading.posterior import PassageSpans, merge_windows
from model.reading.windows import Windows
from tests.model import predicted
from tests.model.brute_force import Span, log_normaliser, null_score, spans_of
from tests.model.fakes import FakeReader, make_windows
from tests.model.reading.passages import passages


def merged(
    windows: Windows,
    reader: FakeReader,
    decoding: Decoding,
    batch_tokens: int,
    log_prior: np.ndarray | None = None,
) -> PassageSpans:
    spans = predicted.decode(reader, windows, decoding, batch_tokens).spans
    spans = replace(spans, log_prior=log_prior)
    pairs = len(windows.counts)
    return merge_windows(
        spans,
        windows.pair,
        windows.index,
        pairs,
        n_best=decoding.n_best,
        temperature=decoding.temperature,
    )


@given(passages())
def test_merged_windows_equal_brute_force_over_the_passage(passage: dict[str, Any]) -> None:
    found = merged(**passage)
    windows, decoding = passage["windows"], passage["decoding"]
    seed, levels = passage["reader"].seed, passage["reader"].levels
    for pair in range(len(windows.counts)):
        spans = spans_of(windows, pair, seed, levels, decoding.max_answer_length)
        best = spans[: decoding.n_best]
        kept = len(best)
        assert found.found[pair] == kept
        assert found.start[pair, :kept].tolist() == [span.start for span in best]
        assert found.end[pair, :kept].tolist() == [span.end for span in best]
        assert found.start_logit[pair, :kept].tolist() == [span.start_logit for span in best]
        assert found.end_logit[pair, :kept].tolist() == [span.end_logit for span in best]
        assert found.span_score[pair, :kept].tolist() == [span.score for span in best]
        assert found.window_index[pair, :kept].tolist() == [span.window for span in best]

        scores = [span.score for span in spans]
        if decoding.null:
            null = null_score(windows, pair, seed, levels)
            scores.append(null)
            assert found.null_score[pair] == pytest.approx(null)
        else:
            assert np.isnan(found.null_score[pair])
        normaliser = log_normaliser(scores, decoding.temperature)
        assert found.log_normaliser[pair] == pytest.approx(normaliser, rel=1e-5, abs=1e-5)
        shares = [math.exp(span.score / decoding.temperature - normaliser) for span in best]
        assert found.probability[pair].tolist() == pytest.approx(
            shares + [0.0] * (decoding.n_best - kept), rel=1e-4
        )
        if decoding.null:
            assert found.null_probability[pair] == pytest.approx(
                math.exp(null / decoding.temperature - normaliser), rel=1e-4
            )


@given(passages(), st.integers(0, 2**32))
def test_the_posterior_with_a_window_prior_equals_brute_force(
    passage: dict[str, Any], drawn: int
) -> None:
    """Weights of 0, 1 and 2 against whole scores make ties between windows frequent."""
    windows, decoding = passage["windows"], passage["decoding"]
    seed, levels = passage["reader"].seed, passage["reader"].levels
    prior = -np.random.default_rng(drawn).integers(0, 3, len(windows)).astype(np.float64)
    found = merged(**passage, log_prior=prior)
    plain = merged(**passage)
    for pair in range(len(windows.counts)):
        own = prior[windows.pair == pair]
        spans = spans_of(windows, pair, seed, levels, decoding.max_answer_length)

        def weighed(span: Span) -> float:
            # B023: called before the loop binds `own` again.
            return span.score / decoding.temperature + float(own[span.window])  # noqa: B023

        # The order is that of the weighted scores; ties go to the lowest start, then the shortest.
        ranked = sorted(spans, key=lambda span: (-weighed(span), span.start, span.end))
        best = ranked[: decoding.n_best]
        kept = len(best)
        assert found.found[pair] == kept
        assert found.start[pair, :kept].tolist() == [span.start for span in best]
        assert found.end[pair, :kept].tolist() == [span.end for span in best]
        assert found.start_logit[pair, :kept].tolist() == [span.start_logit for span in best]
        assert found.window_index[pair, :kept].tolist() == [span.window for span in best]
        # No answer keeps its share; spans have theirs of what it leaves.
        assert np.array_equal(
            found.null_probability[pair], plain.null_probability[pair], equal_nan=True
        )
        left = 1 - (plain.null_probability[pair] if decoding.null else 0.0)
        total = math.fsum(math.exp(weighed(span)) for span in spans)
        shares = [left * math.exp(weighed(span)) / total for span in best]
        assert found.probability[pair, :kept].tolist() == pytest.approx(shares, rel=1e-4)


@given(passages())
def test_equal_prior_weights_change_nothing(passage: dict[str, Any]) -> None:
    plain = merged(**passage)
    equal = merged(**passage, log_prior=np.zeros(len(passage["windows"])))
    for name in set(PassageSpans.__dataclass_fields__) - {"distinct"}:
        assert np.array_equal(getattr(equal, name), getattr(plain, name), equal_nan=True), name


@given(passages())
def test_probabilities_of_all_options_sum_to_one(passage: dict[str, Any]) -> None:
    given = passage["decoding"]
    every = Decoding(200, given.max_answer_length, given.temperature, given.null)
    found = merged(passage["windows"], passage["reader"], every, passage["batch_tokens"])
    assert (found.found < 200).all()
    for pair in range(len(found.found)):
        options = found.probability[pair].sum() + (
            found.null_probability[pair] if every.null else 0.0
        )
        assert options == pytest.approx(1.0 if every.null or found.found[pair] else 0.0, rel=1e-5)


@given(passages(), st.randoms(use_true_random=False))
def test_the_order_of_windows_within_a_pair_and_their_batches_change_nothing(
    passage: dict[str, Any], random: Any
) -> None:
    """Candidates are bitwise equal; masses only nearly, because the order of sums may differ."""
    whole = merged(**passage)
    windows, decoding = passage["windows"], passage["decoding"]
    spans = predicted.decode(passage["reader"], windows, decoding, random.choice([1, 23, 60])).spans
    order = np.arange(len(windows))
    random.shuffle(order)
    order = order[np.argsort(windows.pair[order], kind="stable")]
    shuffled = type(spans)(
        *(
            getattr(spans, name)[order]
            for name in type(spans).__dataclass_fields__
            if name not in ("log_prior", "distinct")
        )
    )
    again = merge_windows(
        shuffled,
        windows.pair[order],
        windows.index[order],
        len(windows.counts),
        n_best=decoding.n_best,
        temperature=decoding.temperature,
    )
    for name in (
        "start",
        "end",
        "start_logit",
        "end_logit",
        "window_index",
        "found",
        "null_score",
        "finite",
    ):
        assert np.array_equal(
            getattr(again, name), getattr(whole, name), equal_nan=name == "null_score"
        ), name
    for name in ("probability", "log_normaliser", "null_probability"):
        np.testing.assert_allclose(getattr(again, name), getattr(whole, name), rtol=1e-5, atol=1e-6)


def test_an_answer_in_two_windows_is_counted_once_with_its_owners_logits() -> None:
    """Windows [0, 6) and [2, 8): span (2, 2) has depth 2 in the first, 0 in the second."""
    windows = make_windows([8], max_length=10, overlap=4)

    def spoil(pair: int, start: int, logits: np.ndarray) -> None:
        logits[:] = -50
        logits[:, 1 + 2 - start] = 10 if start else 1

    found = merged(windows, FakeReader(spoil=spoil), Decoding(n_best=2, max_answer_length=1), 100)
    assert (found.start[0, 0], found.span_score[0, 0], found.window_index[0, 0]) == (2, 2.0, 0)
    assert found.span_score[0, 1] == -100.0
    assert found.log_normaliser[0] == pytest.approx(2.0)


def test_a_pair_without_windows_has_no_candidate_and_its_neighbours_keep_theirs() -> None:
    windows = make_windows([4, 0, 4], max_length=10, overlap=2)
    found = merged(windows, FakeReader(), Decoding(n_best=2, null=True), 100)
    assert found.found.tolist() == [2, 0, 2]
    assert found.finite.tolist() == [True, False, True]
    assert found.probability[1].tolist() == [0.0, 0.0]
    assert np.isnan(found.null_score[1]) and np.isnan(found.null_probability[1])
    assert np.isfinite(found.null_score[[0, 2]]).all()


def test_no_window_at_all() -> None:
    found = merged(
        make_windows([0], max_length=10, overlap=2), FakeReader(), Decoding(n_best=2), 100
    )
    assert (found.found.tolist(), found.finite.tolist()) == ([0], [False])
    assert (
        len(merged(make_windows([], max_length=10, overlap=2), FakeReader(), Decoding(), 100).found)
        == 0
    )


def test_a_low_temperature_sharpens_probabilities_and_keeps_scores() -> None:
    windows = make_windows([6], max_length=12, overlap=3)
    warm, cold = (
        merged(windows, FakeReader(levels=0), Decoding(temperature=temperature, null=True), 100)
        for temperature in (2.0, 0.5)
    )
    assert cold.probability[0, 0] > warm.probability[0, 0]
    assert cold.span_score.tolist() == warm.span_score.tolist()
    ratio = math.exp((cold.span_score[0, 0] - cold.span_score[0, 1]) / 0.5)
    assert cold.probability[0, 0] / cold.probability[0, 1] == pytest.approx(ratio, rel=1e-5)


def test_the_null_score_is_the_least_of_the_windows() -> None:
    windows = make_windows([8], max_length=10, overlap=4)
    nulls = {0: [3.0, 1.0], 2: [-2.0, 1.5]}

    def spoil(pair: int, start: int, logits: np.ndarray) -> None:
        logits[:, 0] = nulls[start]

    found = merged(windows, FakeReader(spoil=spoil), Decoding(null=True), 100)
    assert found.null_score.tolist() == [-0.5]
    assert np.isnan(
        merged(windows, FakeReader(spoil=spoil), Decoding(null=False), 100).null_probability
    ).all()
