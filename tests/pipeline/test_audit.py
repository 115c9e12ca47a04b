"""Whole audits: what was asked for on the command line is compared with what is reopened from the output."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torchmetrics.text import SQuAD

from model.audit import AUDIT_SCHEMA
from model.columns import ANSWER_SCHEMA
from model.distributions import QUANTILES, RELATIVE_ACCURACY
from model.slices import question_word
from model.statistics import LOSSES
from tests.runs import examples, identities, part_files, read_manifest, read_parts, read_rejections, run, write_input

ROWS = 66
STATUSES = ("scored", "null_scored", "unreachable", "rejected")

WINDOWS = ("--max_length=64", "--max_question=16", "--max_answer_length=8", "--overlap=10")
"""Contexts need one window or more."""

OPTIONS = (
    *WINDOWS,
    "--null_score_diff_threshold=-11",  # so that the untrained checkpoint decides for no answer now and then
    "--chunk_rows=7",  # divides no row group
    "--worst=9",
    "--slice_by=source",
)

ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])

Audit = Callable[..., int]
Json = dict[str, Any]


def golds_of(number: int, context: str) -> tuple[Any, str | None]:
    """The answers of a row, and why they are rejected, if they are: eleven kinds in turn."""

    def places(*pairs: tuple[str, int]) -> Json:
        return {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}

    ada = "Ada", context.index("Ada")
    malformed = [
        (None, "answers_missing"),
        ({"text": None, "answer_start": [1]}, "answers_missing"),
        ({"text": ["Ada", None], "answer_start": [1, 2]}, "answers_with_nulls"),
        ({"text": ["Ada"], "answer_start": [1, 2]}, "answers_unequal"),
        (places(("", 3)), "gold_blank"),
        (places(("Ada", -3)), "gold_out_of_range"),
        (places(("Ada", len(context) - 1)), "gold_out_of_range"),
    ]
    kinds = [
        (places(ada), None),
        (places(ada, ("keeper Ada", ada[1] - 7), ada), None),
        (places(("🌊", context.index("🌊"))), None),
        (places(), None),
        (places(("Ada", ada[1] + 1)), "gold_misaligned"),
        (places(("Ada", 0), ("lit", context.index("lit"))), None),  # one of two is misaligned
        malformed[number // 11 % len(malformed)],
        (places((context, 0)), None),  # longer than max_answer_length, where not longer than a window
        (places(("灯台", context.index("灯台"))), None),
        (places(ada), "question_missing"),
        (places(("keeper", ada[1] - 7)), None),
    ]
    return kinds[number % 11]


def gold_examples(count: int, first: int = 0) -> pa.Table:
    """Rows of all kinds; contexts of two lengths, questions of several words, one column to slice by."""
    table = examples(count, first)
    numbers = range(first, first + count)
    contexts = [
        text + (" It was a long, long night of wind." * 4 if n % 4 else "")
        for n, text in zip(numbers, table["context"].to_pylist(), strict=True)
    ]
    words = ("Who kept", "When was", "How many oars had", "Name")
    kinds = [golds_of(n, context) for n, context in zip(numbers, contexts, strict=True)]
    questions = [
        None if reason == "question_missing" else f"{words[n % 4]} lamp {n}?"
        for n, (_, reason) in zip(numbers, kinds, strict=True)
    ]
    return pa.table(
        {
            "id": table["id"],
            "source": [None if n % 13 == 0 else f"book {n % 3}" for n in numbers],
            "question": pa.array(questions, pa.string()),
            "context": contexts,
            "answers": pa.array([answers for answers, _ in kinds], ANSWERS),
            "why": pa.array([reason for _, reason in kinds], pa.string()),
        }
    )


@pytest.fixture(scope="module")
def audit(bert_folder: Path) -> Audit:
    """Runs a stage with the tiny checkpoint: `audit(input, output, *options, stage="audit")` is the exit code."""

    def run_audit(inputs: Path | str, output: Path | str, *options: str, stage: str = "audit") -> int:
        arguments = (f"--input={inputs}", f"--output={output}", f"--model={bert_folder}", "--dtype=float32")
        return run(stage, *arguments, *options)

    return run_audit


@pytest.fixture(scope="module")
def gold(audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, in row groups of 20 and of 15 rows.

    An untrained checkpoint is never right: rows of the last kind get what it answers as their gold.
    """
    folder = tmp_path_factory.mktemp("gold")
    table = gold_examples(ROWS)
    write_input(folder / "first.parquet", table)
    assert audit(folder / "first.parquet", folder / "answers", *WINDOWS, stage="annotate") == 0
    answers = table["answers"].to_pylist()
    for row in read_parts(folder / "answers").to_pylist()[10::11]:
        number = int(row["id"].split()[1])
        answers[number] = {"text": [row["answer_text"]], "answer_start": [row["answer_start"]]}
    table = table.set_column(table.column_names.index("answers"), "answers", pa.array(answers, ANSWERS))
    write_input(folder / "in" / "a.parquet", table.slice(0, 40), row_group_size=20)
    write_input(folder / "in" / "b.parquet", table.slice(40), row_group_size=15)
    return folder / "in"


