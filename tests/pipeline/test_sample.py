"""The command: a review set of a run, and the precision that comes of its marks."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.sample import main
from tests.runs import Annotate, examples, read_parts, run, write_input


@pytest.fixture(scope="module")
def finished(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotate 60 rows in three parts; tests must not change the output."""
    folder = tmp_path_factory.mktemp("finished")
    write_input(folder / "a.parquet", examples(60))
    arguments = (f"--input={folder}/a.parquet", f"--output={folder}/out", f"--model={bert_folder}")
    assert run("annotate", *arguments, "--chunk_rows=20") == 0
    return folder / "out"


@pytest.fixture
def drawn(finished: Path, tmp_path: Path) -> Path:
    """Draw 30 of the 60 answers."""
    assert main([str(finished), "--rows=30", f"--output={tmp_path}/set"]) == 0
    return tmp_path / "set"


def right_rows(finished: Path) -> set[str]:
    """Return the ids of rows whose answers count as right here, about two thirds."""
    rows = read_parts(finished).to_pylist()
    return {row["id"] for row in rows if int(row["id"].split()[1]) % 3}


def mark(folder: Path, right: set[str], **others: str) -> Path:
    """Fill in the spreadsheet of a set. `others` has the marks of numbers, as `n3="unsure"`."""
    path = folder / "review.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    for row in rows:
        given = "yes" if row["id"] in right else "no"
        writer.writerow({**row, "right": others.get(f"n{row['number']}", given)})
    marked = folder.parent / "marked.csv"
    marked.write_text(out.getvalue(), "utf-8")
    return marked


