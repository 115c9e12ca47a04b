"""Paired differences equal numpy's on the raw values, for every grouping and order."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from model.audit.comparison import MOST_UNPAIRED, SAME, Comparison, Score
from model.audit.slices import MOST_SLICES, OTHER

Pair = tuple[Score, Score]


def score(after: bool, row: int, values: tuple[float, float, float], **changes: Any) -> Score:
    fields: dict[str, Any] = {
        "id": f"row {row:04d}",
        "part": 0,
        "row": row,
        "status": "scored",
        "pair": b"p",
        "golds": b"g",
        "labels": () if after else (("parity", str(row % 2)),),
    }
    return Score(after=after, values=values, **{**fields, **changes})


def drawn_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Draw losses and grades, some undefined; EM is 1 where F1 is."""
    numbers = np.random.default_rng(seed)
    pairs = []
    for row in range(count):
        sides = []
        for after in (False, True):
            f1 = float(numbers.choice([0.0, 0.25, 0.5, 1.0]))
            nll = float(numbers.gamma(2, 2)) if numbers.random() < 0.9 else math.nan
            sides.append(score(after, row, (nll, float(f1 == 1.0), f1)))
        pairs.append((sides[0], sides[1]))
    return pairs


def compared(pairs: list[Pair], most: int = 7) -> Comparison:
    comparison = Comparison(most)
    for before, after in pairs:
        comparison.add_pair(before, after)
    return comparison


def changed(pairs: list[Pair]) -> dict[str, int]:
    """Return how many pairs are worse and better, by F1, then by loss."""
    found = {"regressions": 0, "improvements": 0}
    for before, after in pairs:
        f1, loss = after.values[2] - before.values[2], after.values[0] - before.values[0]
        if f1 or (math.isfinite(loss) and abs(loss) > SAME):
            found["regressions" if f1 < 0 or (not f1 and loss > 0) else "improvements"] += 1
    return found


def test_rounding_makes_nothing_better_or_worse():
    """The logits of a row differ a little from batch to batch."""
    before = score(False, 0, (9.92353643, 1.0, 0.8))
    pairs = [(before, score(True, 0, (loss, 1.0, 0.8))) for loss in (9.92353793, 9.92352843)]
    comparison = compared(pairs)
    summary = comparison.summary()
    assert summary["changes"] == {"regressions": 0, "improvements": 0}
    assert not comparison.regressions + comparison.improvements
    assert all((each["better"], each["worse"]) == (0, 0) for each in summary["all"].values())
    assert summary["all"]["nll"]["difference"] == pytest.approx(-3.25e-6)  # nothing is rounded away


def test_means_intervals_and_counts_are_those_of_the_raw_values():
    pairs = drawn_pairs(400)
    found = compared(pairs).summary()
    assert found["paired"] == 400
    assert found["changes"] == changed(pairs)
    for place, (metric, scale, sign) in enumerate(
        (("nll", 1, -1), ("exact_match", 100, 1), ("f1", 100, 1))
    ):
        values = np.array([(b.values[place], a.values[place]) for b, a in pairs])
        values = values[np.isfinite(values).all(1)]
        difference = values[:, 1] - values[:, 0]
        half = 1.96 * difference.std(ddof=1) / math.sqrt(len(difference))
        summary = found["all"][metric]
        assert summary["count"] == len(values) < 400 + (metric != "nll")
        assert summary["before"] == pytest.approx(scale * values[:, 0].mean())
        assert summary["after"] == pytest.approx(scale * values[:, 1].mean())
        assert summary["difference"] == pytest.approx(scale * difference.mean())
        assert summary["interval"] == pytest.approx(
            [scale * (difference.mean() - half), scale * (difference.mean() + half)]
        )
        assert (summary["better"], summary["worse"]) == (
            (sign * difference > SAME).sum(),
            (sign * difference < -SAME).sum(),
        )
    halves = found["slices"]["parity"]
    assert [halves[value]["f1"]["count"] for value in "01"] == [200, 200]


