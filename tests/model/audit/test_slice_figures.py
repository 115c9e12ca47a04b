"""Figures of a slice: intervals by hand, what is not defined, receipts of earlier versions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from model.audit.slice_figures import LOSSES, Slice
from model.audit.statistics import Statistics


class TestSlice:
    def columns(self, rows: int, **given: Sequence[float]) -> dict[str, np.ndarray]:
        names = (
            *LOSSES,
            "exact_match",
            "f1",
            "character_f1",
            "probability",
            "answerable",
            "answered",
            "null_score",
            "span_score",
        )
        return {name: np.array(given.get(name, [1.0] * rows), np.float64) for name in names}

    def test_wilson_interval_and_percentages(self):
        """8 of 10, by hand: (0.8 + z^2 / 20 +- z sqrt(0.016 + z^2 / 400)) / (1 + z^2 / 10)."""
        part = Slice()
        part.add(self.columns(10, exact_match=[1] * 8 + [0] * 2, f1=[1] * 4 + [0.5] * 6))
        summary = part.summary()
        assert summary["exact_match"]["percent"] == 80
        assert summary["exact_match"]["interval"] == pytest.approx([49.02, 94.33], abs=0.01)
        assert summary["f1"]["percent"] == pytest.approx(70)
        spread = 1.96 * np.std([1] * 4 + [0.5] * 6) / math.sqrt(10)
        assert summary["f1"]["interval"] == pytest.approx(
            [100 * (0.7 - spread), 100 * (0.7 + spread)]
        )

    def test_receipts_without_a_character_f1_have_that_of_words(self):
        """Earlier versions wrote them, and a run of theirs may go on."""
        part = Slice()
        part.add(self.columns(2, f1=[0.5, 1], character_f1=[0.75, 1]))
        assert part.summary()["character_f1"] == {"percent": 87.5}
        written = json.loads(json.dumps(part.to_json()))
        assert Slice.from_json(written).summary() == part.summary()
        written["grades"].pop()
        assert Slice.from_json(written).summary() == {
            **part.summary(),
            "character_f1": {"percent": 75},
        }

    def test_receipts_without_a_loss_count_no_row_of_it(self):
        """Earlier versions had fewer losses, and a run of theirs may go on."""
        part = Statistics()
        part.everything.add(self.columns(2))
        part.slices["has_answer"] = {"yes": part.everything}
        written = json.loads(json.dumps(part.to_json()))
        for stored in (written["all"], written["slices"]["has_answer"]["yes"]):
            del stored["losses"]["tokenwise"]
        total = Statistics()
        for receipt in (written, part.to_json(), written):
            total.merge(Statistics.from_json(receipt))
        for summary in (total.summary()["all"], total.summary()["slices"]["has_answer"]["yes"]):
            assert summary["rows"] == summary["losses"]["nll"]["count"] == 6
            assert summary["losses"]["tokenwise"] == part.summary()["all"]["losses"]["tokenwise"]
        assert json.dumps(Statistics.from_json(part.to_json()).to_json()) == json.dumps(
            part.to_json()
        )

    def test_no_interval_leaves_the_percentages_that_there_are(self):
        for f1 in ([0, 0, 1], [1, 1, 0]):
            part = Slice()
            part.add(self.columns(3, f1=f1))
            low, high = part.summary()["f1"]["interval"]
            assert (low == 0) == (sum(f1) == 1)
            assert (high == 100) == (sum(f1) == 2)

    def test_all_right_and_all_wrong_have_an_interval_of_some_width(self):
        for right in (0, 1):
            part = Slice()
            part.add(self.columns(10, exact_match=[right] * 10))
            low, high = part.summary()["exact_match"]["interval"]
            assert high - low == pytest.approx(100 * 1.96**2 / (10 + 1.96**2))
            assert 0 <= low < high <= 100

    @pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 49, 300])
    def test_no_interval_reaches_beyond_none_and_all(self, count: int):
        """Wilson's formula leaves -2.8e-15 of 0 of 8."""
        for right in range(count + 1):
            part = Slice()
            grades = [1] * right + [0] * (count - right)
            part.add(self.columns(count, exact_match=grades, f1=grades, answered=grades))
            found = part.summary()
            for name in ("exact_match", "f1"):
                low, high = found[name]["interval"]
                assert (
                    0 <= low <= found[name]["percent"] + 1e-9
                    and found[name]["percent"] - 1e-9 <= high <= 100
                )
                assert math.copysign(1, low) == 1
            assert (
                0 <= found["answerability_interval"][0] <= found["answerability_interval"][1] <= 100
            )

    def test_perplexities_are_of_the_mean_start_and_end_loss(self):
        part = Slice()
        part.add(self.columns(2, nll_start=[1, 3], nll_end=[0, 1]))
        assert part.summary()["perplexity_start"] == pytest.approx(math.exp(2))
        assert part.summary()["perplexity_start_interval"] == pytest.approx(
            [math.exp(2 - 1.96), math.exp(2 + 1.96)], rel=1e-4
        )
        assert part.summary()["perplexity_end"] == pytest.approx(math.exp(0.5))

    def test_a_perplexity_beyond_all_floats_ends_no_job(self):
        part = Slice()
        part.add(self.columns(1, nll_start=[5000]))
        summary = part.summary()
        assert summary["perplexity_start"] is None
        assert summary["perplexity_start_interval"] == [None, None]
        json.dumps(summary, allow_nan=False)

    def test_answerability_and_which_rows_are_calibrated(self):
        part = Slice()
        part.add(
            self.columns(
                5,
                answerable=[1, 1, 0, 0, 1],
                answered=[1, 0, 0, 1, 1],
                exact_match=[1, 0, 1, 0, np.nan],  # a row without grades
                f1=[1, 0, 1, 0, np.nan],
                probability=[0.75, 0.5, 0.5, 0.25, 0.5],
            )
        )
        summary = part.summary()
        assert summary["answerability_accuracy"] == 50
        # 2 of 4: 50 +- 196 sqrt(1 / 31.37)
        assert summary["answerability_interval"] == pytest.approx([15.00, 85.00], abs=0.01)
        # Only answers that were given: the first, and the fourth, which should have been none.
        assert [bin["mean_probability"] for bin in summary["calibration"]["reliability"]] == [
            0.25,
            0.75,
        ]
        assert [bin["accuracy"] for bin in summary["calibration"]["reliability"]] == [0, 1]

    def test_undefined_losses_count_for_nothing_and_each_has_its_own_count(self):
        part = Slice()
        part.add(self.columns(3, native_nll=[np.nan, 2, 4]))
        losses = part.summary()["losses"]
        assert losses["native_nll"]["count"] == 2
        assert losses["native_nll"]["mean"] == 3
        assert losses["nll"]["count"] == part.summary()["rows"] == 3

    def test_rounding_below_zero_is_zero(self):
        part = Slice()
        part.add(self.columns(1, nll=[-1e-9]))
        assert part.summary()["losses"]["nll"]["min"] == 0
