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
from model.audit.slice_figures import LOSSES, Slice
from model.audit.slices import MOST_SLICES, OTHER
from model.audit.statistics import WITH_TOKENS, Lists, Statistics, measure
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