def test_the_interval_is_that_of_a_paired_bootstrap():
    """The normal interval is within the documented distance of percentiles of 4,000 resamples."""
    pairs = drawn_pairs(400, seed=5)
    difference = np.array([a.values[2] - b.values[2] for b, a in pairs])
    resampled = np.random.default_rng(0).choice(difference, (4000, len(difference))).mean(1)
    low, high = compared(pairs).summary()["all"]["f1"]["interval"]
    assert [low, high] == pytest.approx(
        (100 * np.percentile(resampled, [2.5, 97.5])).tolist(), abs=0.4
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_same_for_every_grouping_and_order(seed: int):
    pairs = drawn_pairs(120)
    whole = compared(pairs)
    chosen = random.Random(seed)
    shuffled = chosen.sample(pairs, len(pairs))
    parts = [compared(shuffled[k::7]) for k in range(7)]
    for k, comparison in enumerate((whole, *parts)):
        comparison.add_unpaired(
            "only_after",
            [pairs[k][1]] if comparison is not whole else [each[1] for each in pairs[1:8]],
        )
    merged = Comparison(7)
    for part in chosen.sample(parts, len(parts)):
        merged.merge(part)
    assert [change[2] for change in merged.regressions] == [
        change[2] for change in whole.regressions
    ]
    assert [change[2] for change in merged.improvements] == [
        change[2] for change in whole.improvements
    ]
    found, expected = merged.summary(), whole.summary()
    assert found["unpaired"] == expected["unpaired"]
    assert found["statuses"] == expected["statuses"]
    for metric, values in expected["all"].items():
        for name, value in values.items():
            assert found["all"][metric][name] == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_changes_are_ordered_by_f1_then_by_loss():
    losses = [
        (1.0, 3.0, 1.0, 0.5),
        (1.0, 9.0, 1.0, 0.5),
        (1.0, 1.5, 1.0, 1.0),
        (2.0, 1.0, 1.0, 1.0),
        (2.0, 1.0, 0.0, 1.0),
    ]
    same = (1.0, 1.0, 0.5, 0.5)
    pairs = [
        (score(False, row, (one, 0.0, f1)), score(True, row, (other, 0.0, g1)))
        for row, (one, other, f1, g1) in enumerate([*losses, same])
    ]
    comparison = compared(pairs)
    assert [change[2] for change in comparison.regressions] == ["row 0001", "row 0000", "row 0002"]
    assert [change[2] for change in comparison.improvements] == ["row 0004", "row 0003"]
    assert [change[2] for change in compared(pairs, most=1).regressions] == ["row 0001"]


def test_a_status_that_changes_is_counted_though_it_has_no_difference():
    nothing = (math.nan,) * 3
    comparison = compared(
        [(score(False, 0, nothing, status="rejected", golds=None), score(True, 0, (1.0, 1.0, 1.0)))]
    )
    found = comparison.summary()
    assert found["statuses"] == [{"before": "rejected", "after": "scored", "rows": 1}]
    assert found["all"]["f1"] == {"count": 0}
    assert found["golds_changed"] == 1
    assert (comparison.regressions, comparison.improvements, found["slices"]) == ([], [], {})


def test_names_and_slices_are_bounded_and_counts_are_not():
    comparison = Comparison(0)
    for row in range(2 * MOST_UNPAIRED):
        comparison.add_unpaired("only_before", [score(False, row, (1.0, 1.0, 1.0))])
        labels = (("source", f"{row:04d}"),)
        comparison.add_pair(
            score(False, row, (1.0, 1.0, 1.0), labels=labels), score(True, row, (1.0, 1.0, 0.5))
        )
    found = comparison.summary()
    assert found["unpaired"]["only_before"] == {
        "rows": 2 * MOST_UNPAIRED,
        "ids": [f"row {row:04d}" for row in range(MOST_UNPAIRED)],
    }
    values = found["slices"]["source"]
    assert len(values) == MOST_SLICES + 1
    assert values[OTHER]["f1"]["count"] == 2 * MOST_UNPAIRED - MOST_SLICES
    assert comparison.regressions == []