def estimated(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_a_run_to_its_precision(
    finished: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
):
    right = right_rows(finished)
    marked = mark(drawn, right)
    found = estimated(capsys, finished, f"--output={drawn}", f"--estimate={marked}")
    # Half of the answers were drawn, so that the rest can't be far off.
    assert found["low"] <= len(right) / 60 <= found["high"]
    assert found["low"] < found["precision"] < found["high"]
    assert (found["answers"], found["reviewed"], found["unsure"], found["missing"]) == (
        60,
        30,
        0,
        0,
    )
    assert sum(each["answers"] for each in found["strata"]) == 60
    weighted = [each["answers"] * each["right"] / each["drawn"] for each in found["strata"]]
    assert found["precision"] == pytest.approx(sum(weighted) / 60)
    assert main([str(finished), f"--output={drawn}", f"--estimate={marked}"]) == 0
    told = capsys.readouterr().out
    assert f"precision {found['precision']:.3f}, 95% interval {found['low']:.3f} to " in told
    assert "of 60 answers are right" in told
    assert "30 of 30 drawn answers are marked yes or no, 0 unsure, 0 missing" in told


def test_all_answers_reviewed_is_the_precision_itself(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "all"
    assert main([str(finished), f"--output={folder}"]) == 0
    assert "60 of 60 answers" in capsys.readouterr().out
    right = right_rows(finished)
    found = estimated(capsys, finished, f"--output={folder}", f"--estimate={mark(folder, right)}")
    exact = pytest.approx(len(right) / 60)
    assert (found["precision"], found["low"], found["high"]) == (exact, exact, exact)


def test_a_review_that_is_not_finished_counts_what_is_there(
    finished: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
):
    right = right_rows(finished)
    some = mark(drawn, right, n2="unsure", n4="", n5="", n6="")
    found = estimated(capsys, finished, f"--output={drawn}", f"--estimate={some}")
    assert (found["reviewed"], found["unsure"], found["missing"]) == (26, 1, 3)
    assert found["precision_if_unsure_are_wrong"] < found["precision_if_unsure_are_right"]
    assert main([str(finished), f"--output={drawn}", f"--estimate={some}"]) == 0
    assert f"{found['precision_if_unsure_are_right']:.3f} if right" in capsys.readouterr().out
    whole = estimated(capsys, finished, f"--output={drawn}", f"--estimate={mark(drawn, right)}")
    assert found["high"] - found["low"] > whole["high"] - whole["low"]


def test_the_run_is_not_changed_and_a_seed_draws_the_same_again(finished: Path, tmp_path: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        command = [str(finished), "--rows=10", f"--seed={seed}", f"--output={tmp_path}/{name}"]
        assert main(command) == 0
    a, b, c = ((tmp_path / name / "review.csv").read_bytes() for name in "abc")
    assert a == b != c
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_the_set_is_beside_the_run_by_default_and_on_any_store(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = fsspec.filesystem("memory")
    store.put(f"{finished}/", "/sampled/out/", recursive=True)
    try:
        assert main(["memory://sampled/out", "--rows=10"]) == 0
        store.get("/sampled/out-review/", f"{tmp_path}/set/", recursive=True)
        marked = mark(tmp_path / "set", right_rows(finished))
        store.put(str(marked), "/sampled/marked.csv")
        found = estimated(capsys, "memory://sampled/out", "--estimate=memory://sampled/marked.csv")
        assert found["reviewed"] == 10
    finally:
        store.rm("/sampled", recursive=True)


class TestRefusals:
    def refused(
        self, capsys: pytest.CaptureFixture[str], message: str, *arguments: str | Path
    ) -> None:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        assert message in capsys.readouterr().err

    def test_a_set_of_another_run(
        self, finished: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        """And of another state of the same run, whose failed chunks were tried again since."""
        marked = mark(drawn, set())
        for name, key, message in (
            ("run.json", "run", "was drawn from another run than"),
            ("manifest.json", "content", "was drawn from other answers of this run than"),
        ):
            other = tmp_path / name
            shutil.copytree(finished, other)
            described = json.loads((other / name).read_text())
            (other / name).write_text(json.dumps(described | {key: "0" * 32}))
            self.refused(capsys, message, other, f"--output={drawn}", f"--estimate={marked}")

    def test_marks_that_can_not_be_used(
        self, finished: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        marked = mark(drawn, set(), n7="perhaps")
        message = f"--estimate={marked}: line 8: right 'perhaps' is not one of yes, no, unsure"
        self.refused(capsys, message, finished, f"--output={drawn}", f"--estimate={marked}")
        empty = mark(drawn, set(), **{f"n{number}": "" for number in range(1, 31)})
        self.refused(
            capsys,
            "no answer of stratum 1 (probability 0.00 to ",
            *(finished, f"--output={drawn}", f"--estimate={empty}"),
        )
        missing = tmp_path / "missing.csv"
        message = f"refused: --estimate={missing}: No such file or directory\n"
        self.refused(capsys, message, finished, f"--output={drawn}", f"--estimate={missing}")

    def test_a_run_without_answers(
        self, annotate: Annotate, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
    ):
        table = examples(3)
        write_input(tmp_path / "a.parquet", table.set_column(1, "question", [[" "] * 3]))
        assert annotate(tmp_path / "a.parquet", output, "--max_failed_fraction=1") == 0
        self.refused(capsys, "has no answer to review", output)
        assert not Path(f"{output}-review").exists()

    def test_what_is_not_a_finished_run_of_annotate(
        self, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        self.refused(capsys, "has no run.json", tmp_path)
        shutil.copytree(finished, tmp_path / "out")
        (tmp_path / "out" / "manifest.json").unlink()
        self.refused(capsys, "has no manifest: the run did not finish", tmp_path / "out")
        (tmp_path / "out" / "manifest.json").write_text("{")
        self.refused(capsys, "manifest.json does not end a run", tmp_path / "out")
        described = json.loads((finished / "run.json").read_text())
        described["configuration"]["stage"] = "audit"
        (tmp_path / "out" / "run.json").write_text(json.dumps(described))
        self.refused(capsys, "is an output of audit", tmp_path / "out")

    def test_an_incomplete_run_is_sampled_with_a_word_about_it(
        self, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        shutil.copytree(finished, tmp_path / "out")
        manifest = json.loads((finished / "manifest.json").read_text())
        text = json.dumps(manifest | {"state": "incomplete"})
        (tmp_path / "out" / "manifest.json").write_text(text)
        assert main([str(tmp_path / "out")]) == 0
        assert "this is a sample of the answers that it has" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["", "/parts", "/review"])
    def test_a_set_inside_the_run(
        self, finished: Path, name: str, capsys: pytest.CaptureFixture[str]
    ):
        self.refused(capsys, "is inside the run", finished, f"--output={finished}{name}")

    def test_a_set_where_one_is(
        self, finished: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
    ):
        self.refused(capsys, "somebody may be filling in", finished, f"--output={drawn}")

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--rows=1"],
            ["--rows=10001"],
            ["--rows=many"],
            ["--seed=-1"],
            ["--json"],
            ["--estimate=x.csv", "--rows=20"],
            ["--estimate=x.csv", "--seed=2"],
        ],
    )
    def test_options_that_do_not_fit(self, arguments: list[str], finished: Path):
        with pytest.raises(SystemExit) as stopped:
            main([str(finished), *arguments])
        assert stopped.value.code == 2