@pytest.fixture(scope="module", params=["off", "on"])
def null(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def finished(gold: Path, audit: Audit, null: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an audit, without and with the null option; nobody changes it."""
    output = tmp_path_factory.mktemp(f"null-{null}") / "out"
    assert audit(gold, output, f"--null={null}", *OPTIONS) == 0
    return output


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def report(output: Path) -> Json:
    """audit.json; a NaN or an infinity in it would be no JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in audit.json")

    return json.loads((output / "audit.json").read_text("utf-8"), parse_constant=refuse)


def same_figures(found: Any, expected: Any, path: str = "", sums: float = 1e-9) -> None:
    """Counts, texts, extremes and quantiles to the last digit; what comes from sums within `sums`."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for name in expected:
            same_figures(found[name], expected[name], f"{path}.{name}", sums)
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for k, (one, other) in enumerate(zip(found, expected, strict=True)):
            same_figures(one, other, f"{path}[{k}]", sums)
    elif isinstance(expected, float) and path.rsplit(".", 1)[-1] not in ("min", "max", "p50", "p90", "p95", "p99"):
        assert found == pytest.approx(expected, rel=sums, abs=sums), path
    else:
        assert found == expected, path


def same_rows(found: pa.Table, expected: pa.Table) -> None:
    """Equal schemas, equal values in columns without floats, floats within 1e-6."""
    assert found.schema == expected.schema
    for name in expected.column_names:
        if pa.types.is_floating(expected.schema.field(name).type):
            assert found[name].is_null().equals(expected[name].is_null()), name
            one, other = (np.array(table[name].drop_null().to_pylist()) for table in (found, expected))
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6, err_msg=name)
        elif name == "n_best":
            assert [[c["text"] for c in row or []] for row in found[name].to_pylist()] == [
                [c["text"] for c in row or []] for row in expected[name].to_pylist()
            ]
        else:
            assert found[name].to_pylist() == expected[name].to_pylist(), name


def check_figures(found: Json, rows: Iterable[Json]) -> None:
    """One slice's figures against plain sums over its rows."""
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
            assert loss["standard_error"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), rel=1e-6, abs=1e-9)
        for q in QUANTILES:
            exact = np.quantile(values, q, method="lower")
            assert loss[f"p{round(100 * q)}"] == pytest.approx(exact, rel=RELATIVE_ACCURACY)
    for side in ("start", "end"):
        if found["losses"][f"nll_{side}"]["count"]:
            assert found[f"perplexity_{side}"] == pytest.approx(math.exp(found["losses"][f"nll_{side}"]["mean"]))
    assert found["exact_match"]["percent"] == pytest.approx(100 * np.mean([row["exact_match"] for row in rows]))
    assert found["f1"]["percent"] == pytest.approx(100 * np.mean([row["f1"] for row in rows]))
    for score in ("exact_match", "f1"):
        low, high = found[score]["interval"]
        assert low - 1e-9 <= found[score]["percent"] <= high + 1e-9
    agree = [(row["golds"] > 0) == (row["prediction"] != "") for row in rows]
    assert found["answerability_accuracy"] == pytest.approx(100 * np.mean(agree))
    given = [(row["probability"], row["exact_match"]) for row in rows if row["prediction"]]
    assert found["calibration"]["count"] == len(given)
    if given:
        p, right = np.array(given).T
        assert found["calibration"]["brier"] == pytest.approx(np.mean((p - right) ** 2), rel=1e-9)
        shown = found["calibration"]["reliability"]
        assert sum(bin["count"] for bin in shown) == len(given)
        assert sum(bin["count"] * bin["mean_probability"] for bin in shown) == pytest.approx(p.sum(), rel=1e-9)
        assert sum(bin["count"] * bin["accuracy"] for bin in shown) == pytest.approx(right.sum(), abs=1e-9)
        gap = sum(bin["count"] * abs(bin["mean_probability"] - bin["accuracy"]) for bin in shown) / len(given)
        assert found["calibration"]["expected_calibration_error"] == pytest.approx(gap, rel=1e-9)


class TestRows:
    def test_every_row_is_there_in_its_place_with_its_own_columns(self, gold: Path, finished: Path):
        written = read_parts(finished)
        source = pa.concat_tables([pq.ParquetFile(gold / name).read() for name in ("a.parquet", "b.parquet")])
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
                expected = ("null_scored", None) if null == "on" else ("unreachable", "no_null_option")
                assert (row["status"], row["reason"]) == expected
                assert (row["nll"] is None) == (null == "off")
            elif row["answers"]["text"] == [row["context"]]:
                assert (row["status"], row["reason"]) in (("scored", "gold_too_long"), ("unreachable", "gold_in_no_window"))
                assert row["nll"] > 0
                assert row["gold_probability"] is row["gold_rank"] is None
            else:
                assert (row["status"], row["reason"]) == ("scored", None)
                assert row["golds_dropped"] == (len(row["answers"]["text"]) == 2)  # the first of the two is misaligned
                assert row["native_nll"] > 0

    def test_the_identity(self, finished: Path):
        """Rows read = scored + null scored + unreachable + rejected, in the manifest, in audit.json and in the parts."""
        rows = read_manifest(finished)["rows"]
        assert rows == report(finished)["rows"]
        assert rows["planned"] == ROWS == sum(rows[status] for status in STATUSES)
        counted = Counter(read_parts(finished)["status"].to_pylist())
        assert {status: rows[status] for status in STATUSES} == {status: counted[status] for status in STATUSES}
        assert rows["in_failed_chunks"] == 0
        assert read_manifest(finished)["reasons"] == report(finished)["reasons"]
        assert report(finished)["reasons"] == dict(Counter(filter(None, read_parts(finished)["reason"].to_pylist())))

    def test_rejections_are_listed(self, finished: Path):
        expected = [(row["id"], row["why"]) for row in read_parts(finished).to_pylist() if row["why"]]
        assert len(expected) == 18
        found = read_rejections(finished)
        assert [(row["id"], row["reason"]) for row in found] == expected
        assert {row["stage"] for row in found} == {"MakeWindows"}
        assert all(row["message"] for row in found)

    def test_predictions_and_golds_are_places_in_the_context(self, finished: Path):
        rows = [row for row in read_parts(finished).to_pylist() if row["status"] != "rejected"]
        for row in rows:
            if row["prediction"]:
                assert row["prediction"] == row["context"][row["prediction_start"] : row["prediction_end"]]
            else:
                assert row["prediction_start"] is row["prediction_end"] is None
            if row["golds"]:
                kept = next(
                    text
                    for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
                    if row["context"][start:].startswith(text)
                )
                covered = row["context"][row["gold_start"] : row["gold_end"]]
                assert kept in covered
                assert len(covered) < len(kept) + 4  # tokens that reach beyond it: "lamp 12" of "1"
        assert max(row["num_windows"] for row in rows) > 1 == min(row["num_windows"] for row in rows)

    def test_the_probability_of_a_gold_in_one_window_is_at_least_its_likelihood(self, finished: Path):
        """-log P(gold) = nll + log M with M <= 1, design section 5; several windows promise no such thing."""
        rows = [row for row in read_parts(finished).to_pylist() if row["num_windows"] == 1 and row["gold_probability"]]
        assert len([row for row in rows if row["golds"]]) > 5
        for row in rows:
            assert row["gold_probability"] >= math.exp(-row["nll"]) * (1 - 1e-5)

    def test_the_gold_of_rank_one_is_the_best_span(self, finished: Path, null: str):
        for row in read_parts(finished).to_pylist():
            if row["gold_rank"] == 1:
                assert row["gold_probability"] == pytest.approx(row["probability"], rel=1e-5)
            elif row["golds"] and row["gold_probability"]:
                assert row["gold_probability"] <= row["probability"] * (1 + 1e-6)
            assert (row["null_probability"] is None) == (null == "off" or row["status"] == "rejected")

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
        """Row by row, so that no two errors cancel; an unanswerable question has the one gold "" there."""
        for row in read_parts(finished).to_pylist():
            if row["status"] == "rejected":
                continue
            aligned = [
                text
                for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
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
        """Else the comparison above would say little, and the calibration below."""
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
            named = [f"{low:05d}-{high:05d}" for low, high in bounds if length is not None and low <= length <= high]
            return "none" if length is None else named[0] if named else "00080+"

        def position(row: Json) -> str:
            return f"{math.floor(5 * row['gold_start'] / len(row['context'])) + 1} of 5" if row["golds"] else "none"

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

    def test_they_are_printed(self, gold: Path, audit: Audit, output: Path, capfd: pytest.CaptureFixture[str]):
        assert audit(gold, output, *OPTIONS) == 0
        printed = capfd.readouterr().out
        found = report(output)["all"]
        rows = read_manifest(output)["rows"]
        counts = f"{rows['scored']} scored + 0 null scored + {rows['unreachable']} unreachable + 18 rejected"
        assert f"audit: {ROWS} rows = {counts} + 0 in failed chunks" in printed
        assert "  gold_misaligned: 6" in printed
        assert f"nll: mean {found['losses']['nll']['mean']:.4f} +- " in printed
        assert f"EM {found['exact_match']['percent']:.2f} [" in printed
        assert "calibration error " in printed
        assert "question/context pairs stand in it more than once" in printed
        names = {path.name for path in output.iterdir()}
        assert names >= {"audit.json", "duplicates.json", "manifest.json", "parts", "rejections", "run.json"}


class TestAnnotateWithAudit:
    @pytest.fixture(scope="class")
    def both(self, gold: Path, audit: Audit, null: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
        output = tmp_path_factory.mktemp("both") / "out"
        assert audit(gold, output, "--audit", f"--null={null}", *OPTIONS, stage="annotate") == 0
        return output

    def test_the_audit_is_the_one_that_runs_apart(self, both: Path, finished: Path):
        same_rows(read_parts(both / "audit"), read_parts(finished))
        assert [path.name for path in part_files(both / "audit")] == [path.name for path in part_files(finished)]
        assert read_rejections(both / "audit") == read_rejections(finished)
        same_figures(report(both / "audit"), report(finished), sums=1e-6)
        assert json.loads((both / "audit" / "run.json").read_text()) == json.loads((finished / "run.json").read_text())
        assert (both / "audit" / "duplicates.json").read_text() == (finished / "duplicates.json").read_text()

    def test_the_annotation_is_the_one_that_runs_apart(self, gold: Path, audit: Audit, null: str, both: Path, tmp_path: Path):
        options = [option for option in OPTIONS if not option.startswith(("--worst", "--slice_by"))]
        assert audit(gold, tmp_path / "alone", f"--null={null}", *options, stage="annotate") == 0
        same_rows(read_parts(both), read_parts(tmp_path / "alone"))
        assert read_parts(both).column_names[-len(ANSWER_SCHEMA) :] == ANSWER_SCHEMA.names
        assert read_rejections(both) == read_rejections(tmp_path / "alone")
        assert json.loads((both / "run.json").read_text()) == json.loads((tmp_path / "alone" / "run.json").read_text())
        self.same_manifest(both, tmp_path / "alone")

    def test_so_are_the_figures_of_the_manifest(self, both: Path, finished: Path):
        self.same_manifest(both / "audit", finished)

    def same_manifest(self, one: Path, other: Path) -> None:
        found, expected = read_manifest(one), read_manifest(other)
        for manifest in (found, expected):
            manifest.pop("steps")  # times
        assert found == expected

    def test_a_run_of_both_goes_on_with_what_one_of_them_has_done(self, gold: Path, audit: Audit, output: Path):
        """A chunk is done if both have their part: here annotate's are all there, and the audit's are not."""
        arguments = ("--audit", *OPTIONS)
        assert audit(gold, output, *arguments, stage="annotate") == 0
        expected, figures = read_parts(output / "audit"), report(output / "audit")
        shutil.rmtree(output / "audit" / "parts")
        assert audit(gold, output, *arguments, stage="annotate") == 0
        same_rows(read_parts(output / "audit"), expected)
        same_figures(report(output / "audit"), figures)
        assert read_manifest(output)["rows"]["planned"] == ROWS


class TestTheSameFigures:
    def test_a_rerun_skips_what_is_committed(self, gold: Path, audit: Audit, output: Path, null: str, finished: Path):
        shutil.copytree(finished, output)
        before, figures = identities(output), report(output)
        assert audit(gold, output, f"--null={null}", *OPTIONS) == 0
        assert identities(output) == before
        assert report(output) == figures  # the receipts hold all there is to merge
        assert read_manifest(output)["state"] == "complete"

    def test_a_resumed_run_has_the_figures_of_an_uninterrupted_one(
        self, gold: Path, audit: Audit, output: Path, null: str, finished: Path
    ):
        shutil.copytree(finished, output)
        kept = identities(output)
        for path in part_files(output)[1::2]:
            path.unlink()
            kept.pop(path.name)
        for name in ("manifest.json", "audit.json", "duplicates.json"):
            (output / name).unlink()
        assert audit(gold, output, f"--null={null}", *OPTIONS) == 0
        assert kept.items() <= identities(output).items()
        same_rows(read_parts(output), read_parts(finished))
        same_figures(report(output), report(finished))
        assert read_manifest(output)["content"] == read_manifest(finished)["content"]
        assert (output / "duplicates.json").read_text() == (finished / "duplicates.json").read_text()

    def test_two_processes_have_the_figures_of_one(self, gold: Path, audit: Audit, output: Path, null: str, finished: Path):
        """Batches depend on the chunk alone, and so small a network rounds alike for any number of threads."""
        ways = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
        assert audit(gold, output, f"--null={null}", *OPTIONS, *ways) == 0
        same_rows(read_parts(output), read_parts(finished))
        same_figures(report(output), report(finished))
        assert read_manifest(output)["content"] == read_manifest(finished)["content"]

    def test_other_chunks_have_the_same_figures(self, gold: Path, audit: Audit, output: Path, finished: Path, null: str):
        """Other batches round logits otherwise: sums agree within 1e-5, and a quantile may leave its bin."""
        options = [option for option in OPTIONS if not option.startswith("--chunk_rows")]
        assert audit(gold, output, f"--null={null}", "--chunk_rows=1000", *options) == 0
        assert len(part_files(output)) == 4  # one per row group
        found, expected = report(output), report(finished)
        assert found["rows"] == expected["rows"]
        assert found["reasons"] == expected["reasons"]
        assert found["fine_print"] == expected["fine_print"]
        pairs = [(found["all"], expected["all"])]
        for name, values in expected["slices"].items():
            assert found["slices"][name].keys() == values.keys()
            pairs += [(found["slices"][name][value], part) for value, part in values.items()]
        for one, other in pairs:
            assert one["rows"] == other["rows"]
            assert one["exact_match"] == other["exact_match"]
            assert one["calibration"]["count"] == other["calibration"]["count"]
            for name, loss in other["losses"].items():
                assert one["losses"][name]["count"] == loss["count"]
                if loss["count"]:
                    for figure in ("mean", "min", "max"):
                        assert one["losses"][name][figure] == pytest.approx(loss[figure], rel=1e-5, abs=1e-5)
                    for q in ("p50", "p90", "p95", "p99"):
                        assert one["losses"][name][q] == pytest.approx(loss[q], rel=2.1 * RELATIVE_ACCURACY)
        assert [example["id"] for example in found["highest_loss"]] == [example["id"] for example in expected["highest_loss"]]

    def test_one_row_per_chunk_has_no_more_highest_losses_than_one_chunk(self, audit: Audit, tmp_path: Path):
        source = write_input(tmp_path / "a.parquet", gold_examples(11))
        for rows in (1, 100):
            assert audit(source, tmp_path / str(rows), "--worst=2", f"--chunk_rows={rows}") == 0
        one, other = (report(tmp_path / rows)["highest_loss"] for rows in ("1", "100"))
        assert [example["id"] for example in one] == [example["id"] for example in other]
        assert len(one) == 2


class TestRefusals:
    def refused(self, code: int, output: Path, capfd: pytest.CaptureFixture[str]) -> str:
        assert code == 2
        assert not output.exists()
        return capfd.readouterr().err

    def test_no_answers_column(self, audit: Audit, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]):
        write_input(tmp_path / "a.parquet", examples(3))
        message = self.refused(audit(tmp_path / "a.parquet", output), output, capfd)
        assert "--answers_column=answers" in message
        assert "id, question, context" in message  # what there is

    def test_annotate_with_audit_needs_it_too(
        self, audit: Audit, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        write_input(tmp_path / "a.parquet", examples(3))
        code = audit(tmp_path / "a.parquet", output, "--audit", stage="annotate")
        assert "--answers_column=answers" in self.refused(code, output, capfd)

    @pytest.mark.parametrize(
        "answers",
        [
            [[{"text": "Ada", "answer_start": 27}]] * 3,  # the nesting of tools that write JSON rows
            ["Ada"] * 3,
            [["Ada"]] * 3,
            [{"text": "Ada", "answer_start": 27}] * 3,
            [{"text": ["Ada"], "answer_start": ["27"]}] * 3,
            [{"text": ["Ada"]}] * 3,
            [{"text": ["Ada"], "answer_start": [27.0]}] * 3,
            [None] * 3,
        ],
    )
    def test_wrong_nesting_in_the_first_file(
        self, audit: Audit, tmp_path: Path, output: Path, answers: list[Any], capfd: pytest.CaptureFixture[str]
    ):
        write_input(tmp_path / "a.parquet", examples(3).append_column("answers", pa.array(answers)))
        message = self.refused(audit(tmp_path / "a.parquet", output), output, capfd)
        assert "--answers_column=answers" in message
        assert "not struct<text: list<string>, answer_start: list<int32>>" in message

    def test_wrong_nesting_in_a_later_file(self, audit: Audit, tmp_path: Path, output: Path):
        folder = tmp_path / "in"
        write_input(folder / "a.parquet", gold_examples(4))
        nested = [[{"text": "Ada", "answer_start": 27}]] * 3
        write_input(folder / "b.parquet", examples(3).append_column("answers", pa.array(nested)))
        write_input(folder / "c.parquet", examples(3))
        write_input(folder / "d.parquet", gold_examples(2, 50))
        assert audit(folder, output, "--keep_columns=id") == 1
        manifest = read_manifest(output)
        assert manifest["state"] == "incomplete"
        assert manifest["why"] == ["2 files were refused"]
        causes = {Path(failure["path"]).name: failure["error"] for failure in manifest["failures"]}
        assert set(causes) == {"b.parquet", "c.parquet"}
        assert "column 'answers' is list<" in causes["b.parquet"]
        assert "column 'answers' is missing" in causes["c.parquet"]
        assert report(output)["rows"]["planned"] == 6
        assert read_parts(output)["id"].to_pylist() == [f"row {n}" for n in (0, 1, 2, 3, 50, 51)]

    def test_slices_by_a_column_that_is_not_there(
        self, audit: Audit, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        write_input(tmp_path / "a.parquet", gold_examples(3))
        message = self.refused(audit(tmp_path / "a.parquet", output, "--slice_by=source,sauce"), output, capfd)
        assert "--slice_by" in message
        assert "'sauce'" in message
        assert "source" in message

    def test_a_clash_with_a_column_of_the_audit(
        self, audit: Audit, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        write_input(tmp_path / "a.parquet", gold_examples(3).append_column("nll", pa.array([1.0, 2, 3])))
        message = self.refused(audit(tmp_path / "a.parquet", output), output, capfd)
        assert "the output column 'nll' is an input column already" in message
        assert audit(tmp_path / "a.parquet", output, "--output_prefix=qa_") == 0
        assert read_parts(output)["nll"].to_pylist() == [1, 2, 3]
        assert read_parts(output)["qa_nll"].null_count == 0


class TestInputsOfOtherKinds:
    def test_columns_of_other_names_and_types(self, audit: Audit, tmp_path: Path, output: Path):
        """Names of one's own, long starts, large lists, no ids, and a prefix."""
        table = gold_examples(11).drop_columns(["id"])
        wide = pa.struct([("answer_start", pa.large_list(pa.int64())), ("text", pa.large_list(pa.large_string()))])
        answers = pa.array(table["answers"].to_pylist(), wide)
        table = table.set_column(table.column_names.index("answers"), "answers", answers)
        renamed = table.rename_columns({"answers": "gold", "question": "ask", "context": "passage"})
        write_input(tmp_path / "a.parquet", renamed)
        write_input(tmp_path / "b.parquet", gold_examples(11))
        columns = ("--answers_column=gold", "--question_column=ask", "--context_column=passage", "--output_prefix=qa_")
        assert audit(tmp_path / "a.parquet", output, *columns) == 0
        assert audit(tmp_path / "b.parquet", tmp_path / "plain") == 0
        found, plain = read_parts(output), read_parts(tmp_path / "plain")
        assert found["id"].to_pylist() == [f"a.parquet:0:{row}" for row in range(11)]
        for name in AUDIT_SCHEMA.names:
            assert found[f"qa_{name}"].to_pylist() == plain[name].to_pylist(), name
        assert report(output)["highest_loss"][0]["id"].startswith("a.parquet:0:")

    def test_ids_that_are_not_kept(self, audit: Audit, tmp_path: Path, output: Path):
        """The second graph has to do without them."""
        write_input(tmp_path / "a.parquet", pa.concat_tables([gold_examples(2), gold_examples(2)]))
        assert audit(tmp_path / "a.parquet", output, "--keep_columns=source") == 0
        assert read_parts(output).column_names == ["source", *AUDIT_SCHEMA.names]
        found = json.loads((output / "duplicates.json").read_text())
        (name,) = (path.name for path in part_files(output))
        assert sorted(entry["ids"] for entry in found["repeated"]) == [
            [f"{name}:0", f"{name}:2"],
            [f"{name}:1", f"{name}:3"],
        ]

    @pytest.mark.parametrize("ids", [[b"\xff", b"\xfe", b"c"], [1, 2, 3], [1.5, 2.5, 3.5], [None, None, None]])
    def test_ids_of_other_types(self, audit: Audit, tmp_path: Path, output: Path, ids: list[Any]):
        column = pa.array(ids)
        write_input(tmp_path / "a.parquet", gold_examples(3).set_column(0, "id", column))
        assert audit(tmp_path / "a.parquet", output) == 0
        assert read_manifest(output)["rows"]["scored"] == 3
        shown = {example["id"] for example in report(output)["highest_loss"]}
        assert shown == {None if each is None else str(each) for each in ids}

    def test_zero_rows(self, audit: Audit, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]):
        write_input(tmp_path / "a.parquet", gold_examples(3).slice(0, 0))
        assert audit(tmp_path / "a.parquet", output) == 0
        assert report(output)["all"]["rows"] == 0
        assert report(output)["highest_loss"] == []
        assert json.loads((output / "duplicates.json").read_text())["repeated_pairs"] == 0
        assert "0 rows = 0 scored" in capfd.readouterr().out

    def test_nothing_but_rejections_is_no_success(self, audit: Audit, tmp_path: Path, output: Path):
        table = gold_examples(4)
        place = table.column_names.index("answers")
        write_input(tmp_path / "a.parquet", table.set_column(place, "answers", pa.array([None] * 4, ANSWERS)))
        assert audit(tmp_path / "a.parquet", output) == 1
        assert report(output)["rows"]["rejected"] == 4
        assert report(output)["reasons"] == {"answers_missing": 4}
        assert read_manifest(output)["why"] == ["4 of 4 rows were rejected or failed, more than --max_failed_fraction=0.5"]
