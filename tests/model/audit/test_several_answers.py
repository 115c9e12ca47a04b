from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.audit.several_answers import (
    LOG_ODDS_RESOLUTION,
    SpanCurve,
    matches,
    odds_bin,
    places_of,
    words_of,
)

Row = tuple[list[tuple[str, float]], list[list[str]]]
"""Spans with their probabilities, and the texts of golds by place."""


# Places and matches


@pytest.mark.parametrize(
    ("golds", "places"),
    [
        ([], []),
        ([(0, 3)], [[(0, 3)]]),
        ([(0, 3), (3, 5)], [[(0, 3)], [(3, 5)]]),  # they touch, but share no character
        ([(0, 3), (2, 5), (4, 8), (9, 12)], [[(0, 3), (2, 5), (4, 8)], [(9, 12)]]),
        ([(0, 20), (3, 5), (8, 9)], [[(0, 20), (3, 5), (8, 9)]]),
    ],
)
def test_overlapping_golds_share_a_place(
    golds: list[tuple[int, int]], places: list[list[tuple[int, int]]]
):
    assert places_of(golds) == places


@pytest.mark.parametrize(
    ("span", "gold", "match"),
    [
        ("the Seller", "The seller.", True),
        ("and/or the seller", "or seller", True),  # 2 of 4 words
        ("of the seller here", "seller", False),  # 1 of 4
        ("seller seller seller", "seller", True),  # words count once
        ("一二三", "二三四", True),  # 2 of 4 characters
        ("一二三", "三四五", False),
        (".", ";", False),
    ],
)
def test_a_match_shares_half_of_the_words(span: str, gold: str, match: bool):
    assert matches(words_of(span), words_of(gold)) == match


def test_bins_are_narrow_and_hold_every_probability():
    for probability in (0.0, 1e-12, 0.001, 0.3, 0.5, 0.999, 1.0, 1.0000002):
        low = 1 / (1 + math.exp(-odds_bin(probability) * LOG_ODDS_RESOLUTION))
        high = 1 / (1 + math.exp(-(odds_bin(probability) + 1) * LOG_ODDS_RESOLUTION))
        assert low - 1e-6 <= min(probability, 1) <= high + 1e-6
        assert high - low <= 0.005 + 1e-12


# Precision and recall, against the slow computation of CUAD's evaluate.py

words = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=4).map(" ".join)
rows: st.SearchStrategy[list[Row]] = st.lists(
    st.tuples(
        st.lists(st.tuples(words, st.floats(0, 1)), max_size=6),
        st.lists(st.lists(words, min_size=1, max_size=2), max_size=3),
    ),
    max_size=8,
)


def curve_of(given: list[Row], least: float | None = None) -> SpanCurve:
    curve = SpanCurve()
    for spans, golds in given:
        curve.add(spans, golds, least)
    return curve


def jaccard(text: str, other: str) -> float:
    both = set(text.split()), set(other.split())
    return len(both[0] & both[1]) / len(both[0] | both[1])


def slow(given: list[Row], kept: set[float]) -> tuple[int, int, int]:
    """Return true and false positives and false negatives of the spans of some probabilities."""
    tp = fp = fn = 0
    for spans, golds in given:
        texts = [text for text, probability in spans if probability in kept]
        for place in golds:
            if any(jaccard(text, gold) >= 0.5 for text in texts for gold in place):
                tp += 1
            else:
                fn += 1
        every = [gold for place in golds for gold in place]
        fp += sum(all(jaccard(text, gold) < 0.5 for gold in every) for text in texts)
    return tp, fp, fn


