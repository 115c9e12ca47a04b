"""The area under the curve against all pairs of questions, and its interval against draws."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest

from model.audit.answerability import MARGIN_RESOLUTION, Margins


def margins_of(margin: np.ndarray, answerable: np.ndarray) -> Margins:
    margins = Margins()
    margins.add(margin, answerable)
    return margins


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_the_share_of_pairs_in_the_right_order(seed: int):
    generator = np.random.default_rng(seed)
    answerable = generator.random(60) < 0.6
    # Few levels in the middles of bins: many margins are equal, and none at a border.
    margin = (generator.integers(-20, 20, 60) - 8 * answerable + 0.5) * MARGIN_RESOLUTION
    pairs = list(product(margin[~answerable].tolist(), margin[answerable].tolist()))
    won = sum(1.0 if high > low else 0.5 if high == low else 0.0 for high, low in pairs)
    summary = margins_of(margin, answerable).summary()
    assert summary is not None
    assert summary["auc"] == pytest.approx(won / len(pairs))
    assert summary["answerable"] == answerable.sum()
    assert summary["unanswerable"] == (~answerable).sum()


def test_bins_are_narrow_enough():
    generator = np.random.default_rng(1)
    answerable = generator.random(20_000) < 0.5
    margin = generator.normal(-2.0 * answerable, 3)
    rank = np.argsort(np.argsort(margin)) + 1
    count = int((~answerable).sum())
    exact = (rank[~answerable].sum() - count * (count + 1) / 2) / (count * answerable.sum())
    summary = margins_of(margin, answerable).summary()
    assert summary is not None
    assert summary["auc"] == pytest.approx(exact, abs=1e-4)


def test_parts_merge_in_any_order_and_survive_json():
    generator = np.random.default_rng(2)
    margin, answerable = generator.normal(0, 3, 300), generator.random(300) < 0.5
    whole = margins_of(margin, answerable)
    merged = Margins()
    for part in np.array_split(generator.permutation(300), 4):
        each = margins_of(margin[part], answerable[part])
        merged.merge(Margins.from_json(json.loads(json.dumps(each.to_json()))))
    assert merged == whole


def test_the_interval_holds_the_true_area():
    """Normal margins of distance d have an area of Phi(d / sqrt 2)."""
    generator, held = np.random.default_rng(3), 0
    for _ in range(300):
        answerable = np.arange(120) < 80
        margin = generator.normal(-1.0 * answerable, 1)
        summary = margins_of(margin, answerable).summary()
        assert summary is not None
        held += summary["interval"][0] <= 0.76025 <= summary["interval"][1]
    assert 0.91 <= held / 300 <= 0.99


def test_one_kind_of_question_has_no_area():
    for answerable in (np.ones(3, bool), np.zeros(3, bool)):
        assert margins_of(np.arange(3.0), answerable).summary() is None
    assert Margins().summary() is None


def test_one_question_of_each_kind():
    summary = margins_of(np.array([1.0, 2.0]), np.array([True, False])).summary()
    assert summary == {"auc": 1.0, "interval": [1.0, 1.0], "answerable": 1, "unanswerable": 1}
