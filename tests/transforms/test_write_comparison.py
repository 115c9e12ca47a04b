"""WriteComparison: the verdict of the gate, and the changes that a page lists.

tests/pipeline/test_compare.py tests whole comparisons.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.audit.test_comparison import compared, drawn_pairs, score
from transforms.write_comparison import Gate


def summary(before: float, after: float) -> dict[str, Any]:
    """Return ten pairs whose F1 changes between these values, and whose loss changes inversely."""
    pairs = [
        (score(False, row, (after, 0.0, before)), score(True, row, (before, 0.0, after)))
        for row in range(10)
    ]
    return compared(pairs).summary()


@pytest.mark.parametrize(
    ("gate", "named"),
    [
        (Gate(), []),
        (Gate(max_f1_drop=50.1), []),
        (Gate(max_f1_drop=49.9), ["F1 fell by 50.0000, more than --max_f1_drop=49.9"]),
        (Gate(max_em_drop=0), []),
        (Gate(max_loss_rise=0.6), []),
        (Gate(max_loss_rise=0.4), ["loss rose by 0.5000, more than --max_loss_rise=0.4"]),
    ],
)
def test_limits(gate: Gate, named: list[str]):
    assert gate.problems(summary(0.75, 0.25)) == named


def test_a_rise_of_f1_passes_any_gate():
    assert Gate(max_f1_drop=0, max_em_drop=0, max_loss_rise=0).problems(summary(0.25, 0.75)) == []


@pytest.mark.parametrize("values", [(0.1, 0.2, 0.3), (0.3, 0.2, 0.1)])
def test_a_limit_of_nothing_allows_what_rounding_leaves(values: tuple[float, ...]):
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in float64."""
    sides = (list(values), list(reversed(values)))
    pairs = [
        (score(False, row, (before, before, before)), score(True, row, (after, after, after)))
        for row, (before, after) in enumerate(zip(*sides, strict=True))
    ]
    found = compared(pairs).summary()
    assert Gate(max_f1_drop=0, max_em_drop=0, max_loss_rise=0).problems(found) == []
    assert str(found["all"]["f1"]["difference"]) == "0.0"


def test_nothing_in_common_is_no_success():
    assert Gate().problems(compared([]).summary()) == ["no example is in both audits"]


def test_too_many_rows_without_a_partner():
    comparison = compared(drawn_pairs(10))
    comparison.add_unpaired("only_after", [score(True, row, (1.0, 1.0, 1.0)) for row in range(21)])
    assert Gate(max_failed_fraction=0.6).problems(comparison.summary()) == []
    (problem,) = Gate().problems(comparison.summary())
    assert (
        problem
        == "21 of 41 rows have no partner in the other audit, more than --max_failed_fraction=0.5"
    )


def test_a_limit_that_can_t_be_judged_is_not_kept():
    nan = float("nan")
    pairs = [(score(False, 0, (nan, nan, nan)), score(True, 0, (1.0, 1.0, 1.0)))]
    assert Gate(max_f1_drop=1).problems(compared(pairs).summary()) == [
        "no pair has a F1 on both sides: --max_f1_drop=1 can't be judged"
    ]
