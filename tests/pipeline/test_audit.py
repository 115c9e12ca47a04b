"""Audits from the command line, with rows and figures reopened from the output."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torchmetrics.text import SQuAD

from model.audit.columns import AUDIT_SCHEMA
from model.audit.distributions import QUANTILES, RELATIVE_ACCURACY
from model.audit.slice_figures import LOSSES
from model.audit.slices import question_word
from tests.pipeline.audits import OPTIONS, ROWS, STATUSES, Audit, Json, report
from tests.runs import part_files, read_manifest, read_parts, read_rejections


def check_figures(found: Json, rows: Iterable[Json]) -> None:
    """Compare the figures of one slice with plain sums over its rows."""
    rows = list(rows)
    assert found["rows"] == len(rows)
    for name in LOSSES:
        values = sorted(row[name] for row in rows if row[name] is not None)
        loss = found["losses"][name]
        assert loss["count"] == len(values), name
        if not values:
            continue
        assert loss["mean"] == pytest.approx(np.mean(values), rel=1e-9)
        assert (loss["min"], loss["max"]) == (values[0], values[-1])
        if len(values) > 1:
            assert loss["standard_error"] == pytest.approx(
                np.std(values, ddof=1) / math.sqrt(len(values)), rel=1e-6, abs=1e-9
            )
        for q in QUANTILES:
            exact = np.quantile(values, q, method="lower")
            assert loss[f"p{round(100 * q)}"] == pytest.approx(exact, rel=RELATIVE_ACCURACY)
    for side in ("start", "end"):
        if found["losses"][f"nll_{side}"]["count"]:
            assert found[f"perplexity_{side}"] == pytest.approx(
                math.exp(found["losses"][f"nll_{side}"]["mean"])
            )
    assert found["exact_match"]["percent"] == pytest.approx(
        100 * np.mean([row["exact_match"] for row in rows])
    )
    assert found["f1"]["percent"] == pytest.approx(100 * np.mean([row["f1"] for row in rows]))
    for score in ("exact_match", "f1"):
        low, high = found[score]["interval"]
        assert low - 1e-9 <= found[score]["percent"] <= high + 1e-9
    agree = [(row["golds"] > 0) == (row["prediction"] != "") for row in rows]
    assert found["answerability_accuracy"] == pytest.approx(100 * np.mean(agree))
    check_separation(found.get("answerability_auc"), rows)
    given = [(row["probability"], row["exact_match"]) for row in rows if row["prediction"]]
    assert found["calibration"]["count"] == found["risk_coverage"]["answers"] == len(given)
    if given:
        p, right = np.array(given).T
        assert found["calibration"]["brier"] == pytest.approx(np.mean((p - right) ** 2), rel=1e-9)
        shown = found["calibration"]["reliability"]
        assert sum(bin["count"] for bin in shown) == len(given)
        assert sum(bin["count"] * bin["mean_probability"] for bin in shown) == pytest.approx(
            p.sum(), rel=1e-9
        )
        assert sum(bin["count"] * bin["accuracy"] for bin in shown) == pytest.approx(
            right.sum(), abs=1e-9
        )
        gap = sum(
            bin["count"] * abs(bin["mean_probability"] - bin["accuracy"]) for bin in shown
        ) / len(given)
        assert found["calibration"]["expected_calibration_error"] == pytest.approx(gap, rel=1e-9)


def check_separation(found: Json | None, rows: Sequence[Json]) -> None:
    """Compare the AUC of a slice with the share of pairs in the right order."""
    margins: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        if row["null_score"] is not None:
            margins[row["golds"] > 0].append(row["null_score"] - row["span_score"])
    pairs = list(product(margins[False], margins[True]))
    if not pairs:
        assert found is None
        return
    assert found is not None
    assert (found["answerable"], found["unanswerable"]) == (len(margins[True]), len(margins[False]))
    # Margins of one bin count as equal, so that a pair may count half more or less.
    near = sum(abs(high - low) < 0.01 for high, low in pairs)
    won = sum(high > low for high, low in pairs)
    assert abs(found["auc"] * len(pairs) - won) <= near / 2 + 1e-6


class TestRows:
    def test_every_row_is_there_in_its_place_with_its_own_columns(self, gold: Path, finished: Path):
        written = read_parts(finished)
        source = pa.concat_tables(
            [pq.ParquetFile(gold / name).read() for name in ("a.parquet", "b.parquet")]
        )
        assert written.column_names == [*source.column_names, *AUDIT_SCHEMA.names]
        for name in source.column_names:
            assert written.schema.field(name).type == source.schema.field(name).type
            assert written[name].to_pylist() == source[name].to_pylist()
        for field in AUDIT_SCHEMA:
            assert written.schema.field(field.name).type == field.type
        rows_of_parts = [int(path.stem.rsplit("-n", 1)[1]) for path in part_files(finished)]
        assert rows_of_parts == [7, 7, 6, 7, 7, 6, 7, 7, 1, 7, 4]  # groups of 20, 20, 15, 11

    def test_what_became_of_each_kind(self, finished: Path, null: str):
        for row in read_parts(finished).to_pylist():
            if row["why"]:
                assert (row["status"], row["reason"]) == ("rejected", row["why"])
                assert row["nll"] is row["prediction"] is row["pair_hash"] is None
            elif not row["answers"]["text"]:
                expected = (
                    ("null_scored", None) if null == "on" else ("unreachable", "no_null_option")
                )
                assert (row["status"], row["reason"]) == expected
                assert (row["nll"] is None) == (null == "off")
            elif row["answers"]["text"] == [row["context"]]:
                assert (row["status"], row["reason"]) in (
                    ("scored", "gold_too_long"),
                    ("unreachable", "gold_in_no_window"),
                )
                assert row["nll"] > 0
                assert row["gold_probability"] is row["gold_rank"] is None
            else:
                assert (row["status"], row["reason"]) == ("scored", None)
                # The first of the two is misaligned.
                assert row["golds_dropped"] == (len(row["answers"]["text"]) == 2)
                assert row["native_nll"] > 0

    def test_the_identity(self, finished: Path):
        """Rows read = scored + null scored + unreachable + rejected in all files of the run."""
        rows = read_manifest(finished)["rows"]
        assert rows == report(finished)["rows"]
        assert rows["planned"] == ROWS == sum(rows[status] for status in STATUSES)
        counted = Counter(read_parts(finished)["status"].to_pylist())
        assert {status: rows[status] for status in STATUSES} == {
            status: counted[status] for status in STATUSES
        }
        assert rows["in_failed_chunks"] == 0
        assert read_manifest(finished)["reasons"] == report(finished)["reasons"]
        assert report(finished)["reasons"] == dict(
            Counter(filter(None, read_parts(finished)["reason"].to_pylist()))
        )

    def test_rejections_are_listed(self, finished: Path):
        expected = [
            (row["id"], row["why"]) for row in read_parts(finished).to_pylist() if row["why"]
        ]
        assert len(expected) == 18
        found = read_rejections(finished)
        assert [(row["id"], row["reason"]) for row in found] == expected
        assert {row["stage"] for row in found} == {"MakeWindows"}
        assert all(row["message"] for row in found)

    def test_predictions_and_golds_are_places_in_the_context(self, finished: Path):
        rows = [row for row in read_parts(finished).to_pylist() if row["status"] != "rejected"]
        for row in rows:
            if row["prediction"]:
                assert (
                    row["prediction"]
                    == row["context"][row["prediction_start"] : row["prediction_end"]]
                )
            else:
                assert row["prediction_start"] is row["prediction_end"] is None
            if row["golds"]:
                kept = next(
                    text
                    for text, start in zip(
                        row["answers"]["text"], row["answers"]["answer_start"], strict=True
                    )
                    if row["context"][start:].startswith(text)
                )
                covered = row["context"][row["gold_start"] : row["gold_end"]]
                assert kept in covered
                assert len(covered) < len(kept) + 4  # tokens that reach beyond it: "lamp 12" of "1"
        assert (
            max(row["num_windows"] for row in rows) > 1 == min(row["num_windows"] for row in rows)
        )

    def test_the_probability_of_a_gold_in_one_window_is_at_least_its_likelihood(
        self, finished: Path
    ):
        """-log P(gold) = nll + log M with M <= 1 (design, section 5), but only for one window."""
        rows = [
            row
            for row in read_parts(finished).to_pylist()
            if row["num_windows"] == 1 and row["gold_probability"]
        ]
        assert len([row for row in rows if row["golds"]]) > 5
        for row in rows:
            assert row["gold_probability"] >= math.exp(-row["nll"]) * (1 - 1e-5)

    def test_the_gold_of_rank_one_is_the_best_span(self, finished: Path, null: str):
        for row in read_parts(finished).to_pylist():
            if row["gold_rank"] == 1:
                assert row["gold_probability"] == pytest.approx(row["probability"], rel=1e-5)
            elif row["golds"] and row["gold_probability"]:
                assert row["gold_probability"] <= row["probability"] * (1 + 1e-6)
            assert (row["null_probability"] is None) == (
                null == "off" or row["status"] == "rejected"
            )

    def test_min_and_marginals_are_no_more_than_the_first(self, finished: Path):
        rows = [row for row in read_parts(finished).to_pylist() if row["nll"] is not None]
        for row in rows:
            assert row["marginal_joint_nll"] <= row["min_nll"] + 1e-9 <= row["nll"] + 2e-9
            assert row["nll_half"] == pytest.approx(row["nll"] / 2)
            assert row["nll_per_token"] == pytest.approx(row["nll"] / row["num_tokens"])
        several = [row for row in rows if row["golds"] > 1]
        assert several
        assert all(row["marginal_joint_nll"] < row["nll"] for row in several)


class TestGrades:
    def test_exact_match_and_f1_are_those_of_torchmetrics(self, finished: Path):
        """Row by row, so that errors can't cancel; an unanswerable question has the gold ""."""
        for row in read_parts(finished).to_pylist():
            if row["status"] == "rejected":
                continue
            aligned = [
                text
                for text, start in zip(
                    row["answers"]["text"], row["answers"]["answer_start"], strict=True
                )
                if row["context"][start : start + len(text)] == text
            ] or [""]
            metric = SQuAD()
            metric.update(
                [{"prediction_text": row["prediction"], "id": "x"}],
                [{"answers": {"answer_start": [0] * len(aligned), "text": aligned}, "id": "x"}],
            )
            theirs = metric.compute()
            assert 100 * row["exact_match"] == pytest.approx(float(theirs["exact_match"]))
            assert 100 * row["f1"] == pytest.approx(float(theirs["f1"]), rel=1e-5)

    def test_some_rows_are_right_and_others_are_not(self, finished: Path, null: str):
        """Otherwise the comparison above and the calibration below would show little."""
        rows = [row for row in read_parts(finished).to_pylist() if row["status"] != "rejected"]
        assert {row["exact_match"] for row in rows} == {0, 1}
        assert any(0 < row["f1"] < 1 for row in rows)
        if null == "on":
            assert {(row["golds"] > 0, row["prediction"] != "") for row in rows} >= {
                (True, True),
                (True, False),
                (False, False),
            }


