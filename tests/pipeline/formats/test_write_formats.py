"""Runs in other formats: round trips, and official scores that equal the audit's."""

from __future__ import annotations

import json
import math
import shutil
from datetime import date
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model import SpanReader
from pipeline.bundled import SAMPLE
from pipeline.convert import main
from pipeline.formats.imported_rows import FileLayout
from pipeline.formats.read_squad import read_squad
from tests.pipeline.squad_rules import score
from tests.runs import examples, read_parts, run, write_input


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotate and audit a part of the sample with the bundled reader.

    Half of the questions have no answer, and no row is rejected.
    """
    folder = tmp_path_factory.mktemp("audited")
    sample = pq.read_table(SAMPLE)
    table = sample.take(list(range(102, 222, 6))).rename_columns(
        ["id", "title", "question", "context", "answers"]
    )
    source = write_input(folder / "gold.parquet", table)
    answers = SpanReader.load(null="on").answer(
        *(table.column(name).to_pylist() for name in ("question", "context"))
    )
    threshold = median((answer.null_score or 0) - (answer.span_score or 0) for answer in answers)
    options = ("--null=on", f"--null_score_diff_threshold={threshold}", "--chunk_rows=9")
    assert run("annotate", "--audit", f"--input={source}", f"--output={folder}/out", *options) == 0
    return folder


def export(output: Path, to: Path, *options: str) -> int:
    return main(["export", f"--run={output}", f"--output={to}", *options])


def test_scores_of_an_exported_run_equal_those_of_the_audit(audited: Path, tmp_path: Path):
    assert export(audited / "out", tmp_path, "--format=predictions") == 0
    assert (
        export(audited / "out", tmp_path / "gold.json", "--format=squad", "--answers=answers") == 0
    )
    files = [
        json.loads((tmp_path / name).read_text("utf-8"))
        for name in ("gold.json", "predictions.json", "na_prob.json")
    ]
    official = score(*files)
    everything = json.loads((audited / "out" / "audit" / "audit.json").read_text())["all"]
    assert official["exact"] == pytest.approx(everything["exact_match"]["percent"], abs=1e-4)
    assert official["f1"] == pytest.approx(everything["f1"]["percent"], abs=1e-4)
    assert 0 < official["exact"] < official["f1"] < 100

    rows = read_parts(audited / "out").to_pylist()
    assert files[1] == {row["id"]: row["answer_text"] or "" for row in rows}
    assert files[2] == pytest.approx({row["id"]: row["null_probability"] for row in rows})
    assert {row["status"] for row in rows} == {"answered", "no_answer"}


def test_golds_make_the_round_trip(audited: Path, tmp_path: Path):
    assert (
        export(audited / "out", tmp_path / "gold.json", "--format=squad", "--answers=answers") == 0
    )
    assert (
        main(["import", f"--input={tmp_path}/gold.json", f"--output={tmp_path}/gold.parquet"]) == 0
    )
    again, before = (
        pq.read_table(tmp_path / "gold.parquet"),
        pq.read_table(audited / "gold.parquet"),
    )
    assert again.select(before.column_names).to_pylist() == before.to_pylist()


def test_golds_as_a_list_of_structs_make_the_same_squad_json(
    audited: Path, bert_folder: Path, tmp_path: Path
):
    table = pq.read_table(audited / "gold.parquet")
    listed = [
        [
            {"text": text, "answer_start": start}
            for text, start in zip(each["text"], each["answer_start"], strict=True)
        ]
        for each in table["answers"].to_pylist()
    ]
    table = table.set_column(table.column_names.index("answers"), "answers", pa.array(listed))
    source = write_input(tmp_path / "listed.parquet", table)
    assert (
        run("annotate", f"--input={source}", f"--output={tmp_path}/out", f"--model={bert_folder}")
        == 0
    )
    for name, output in (("listed", tmp_path / "out"), ("gold", audited / "out")):
        assert export(output, tmp_path / f"{name}.json", "--format=squad", "--answers=answers") == 0
    assert (tmp_path / "listed.json").read_bytes() == (tmp_path / "gold.json").read_bytes()


def test_rows_make_the_round_trip_through_json_lines(audited: Path, tmp_path: Path):
    assert export(audited / "out", tmp_path / "rows.jsonl", "--format=jsonl") == 0
    assert (
        main(["import", f"--input={tmp_path}/rows.jsonl", f"--output={tmp_path}/rows.parquet"]) == 0
    )
    again, before = pq.read_table(tmp_path / "rows.parquet"), read_parts(audited / "out")
    assert again.select(before.column_names).to_pylist() == before.to_pylist()


def test_predicted_answers_are_a_file_of_golds(
    audited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert export(audited / "out", tmp_path / "silver.json", "--format=squad") == 0
    assert "20 questions" in capsys.readouterr().out
    with open(tmp_path / "silver.json", "rb") as file:
        found = {example.id: example.golds for example in read_squad(file, FileLayout())}
    for row in read_parts(audited / "out").to_pylist():
        assert found[row["id"]] == (
            [(row["answer_text"], row["answer_start"])] if row["status"] == "answered" else []
        )


def test_consecutive_rows_share_articles_and_paragraphs(audited: Path, tmp_path: Path):
    assert (
        export(audited / "out", tmp_path / "gold.json", "--format=squad", "--answers=answers") == 0
    )
    rows = read_parts(audited / "out").to_pylist()
    data = json.loads((tmp_path / "gold.json").read_text("utf-8"))["data"]
    changes = [
        row["title"]
        for row, last in zip(rows, [{"title": None}, *rows], strict=False)
        if row["title"] != last["title"]
    ]
    assert [article["title"] for article in data] == changes
    paragraphs = [paragraph for article in data for paragraph in article["paragraphs"]]
    assert len(paragraphs) == len({(row["title"], row["context"]) for row in rows}) < len(rows)


class TestJsonLines:
    def test_all_columns_of_any_type(self, bert_folder: Path, tmp_path: Path):
        table = examples(3).set_column(1, "question", pa.array(["Who?", None, "Who?"]))
        others: dict[str, Any] = {
            "price": pa.array([Decimal("1.5")] * 3),
            "day": pa.array([date(2026, 1, 2)] * 3),
            "raw": pa.array([b"\xff"] * 3),
            "weight": pa.array([math.nan, math.inf, 1.0]),
            "tags": pa.array([[("a", 1)], None, []], pa.map_("str", "int32")),
        }
        for name, column in others.items():
            table = table.append_column(name, column)
        source = write_input(tmp_path / "a.parquet", table)
        assert (
            run(
                "annotate",
                f"--input={source}",
                f"--output={tmp_path}/out",
                f"--model={bert_folder}",
            )
            == 0
        )
        assert export(tmp_path / "out", tmp_path / "rows.jsonl", "--format=jsonl") == 0
        lines = [
            json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()
        ]
        for line, row in zip(lines, read_parts(tmp_path / "out").to_pylist(), strict=True):
            assert list(line) == list(row)
            for name in (
                "id",
                "question",
                "context",
                "answer_text",
                "probability",
                "status",
                "reason",
                "n_best",
            ):
                assert line[name] == row[name]
        assert [line["weight"] for line in lines] == [None, None, 1.0]
        assert (lines[0]["price"], lines[0]["day"], lines[0]["raw"], lines[0]["tags"]) == (
            "1.5",
            "2026-01-02",
            "ff",
            [["a", 1]],
        )


class TestRejectedRows:
    @pytest.fixture(scope="class")
    def output(self, bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("rejected")
        table = examples(3).set_column(1, "question", pa.array(["Who?", None, "Who?"]))
        source = write_input(folder / "a.parquet", table)
        assert (
            run("annotate", f"--input={source}", f"--output={folder}/out", f"--model={bert_folder}")
            == 0
        )
        return folder / "out"

    def test_they_predict_nothing_and_surely_so(self, output: Path, tmp_path: Path):
        assert export(output, tmp_path, "--format=predictions") == 0
        predictions, na_prob = (
            json.loads((tmp_path / name).read_text())
            for name in ("predictions.json", "na_prob.json")
        )
        assert predictions["row 1"] == ""
        assert na_prob == {"row 0": 0.0, "row 1": 1.0, "row 2": 0.0}

    def test_they_are_left_out_of_squad_json_and_counted(
        self, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        assert export(output, tmp_path / "a.json", "--format=squad") == 0
        assert "2 questions" in (told := capsys.readouterr().out)
        assert "1 rows left out" in told
        data = json.loads((tmp_path / "a.json").read_text())["data"]
        assert [qa["id"] for paragraph in data[0]["paragraphs"] for qa in paragraph["qas"]] == [
            "row 0",
            "row 2",
        ]


class TestRefusals:
    def test_what_can_not_be_exported_is_named(
        self, audited: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        twice = pa.concat_tables([examples(1), examples(1)])
        source = write_input(tmp_path / "a.parquet", twice)
        keep = ("--keep_columns=id",)
        assert (
            run(
                "annotate",
                f"--input={source}",
                f"--output={tmp_path}/out",
                f"--model={bert_folder}",
                *keep,
            )
            == 0
        )
        unfinished = tmp_path / "unfinished"
        (unfinished / "parts").mkdir(parents=True)
        for name in ("run.json", f"parts/{next((tmp_path / 'out' / 'parts').iterdir()).name}"):
            (unfinished / name).write_bytes((tmp_path / "out" / name).read_bytes())
        damaged = shutil.copytree(audited / "out", tmp_path / "damaged")
        (damaged / "manifest.json").write_text("{")
        for output, options, message in (
            (damaged, ("--format=jsonl",), "manifest.json does not end a run"),
            (tmp_path / "out", ("--format=predictions",), "1 rows have the id of another row"),
            (tmp_path / "out", ("--format=squad",), "did not keep its column 'question'"),
            (
                audited / "out" / "audit",
                ("--format=jsonl",),
                "an output of audit: only those of annotate",
            ),
            (audited / "out", ("--format=squad", "--answers=golds"), "--answers=golds: "),
            (
                audited / "out",
                ("--format=squad", "--answers=title"),
                "--answers=title: it is string, not struct",
            ),
            *(
                (
                    audited / "out",
                    (f"--format={kind}", "--answers=golds"),
                    "--answers=golds: only --format=squad takes it",
                )
                for kind in ("predictions", "jsonl")
            ),
            (unfinished, ("--format=jsonl",), "has no manifest: the run did not finish"),
            (
                tmp_path / "nothing",
                ("--format=jsonl",),
                f"--run={tmp_path}/nothing: {tmp_path}/nothing has no run.json",
            ),
            (
                audited / "out",
                ("--format=jsonl", f"--output={tmp_path}/a.parquet/b"),
                f"--output={tmp_path}/a.parquet/b: ",
            ),
        ):
            assert export(output, tmp_path / "made", *options) == 2
            assert message in capsys.readouterr().err
        assert not (tmp_path / "made").exists() or not list((tmp_path / "made").iterdir())
