"""Drawing: exact counts, samples that are uniform within strata, allocations that are optimal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.review.strata import CELLS, Draw, allocate, deviations, group_cells


def drawn_from(probabilities: np.ndarray, rows: int, seed: int = 0, batch: int = 1000) -> tuple:
    """Return strata, numbers and strata of the drawn ones, of answers that come in batches."""
    draw = Draw(rows, seed)
    numbers = np.arange(len(probabilities))
    places = np.stack([numbers] * 3, axis=1)
    for first in range(0, len(probabilities), batch):
        draw.add(probabilities[first : first + batch], places[first : first + batch])
    strata, drawn, stratum = draw.finish()
    return strata, drawn[:, 1], stratum


@pytest.fixture(scope="module")
def probabilities() -> np.ndarray:
    """Return skewed probabilities, with some at the very ends."""
    values = np.random.default_rng(1).beta(2, 0.5, 5000)
    values[:5], values[5:10] = 0.0, 1.0
    return values


class TestSample:
    def test_strata_partition_the_answers_and_count_them_exactly(self, probabilities: np.ndarray):
        strata, numbers, stratum = drawn_from(probabilities, 200)
        assert len(strata) == 8
        assert (strata[0].low, strata[-1].high) == (0.0, 1.0)
        assert [each.high for each in strata[:-1]] == [each.low for each in strata[1:]]
        for number, each in enumerate(strata):
            last = number == len(strata) - 1
            inside = (probabilities >= each.low) & ((probabilities < each.high) | last)
            assert each.answers == inside.sum()
            assert each.mean_probability == pytest.approx(probabilities[inside].mean())
            own = numbers[stratum == number]
            assert len(own) == each.drawn >= 2
            assert inside[own].all()
            assert each.weight == each.answers / each.drawn
        assert len(set(numbers.tolist())) == len(numbers) == 200

    def test_a_seed_decides_and_batches_do_not(self, probabilities: np.ndarray):
        numbers = drawn_from(probabilities, 50, seed=3)[1].tolist()
        assert numbers == drawn_from(probabilities, 50, seed=3, batch=7)[1].tolist()
        assert numbers != drawn_from(probabilities, 50, seed=4)[1].tolist()

    def test_every_answer_of_a_stratum_is_equally_likely(self):
        """Answers of cells that kept all and of cells that had to leave some out."""
        probabilities = np.repeat([0.505, 0.515, 0.525], [4, 40, 16])
        times = np.zeros(60)
        for seed in range(3000):
            strata, numbers, _ = drawn_from(probabilities, 6, seed, batch=16)
            assert len(strata) == 1
            times[numbers] += 1
        # A binomial of 3,000 draws with chance 6 / 60: six standard deviations are 99.
        assert abs(times - 300).max() < 99

    def test_every_beginning_is_a_stratified_sample(self, probabilities: np.ndarray):
        strata, _, stratum = drawn_from(probabilities, 200)
        half = np.bincount(stratum[:100], minlength=len(strata))
        assert abs(half - np.array([each.drawn for each in strata]) / 2).max() <= 1

    def test_all_answers_are_drawn_if_there_are_fewer(self):
        strata, numbers, _ = drawn_from(np.array([0.1, 0.9, 0.95]), 200)
        assert sorted(numbers.tolist()) == [0, 1, 2]
        assert all(each.drawn == each.answers for each in strata)

    def test_one_answer(self):
        strata, numbers, stratum = drawn_from(np.array([0.7]), 2)
        assert (numbers.tolist(), stratum.tolist()) == ([0], [0])
        assert [(each.low, each.high, each.weight) for each in strata] == [(0.0, 1.0, 1.0)]

    def test_memory_does_not_grow_with_the_answers(self):
        draw = Draw(5, 0)
        random = np.random.default_rng(0)
        for _ in range(50):
            values = random.random(4000)
            draw.add(values, np.zeros((4000, 3), np.int64))
            assert len(draw._keys) <= 2 * 5 * CELLS + 4000
        assert draw.counts.sum() == 200_000
        assert len(draw._keys) <= 3 * 5 * CELLS


def test_strata_are_cut_at_equal_shares_of_answers_and_deviation():
    random = np.random.default_rng(5)
    for _ in range(200):
        counts = random.integers(0, 50, CELLS) * (random.random(CELLS) < random.random())
        counts[random.integers(CELLS)] += 1
        means = (np.arange(CELLS) + 0.5) / CELLS
        rows = int(random.integers(1, 300))
        stratum = group_cells(counts, counts * means, rows)
        assert (np.diff(stratum) >= 0).all() and stratum[0] == 0
        sizes = np.bincount(stratum, counts)
        assert (sizes > 0).all() and len(sizes) <= 8
        # A cell belongs to the stratum in which its middle is, so that half of it may stand out.
        shares = counts * deviations(means)
        wanted = max(1, min(8, rows // 10))
        for number in range(len(sizes)):
            own = shares[(stratum == number) & (counts > 0)]
            assert own.sum() <= shares.sum() / wanted + (own[0] + own[-1]) / 2 + 1e-9


def test_the_allocation_has_the_least_variance_of_all():
    random = np.random.default_rng(2)
    for _ in range(50):
        answers = random.integers(1, 12, 3)
        deviation = deviations(random.random(3))
        rows = int(random.integers(6, 20))
        given = allocate(answers, deviation, rows)
        floor = np.minimum(answers, 2)
        assert given.sum() == max(min(rows, answers.sum()), floor.sum())
        assert ((floor <= given) & (given <= answers)).all()

        def variance(drawn: np.ndarray, a: np.ndarray = answers, s: np.ndarray = deviation):
            return (a**2 * s**2 * (1 / drawn - 1 / a)).sum()

        choices = itertools.product(
            *(range(low, high + 1) for low, high in zip(floor, answers, strict=True))
        )
        least = min(variance(np.array(each)) for each in choices if sum(each) == given.sum())
        assert variance(given) == pytest.approx(least)