class TestFigures:
    def test_all_and_every_slice_are_those_of_the_parts(self, finished: Path):
        found = report(finished)
        rows = [row for row in read_parts(finished).to_pylist() if row["status"] != "rejected"]
        check_figures(found["all"], rows)

        def answer_range(row: Json) -> str:
            length = row["gold_end"] - row["gold_start"] if row["golds"] else None
            bounds = [(0, 4), (5, 9), (10, 19), (20, 39), (40, 79)]
            named = [
                f"{low:05d}-{high:05d}"
                for low, high in bounds
                if length is not None and low <= length <= high
            ]
            return "none" if length is None else named[0] if named else "00080+"

        def position(row: Json) -> str:
            return (
                f"{math.floor(5 * row['gold_start'] / len(row['context'])) + 1} of 5"
                if row["golds"]
                else "none"
            )

        labels: dict[str, Callable[[Json], str]] = {
            "source": lambda row: row["source"] or "(null)",
            "question_word": lambda row: question_word(row["question"]),
            "answerable": lambda row: "yes" if row["golds"] else "no",
            "num_windows": lambda row: "00000-00001" if row["num_windows"] == 1 else "00002-00004",
            "context_tokens": lambda row: "00000-00127",
            "answer_characters": answer_range,
            "answer_position": position,
        }
        assert found["slices"].keys() == labels.keys()
        for name, label in labels.items():
            groups = defaultdict(list)
            for row in rows:
                groups[label(row)].append(row)
            assert found["slices"][name].keys() == groups.keys(), name
            assert list(found["slices"][name]) == sorted(groups)
            for value, group in groups.items():
                check_figures(found["slices"][name][value], group)
        assert {"who", "when", "how many", "other"} == set(found["slices"]["question_word"])
        assert len(found["slices"]["num_windows"]) == 2

    def test_the_likely_tokens_of_the_highest_losses_agree_with_them(self, finished: Path):
        rows = {row["id"]: row for row in read_parts(finished).to_pylist()}
        seen = 0
        for example in report(finished)["highest_loss"]:
            tokens = example["likely_tokens"]
            row = rows[example["id"]]
            for name, place, side in (("start", 0, 2), ("end", 1, 3)):
                shares = {token[place]: token[side] for token in tokens if token[side]}
                assert sum(shares.values()) < 1 + 1e-4
                gold = shares.get(row[f"gold_{name}"])
                if gold is not None:
                    assert gold == pytest.approx(math.exp(-row[f"nll_{name}"]), abs=2e-6)
                    seen += 1
        assert seen

    def test_the_highest_losses(self, finished: Path):
        rows = [row for row in read_parts(finished).to_pylist() if row["nll"] is not None]
        expected = sorted(rows, key=lambda row: -row["nll"])[:9]
        found = report(finished)["highest_loss"]
        assert [example["id"] for example in found] == [row["id"] for row in expected]
        for example, row in zip(found, expected, strict=True):
            for name in (
                "nll",
                "nll_start",
                "nll_end",
                "probability",
                "gold_probability",
                "null_probability",
                "prediction",
                "f1",
            ):
                assert example[name] == row[name], name
            assert example["question"] == row["question"]
            number = int(row["id"].split()[1])
            assert example["row"] == (number if number < 40 else number - 40)
            assert Path(example["path"]).name == ("a.parquet" if number < 40 else "b.parquet")
            assert set(example["gold"]) <= {*row["answers"]["text"], row["context"][:300]}

    def test_golds_that_were_dropped_are_counted(self, finished: Path):
        source = read_parts(finished).to_pylist()
        dropped = sum((row["why"] or "").startswith("gold_") for row in source) + sum(
            len(row["answers"]["text"]) == 2 for row in source if not row["why"]
        )
        assert report(finished)["golds_dropped"] == dropped

    def test_the_fine_print_says_what_was_computed(self, finished: Path, null: str):
        printed = report(finished)["fine_print"]
        configuration = read_manifest(finished)["configuration"]
        assert printed["model_digest"] == configuration["model_digest"]
        assert len(printed["model_digest"]) == 64
        assert printed["null_option"] == null
        assert ("null option" in printed["normaliser"]) == (null == "on")
        assert printed["temperature"].startswith("1.0 ")
        assert "link softmax" in printed["objective"]
        assert "1 %" in printed["quantiles"]
        assert "tokens" in printed["support"]

    def test_hints_at_what_can_be_done(self, finished: Path, null: str):
        """The tiny checkpoint does not declare a trained null option."""
        found = report(finished)
        rows = found["reasons"].get("no_null_option", 0)
        told = [hint for hint in found["hints"] if "--null on gives them one" in hint]
        assert [hint.split()[0] for hint in told] == ([str(rows)] if null == "off" else [])
        assert all("must be trained in the checkpoint" in hint for hint in told)
        assert any(
            hint.startswith(f"{found['reasons']['gold_blank']} rows have a blank gold")
            for hint in found["hints"]
        )

    def test_no_figure_is_below_zero(self, finished: Path):
        """Nor is any -0.0: all are counts, losses, positions, probabilities or percentages."""

        def numbers(value: object) -> Iterable[float]:
            if isinstance(value, dict | list):
                for each in value.values() if isinstance(value, dict) else value:
                    yield from numbers(each)
            elif isinstance(value, int | float):
                yield value

        found = list(numbers(report(finished)))
        assert len(found) > 1000
        assert {math.copysign(1, number) for number in found} == {1}

    def test_they_are_printed(
        self, gold: Path, audit: Audit, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        assert audit(gold, output, *OPTIONS) == 0
        printed = capfd.readouterr().out
        found = report(output)["all"]
        rows = read_manifest(output)["rows"]
        scored, unreachable = rows["scored"], rows["unreachable"]
        counts = f"{scored} scored + 0 null scored + {unreachable} unreachable + 18 rejected"
        assert f"audit: {ROWS} rows = {counts} + 0 in failed chunks" in printed
        assert "  gold_misaligned: 6" in printed
        assert f"nll: mean {found['losses']['nll']['mean']:.4f} +- " in printed
        assert f"EM {found['exact_match']['percent']:.2f} [" in printed
        assert "calibration error " in printed
        assert f"AURC {found['risk_coverage']['aurc']:.4f}, coverage by precision: " in printed
        assert "question/context pairs occur more than once" in printed
        names = {path.name for path in output.iterdir()}
        assert names >= {
            "audit.json",
            "duplicates.json",
            "manifest.json",
            "parts",
            "rejections",
            "run.json",
        }