@given(rows)
def test_points_equal_a_slow_computation_at_their_probability(given: list[Row]) -> None:
    every = {probability for spans, _ in given for _, probability in spans}
    points = curve_of(given).points().tolist()
    for least, precision, recall in points:
        # The border of a bin: above or below it by less than rounding, no probability lies.
        kept = {
            each for each in every if odds_bin(each) >= round(_odds(least) / LOG_ODDS_RESOLUTION)
        }
        tp, fp, fn = slow(given, kept)
        assert precision == pytest.approx(tp / (tp + fp))
        assert recall == pytest.approx(tp / (tp + fn))
    if points:
        tp, fp, fn = slow(given, every)
        assert points[-1][1:] == pytest.approx([tp / (tp + fp), tp / (tp + fn)])


def _odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


@given(rows, st.floats(0.05, 0.9))
def test_the_summary_equals_a_slow_computation(given: list[Row], least: float) -> None:
    summary = curve_of(given, least).summary(least)
    every = sorted({probability for spans, _ in given for _, probability in spans}, reverse=True)
    places = sum(len(golds) for _, golds in given)
    assert summary["rows"] == len(given)
    assert summary["places"] == places
    assert summary["rows_with_several_places"] == sum(len(golds) > 1 for _, golds in given)

    threshold = np.float32(least)
    tp, fp, fn = slow(given, {each for each in every if np.float32(each) >= threshold})
    shown = summary["all_answers"]
    assert shown["precision"] == pytest.approx(100 * tp / (tp + fp) if tp + fp else 0)
    assert shown["recall"] == pytest.approx(100 * tp / (tp + fn) if places else 0)

    # CUAD's curve over the thresholds of the bins.
    if not places or not every:
        assert "aupr" not in summary
        return
    recalls, precisions = [0.0], [1.0]
    for key in sorted(set(map(odds_bin, every)), reverse=True):
        tp, fp, fn = slow(given, {each for each in every if odds_bin(each) >= key})
        if tp + fp:  # a bin may hold nothing but further matches of places found above it
            recalls.append(tp / places)
            precisions.append(tp / (tp + fp))
    for k in range(len(precisions) - 2, -1, -1):
        precisions[k] = max(precisions[k], precisions[k + 1])
    area = 0.0
    for k in range(1, len(recalls)):
        area += (recalls[k] - recalls[k - 1]) * (precisions[k] + precisions[k - 1]) / 2
    assert summary["aupr"] == pytest.approx(100 * area)
    assert summary["highest_recall"] == pytest.approx(100 * recalls[-1])
    for wanted in (0.8, 0.9):
        reached = [p for p, r in zip(precisions, recalls, strict=True) if r >= wanted]
        found = summary[f"precision_at_{round(100 * wanted)}_recall"]
        assert found == (pytest.approx(100 * reached[0]) if reached else None)


@given(rows, st.randoms(use_true_random=False))
def test_any_order_and_any_chunks_give_the_same(given: list[Row], order: random.Random) -> None:
    whole = curve_of(given, 0.2)
    shuffled = order.sample(given, len(given))
    middle = order.randint(0, len(given))
    merged = curve_of(shuffled[middle:], 0.2)
    merged.merge(curve_of(shuffled[:middle], 0.2))
    assert merged == whole
    assert SpanCurve.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_the_area_is_that_of_single_thresholds_to_the_resolution() -> None:
    """Bins cost little: against every probability as a threshold of its own."""
    drawn = random.Random(3)
    given: list[Row] = [
        (
            [("a" if drawn.random() < p else "z", p) for p in (drawn.random() for _ in range(5))],
            [["a"]] * drawn.randint(0, 2),
        )
        for _ in range(200)
    ]
    every = sorted({p for spans, _ in given for _, p in spans}, reverse=True)
    points = [(0.0, 1.0)]
    for k in range(1, len(every) + 1):
        tp, fp, fn = slow(given, set(every[:k]))
        points.append((tp / (tp + fn), tp / (tp + fp)))
    best, area = 0.0, 0.0
    for (recall, precision), (before, earlier) in zip(points[:0:-1], points[-2::-1], strict=True):
        best = max(best, precision)
        area += (recall - before) * (best + max(best, earlier)) / 2
    assert curve_of(given).summary(None)["aupr"] == pytest.approx(100 * area, abs=0.5)
