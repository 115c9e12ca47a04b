"""The speed of a run, from commits that can be worked out by hand."""

from __future__ import annotations

import pytest

from pipeline.looks.speed import Commit, rows_per_second


@pytest.mark.parametrize(
    ("commits", "speed"),
    [
        ([], 0.0),
        ([Commit(0.0, 100, 5.0)], 0.0),
        ([Commit(1000.0, 100, 50.0)], 2.0),
        ([Commit(1000.0, 100, 50.0), Commit(1050.0, 200, 50.0)], 3.0),
        # Four workers that began together: their commits alone look as if they took 3 s.
        ([Commit(1000.0 + n, 100, 97.0) for n in range(4)], 4.0),
        # A pause before the last attempt, and loading a model, which is none.
        ([Commit(10.0, 999, 10.0), Commit(5000.0, 100, 50.0)], 2.0),
        ([Commit(10.0, 60, 10.0), Commit(60.0, 60, 10.0)], 2.0),
        # A pause before parts that were in work all the time is none.
        ([Commit(1000.0, 100, 10.0), Commit(1500.0, 100, 500.0)], 200 / 510),
    ],
    ids=["none", "no time", "one", "two", "together", "pause", "short pause", "overlap"],
)
def test_speed(commits: list[Commit], speed: float):
    assert rows_per_second(commits) == pytest.approx(speed)
    assert rows_per_second(commits[::-1]) == pytest.approx(speed)


def test_a_long_run_is_measured_by_its_last_ten_minutes():
    slow = [Commit(1000.0 + 10 * n, 10, 10.0) for n in range(100)]
    fast = [Commit(2000.0 + 10 * n, 50, 10.0) for n in range(100)]
    assert rows_per_second([*slow, *fast]) == pytest.approx(5.0)


def test_parts_that_take_long_are_measured_over_twenty_of_them():
    """Ten workers and parts of 25 minutes: most of the work of ten minutes is in no part yet."""
    commits = [Commit(1500.0 * (n // 10 + 1), 1500, 1500.0) for n in range(400)]
    assert rows_per_second(commits) == pytest.approx(10.0)
