"""Statistics that merge: equal for every grouping and order, and to slow sums of raw values."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.audit.columns import AUDIT_SCHEMA
from model.audit.distributions import LOSS_BINS
from model.audit.slices import MOST_SLICES, OTHER
from model.audit.statistics import LOSSES, WITH_TOKENS, Lists, Slice, Statistics, measure
from tests.figures import same_figures


def merged_at_random(parts: list[Statistics], seed: int) -> Statistics:
    """All parts and an empty one, merged in random order and groups, sometimes through JSON."""
    shuffled = random.Random(seed)
    left = [Statistics(), *(Statistics.from_json(part.to_json()) for part in parts)]
    while len(left) > 1:
        one = left.pop(shuffled.randrange(len(left)))
        other = left.pop(shuffled.randrange(len(left)))
        one.merge(other)
        left.append(
            Statistics.from_json(json.loads(json.dumps(one.to_json())))
            if shuffled.random() < 0.3
            else one
        )
    return left[0]


def audit_table(rows: int, seed: int = 0) -> pa.Table:
    """Audit columns as a run writes them, with rejected rows, null targets and undefined losses."""
    drawn = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {name: [None] * rows for name in AUDIT_SCHEMA.names}
    for row in range(rows):
        kind = drawn.choice(
            ["scored", "null_scored", "unreachable", "rejected"], p=[0.6, 0.2, 0.1, 0.1]
        )
        columns["status"][row] = kind
        if kind == "rejected":
            continue
        for name in LOSSES:
            columns[name][row] = float(drawn.gamma(1.5, 3.0)) if drawn.random() < 0.95 else 0.0
        if kind == "unreachable":
            columns["native_nll"][row] = None
        gold = kind != "null_scored"
        columns["golds"][row] = int(drawn.integers(1, 4)) if gold else 0
        start = int(drawn.integers(0, 400))
        columns["gold_start"][row] = start if gold else None
        columns["gold_end"][row] = start + int(drawn.integers(1, 100)) if gold else None
        columns["prediction"][row] = "some text" if drawn.random() < 0.7 else ""
        columns["probability"][row] = float(np.float32(drawn.beta(2, 1)))
        columns["exact_match"][row] = float(drawn.random() < 0.5)
        columns["f1"][row] = max(columns["exact_match"][row], float(np.float32(drawn.random())))
        columns["character_f1"][row] = float(np.float32((columns["f1"][row] + 1) / 2))
        columns["null_score"][row], columns["span_score"][row] = (
            float(each) for each in drawn.normal(0, 4, 2)
        )
        columns["context_characters"][row] = 500
        columns["label_error"][row] = float(np.float32(max(0.0, drawn.normal(0, 4))))
        columns["nll_start"][row], columns["nll_end"][row] = (
            float(each) for each in drawn.gamma(1.5, 3.0, 2)
        )
        columns["num_tokens"][row] = int(drawn.integers(1, 20000))
        columns["num_windows"][row] = int(drawn.integers(1, 90))
    return pa.table(columns, schema=AUDIT_SCHEMA)


def measured(
    table: pa.Table, sources: Sequence[str | None], first: int = 0, most_worst: int = 7
) -> Statistics:
    """The statistics of a slice of rows that are in one file from `first` on."""
    questions = [
        ("Who was it?", "In what year?", "Name it.")[(first + k) % 3] for k in range(table.num_rows)
    ]
    examples = [
        {"path": "/a.parquet", "row": first + k, "id": f"row {first + k}"}
        for k in range(table.num_rows)
    ]
    lists = Lists(
        examples.__getitem__, lambda row: [[0, first + row, 0.5, 0.5]], most_worst, most_worst
    )
    return measure(table, questions, {"source": list(sources)}, lists)


def cut(rows: int, seed: int) -> list[tuple[int, int]]:
    """Random chunk bounds."""
    places = sorted({0, rows, *random.Random(seed).sample(range(1, rows), 8)})
    return list(zip(places, places[1:], strict=False))


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


class TestMeasure:
    ROWS = 240

    def sources(self) -> list[str | None]:
        return [None if row % 11 == 0 else f"source {row % 5}" for row in range(self.ROWS)]

    def test_any_chunking_grouping_and_order_gives_the_same(self):
        table, sources = audit_table(self.ROWS), self.sources()
        whole = measured(table, sources)
        summary = whole.summary()
        for seed in range(6):
            parts = [
                measured(table.slice(begin, end - begin), sources[begin:end], begin)
                for begin, end in cut(self.ROWS, seed)
            ]
            same_figures(merged_at_random(parts, seed).summary(), summary)
        assert merged_at_random([whole], 0).summary() == summary  # and JSON loses nothing

    def test_everything_against_plain_sums_over_the_rows(self):
        table = audit_table(self.ROWS)
        rows = [row for row in table.to_pylist() if row["status"] != "rejected"]
        found = measured(table, self.sources()).summary()["all"]
        assert found["rows"] == len(rows) < self.ROWS
        for name in LOSSES:
            values = [row[name] for row in rows if row[name] is not None]
            assert found["losses"][name]["count"] == len(values)
            assert found["losses"][name]["mean"] == pytest.approx(np.mean(values))
            assert found["losses"][name]["max"] == max(values)
        assert found["losses"]["native_nll"]["count"] < len(rows)
        assert found["exact_match"]["percent"] == pytest.approx(
            100 * np.mean([row["exact_match"] for row in rows])
        )
        assert found["f1"]["percent"] == pytest.approx(100 * np.mean([row["f1"] for row in rows]))
        agree = [(row["golds"] > 0) == (row["prediction"] != "") for row in rows]
        assert found["answerability_accuracy"] == pytest.approx(100 * np.mean(agree))
        assert found["calibration"]["count"] == sum(row["prediction"] != "" for row in rows)

    def test_every_slice_partitions_the_rows(self):
        table = audit_table(self.ROWS)
        summary = measured(table, self.sources()).summary()
        kept = [k for k, row in enumerate(table.to_pylist()) if row["status"] != "rejected"]
        assert set(summary["slices"]) == {
            "question_word",
            "answerable",
            "answer_characters",
            "context_tokens",
            "num_windows",
            "answer_position",
            "source",
        }
        for name, values in summary["slices"].items():
            assert sum(part["rows"] for part in values.values()) == len(kept), name
        sources = self.sources()
        for value, part in summary["slices"]["source"].items():
            assert part["rows"] == sum((sources[k] or "(null)") == value for k in kept)
        assert set(summary["slices"]["answerable"]) == {"yes", "no"}
        unanswerable = sum(table["golds"][k].as_py() == 0 for k in kept)
        assert summary["slices"]["answerable"]["no"]["rows"] == unanswerable
        assert summary["slices"]["answer_position"]["none"]["rows"] == unanswerable
        assert set(summary["slices"]["answer_position"]) == {
            "none",
            *(f"{k} of 5" for k in range(1, 5)),
        }  # starts below 400
        assert set(summary["slices"]["question_word"]) == {"who", "what", "other"}
        assert all("calibration" in part for part in summary["slices"]["num_windows"].values())

    def test_the_highest_losses_are_the_highest_whatever_the_chunks(self):
        table = audit_table(self.ROWS)
        rows = [
            (row["nll"], k)
            for k, row in enumerate(table.to_pylist())
            if row["status"] != "rejected"
        ]
        expected = sorted(rows, key=lambda entry: (-entry[0], entry[1]))[:7]
        parts = [
            measured(table.slice(begin, end - begin), [None] * (end - begin), begin)
            for begin, end in cut(self.ROWS, seed=1)
        ]
        for statistics in (measured(table, [None] * self.ROWS), merged_at_random(parts, 1)):
            found = statistics.summary()["highest_loss"]
            assert [(example["nll"], example["row"]) for example in found] == expected
            assert found[0]["id"] == f"row {expected[0][1]}"
            assert found[0]["probability"] == table["probability"][expected[0][1]].as_py()

    def test_equal_losses_are_listed_in_the_order_of_the_input(self):
        table = audit_table(20)
        level = table.set_column(
            table.column_names.index("nll"), "nll", pa.array([1.0] * 20, pa.float64())
        )
        kept = [k for k, status in enumerate(table["status"].to_pylist()) if status != "rejected"]
        parts = [measured(level.slice(k, 5), [None] * 5, k, 6) for k in (10, 0, 15, 5)]
        for seed in range(3):
            found = merged_at_random(parts, seed).summary()["highest_loss"]
            assert [example["row"] for example in found] == kept[:6]

    @pytest.mark.parametrize("most", [0, 3])
    def test_no_more_of_them_than_were_asked_for(self, most: int):
        parts = [measured(audit_table(30, seed), [None] * 30, 30 * seed, most) for seed in range(4)]
        assert len(merged_at_random(parts, 0).summary()["highest_loss"]) == most

    def test_suspects_are_those_with_the_highest_score_above_0(self):
        table = audit_table(self.ROWS)
        scores = [
            (row["label_error"], k)
            for k, row in enumerate(table.to_pylist())
            if (row["label_error"] or 0) > 0
        ]
        expected = sorted(scores, key=lambda entry: (-entry[0], entry[1]))
        assert 7 < len(expected) < self.ROWS
        parts = [
            measured(table.slice(b, e - b), [None] * (e - b), b) for b, e in cut(self.ROWS, seed=3)
        ]
        found = merged_at_random(parts, 3).summary()["suspected_label_errors"]
        assert [(example["label_error"], example["row"]) for example in found] == expected[:7]
        found = measured(table, [None] * self.ROWS, most_worst=10**4).summary()[
            "suspected_label_errors"
        ]
        assert len(found) == len(expected)

    def test_the_first_of_a_list_have_likely_tokens_however_rows_were_cut_into_chunks(self):
        table = audit_table(self.ROWS)
        for seed in (0, 5):
            parts = [
                measured(table.slice(b, e - b), [None] * (e - b), b, 2 * WITH_TOKENS)
                for b, e in cut(self.ROWS, seed)
            ]
            summary = merged_at_random(parts, seed).summary()
            for name in ("highest_loss", "suspected_label_errors"):
                assert len(summary[name]) == 2 * WITH_TOKENS
                for place, example in enumerate(summary[name]):
                    wanted = [[0, example["row"], 0.5, 0.5]] if place < WITH_TOKENS else None
                    assert example.get("likely_tokens") == wanted

    def test_start_against_end_loss_counts_every_row_once(self):
        table = audit_table(self.ROWS)
        rows = [row for row in table.to_pylist() if row["status"] != "rejected"]
        parts = [
            measured(table.slice(b, e - b), [None] * (e - b), b) for b, e in cut(self.ROWS, seed=4)
        ]
        found = merged_at_random(parts, 4).summary()
        places = Counter(
            tuple(
                min(int(4 * math.sqrt(row[f"nll_{side}"])), LOSS_BINS - 1)
                for side in ("start", "end")
            )
            for row in rows
        )
        assert {(start, end): count for start, end, count in found["start_against_end"]} == places
        histogram = Counter(min(int(4 * math.sqrt(row["nll"])), LOSS_BINS - 1) for row in rows)
        assert sum(found["nll_histogram"]) == len(rows)
        moved = sum(abs(found["nll_histogram"][k] - histogram[k]) for k in range(LOSS_BINS))
        # The sketch knows a value to 1 %: at a border it may fall into the next bin.
        assert moved <= len(rows) / 10

    def test_nothing_but_rejected_rows(self):
        columns = {**{name: [None] * 3 for name in AUDIT_SCHEMA.names}, "status": ["rejected"] * 3}
        summary = measured(pa.table(columns, schema=AUDIT_SCHEMA), [None] * 3).summary()
        assert summary["all"]["rows"] == 0
        assert summary["all"]["losses"]["nll"] == {"count": 0}
        assert summary["highest_loss"] == []
        assert all(values == {} for values in summary["slices"].values())
        assert "f1" not in summary["all"]

    def test_no_part_at_all(self):
        same_figures(Statistics().summary()["all"], Slice().summary())


class TestSlicesOfManyValues:
    def test_the_rest_is_one_slice_whatever_the_merge_order(self):
        """In no chunk are more values than are kept, and in all together there are."""
        rows = 360
        table = audit_table(rows)
        sources = [f"s{(7 * row) % 180:03d}" for row in range(rows)]
        kept = [
            source
            for source, status in zip(sources, table["status"].to_pylist(), strict=True)
            if status != "rejected"
        ]
        first = sorted(set(kept))[:MOST_SLICES]
        assert len(set(kept)) > MOST_SLICES
        whole = measured(table, sources).summary()["slices"]["source"]
        assert set(whole) == {*first, OTHER}
        for value in first:
            assert whole[value]["rows"] == kept.count(value)
        assert whole[OTHER]["rows"] == sum(source not in first for source in kept)
        for seed in range(4):
            parts = [measured(table.slice(b, e - b), sources[b:e], b) for b, e in cut(rows, seed)]
            same_figures(merged_at_random(parts, seed).summary()["slices"]["source"], whole)

    def test_exactly_as_many_as_are_kept_need_no_other(self):
        table = audit_table(400)
        kept = [k for k, status in enumerate(table["status"].to_pylist()) if status != "rejected"]
        sources = [f"s{k % MOST_SLICES}" for k in range(400)]
        found = measured(table, sources).summary()["slices"]["source"]
        assert set(found) == {sources[k] for k in kept}
        assert len(found) == MOST_SLICES

    def test_values_of_any_type_become_text(self):
        table = audit_table(6)
        given = {"source": [1, None, ["a", 2], True, 0.5, "x" * 200]}
        examples = [{"path": "/a", "row": k, "id": ""} for k in range(6)]
        lists = Lists(examples.__getitem__, lambda row: [], 1)
        found = measure(table, ["?"] * 6, given, lists).slices["source"]
        labels = ["1", "(null)", "['a', 2]", "True", "0.5", "x" * 80]
        assert set(found) == {
            label
            for label, status in zip(labels, table["status"].to_pylist(), strict=True)
            if status != "rejected"
        }
