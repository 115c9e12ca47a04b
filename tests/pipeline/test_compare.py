"""Whole comparisons of two audits from the command line, with the output reopened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from model.audit.statistics import shortened
from pipeline.compare import resolve
from pipeline.job.options import parse
from tests.checkpoints import build_bert
from tests.runs import ada, examples, read_manifest, read_parts, run, write_input


@pytest.fixture(scope="module")
def audits(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Audit 24 rows with one checkpoint, and other rows with another.

    The other rows are all but the last two and one more, in another order, with other names.
    """
    folder = tmp_path_factory.mktemp("audits")
    table = ada(examples(24)).append_column(
        "source", pa.array([f"book {row % 2}" for row in range(24)])
    )
    write_input(folder / "before.parquet", table)
    new = ada(examples(1, first=99)).append_column("source", pa.array(["new"]))
    second = pa.concat_tables([table.take(list(range(21, -1, -1))), new])
    answers = second["answers"].to_pylist()
    answers[0] = {
        "text": ["keeper"],
        "answer_start": [second["context"][0].as_py().index("keeper")],
    }
    listed = [
        [dict(zip(each, gold, strict=True)) for gold in zip(*each.values(), strict=True)]
        for each in answers
    ]
    second = second.set_column(3, "answers", pa.array(listed))  # the same golds in the other shape
    write_input(folder / "after.parquet", second, row_group_size=5)
    other = build_bert(folder / "other", seed=3)
    common = ("--slice_by=source", "--dtype=float32", "--max_answer_length=8")
    assert (
        run(
            "audit",
            f"--input={folder}/before.parquet",
            f"--output={folder}/a",
            f"--model={bert_folder}",
            *common,
        )
        == 0
    )
    options = (
        f"--input={folder}/after.parquet",
        f"--output={folder}/b",
        f"--model={other}",
        "--output_prefix=qa_",
    )
    assert run("audit", *options, "--chunk_rows=3", *common) == 0
    return folder / "a", folder / "b"


def compare(audits: tuple[Path, Path], output: Path, *options: str) -> int:
    return run(
        "compare", f"--before={audits[0]}", f"--after={audits[1]}", f"--output={output}", *options
    )


def found_in(output: Path) -> dict[str, Any]:
    return json.loads((output / "comparison.json").read_text("utf-8"))


def test_differences_are_those_of_the_rows(
    audits: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert compare(audits, tmp_path / "out") == 0
    found = found_in(tmp_path / "out")
    before = {row["id"]: row for row in read_parts(audits[0]).to_pylist()}
    after = {row["id"]: row for row in read_parts(audits[1]).to_pylist()}
    both = sorted(before.keys() & after.keys())
    assert found["paired"] == len(both) == 22
    assert found["unpaired"]["only_before"] == {"rows": 2, "ids": ["row 22", "row 23"]}
    assert found["unpaired"]["only_after"] == {"rows": 1, "ids": ["row 99"]}
    assert found["golds_changed"] == 1
    for metric, scale in (("nll", 1), ("exact_match", 100), ("f1", 100)):
        differences = [after[name][f"qa_{metric}"] - before[name][metric] for name in both]
        assert found["all"][metric]["difference"] == pytest.approx(
            scale * sum(differences) / len(differences), abs=1e-6
        )
        of_book = [
            d
            for d, name in zip(differences, both, strict=True)
            if before[name]["source"] == "book 1"
        ]
        assert found["slices"]["source"]["book 1"][metric]["difference"] == pytest.approx(
            scale * sum(of_book) / 11, abs=1e-6
        )
    assert set(found["slices"]) >= {"question_word", "answer_position", "source"}
    listed = [*found["regressions"], *found["improvements"]]
    assert len(listed) == 22
    for entry in listed:
        row, other = before[entry["id"]], after[entry["id"]]
        assert entry["question"] == row["question"]
        assert entry["gold"] == [gold["text"] for gold in other["answers"]]
        assert entry["before"]["prediction"] == shortened(row["prediction"])
        assert entry["after"]["prediction"] == shortened(other["qa_prediction"])
        assert entry["after"]["nll"] == pytest.approx(other["qa_nll"])
    printed = capfd.readouterr().out
    assert "22 examples in both, 2 only before, 1 only after" in printed
    assert "passed" in printed
    assert read_manifest(tmp_path / "out")["state"] == "complete"
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "22 examples that are in both audits" in page


def test_a_job_does_not_grow_with_the_parts(audits: tuple[Path, Path], tmp_path: Path):
    """Runners limit the size of a graph, so that workers list the parts."""
    parts = [part.name for audit in audits for part in (audit / "parts").iterdir()]
    assert len(parts) == 10
    options, _ = parse(
        ["compare", f"--before={audits[0]}", f"--after={audits[1]}", f"--output={tmp_path}/out"]
    )
    assert not any(part in repr(resolve(options)) for part in parts)


def test_a_gate_that_is_not_passed_is_exit_1_and_no_complete_manifest(
    audits: tuple[Path, Path], tmp_path: Path
):
    """In one of the two orders the loss rises."""
    codes = [
        compare(pair, tmp_path / str(number), "--max_loss_rise=0.0001")
        for number, pair in enumerate((audits, audits[::-1]))
    ]
    assert sorted(codes) == [0, 1]
    output = tmp_path / str(codes.index(1))
    assert read_manifest(output)["state"] == "incomplete"
    assert "more than --max_loss_rise=0.0001" in read_manifest(output)["why"][0]
    # Limits are not part of the run's identity.
    assert compare((audits, audits[::-1])[codes.index(1)], output) == 0
    assert read_manifest(output)["state"] == "complete"


def test_an_audit_against_itself_differs_in_nothing(audits: tuple[Path, Path], tmp_path: Path):
    gate = ("--max_f1_drop=0", "--max_em_drop=0", "--max_loss_rise=0")
    assert compare((audits[0], audits[0]), tmp_path / "out", *gate) == 0
    found = found_in(tmp_path / "out")
    assert (
        found["paired"],
        found["golds_changed"],
        found["regressions"],
        found["improvements"],
    ) == (24, 0, [], [])
    assert found["all"]["nll"]["interval"] == [0, 0]


def test_a_rerun_writes_the_same_and_another_comparison_is_refused(
    audits: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    files = ("comparison.json", "manifest.json", "report.html", "run.json")
    assert compare(audits, tmp_path / "out") == 0
    first = [(tmp_path / "out" / name).read_bytes() for name in files]
    assert compare(audits, tmp_path / "out") == 0
    assert [(tmp_path / "out" / name).read_bytes() for name in files] == first
    assert compare(audits[::-1], tmp_path / "out") == 2
    assert "has another run: before was" in capfd.readouterr().err
    assert compare(audits[::-1], tmp_path / "out", "--overwrite") == 0


def test_refusals(
    audits: tuple[Path, Path], bert_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    def refused(message: str, *arguments: str) -> None:
        assert run(*arguments) == 2
        assert message in capfd.readouterr().err

    before, after, output = (
        f"--before={audits[0]}",
        f"--after={audits[1]}",
        f"--output={tmp_path}/out",
    )
    refused("--after is missing: compare needs it", "compare", before, output)
    refused("--input is missing: audit needs it", "audit", output)
    refused(
        "--model=x applies to annotate and audit", "compare", before, after, output, "--model=x"
    )
    refused(
        "--max_f1_drop=1 applies to compare, not to audit",
        "audit",
        "--input=x",
        output,
        "--max_f1_drop=1",
    )
    refused(
        "is not the output of a finished audit", "compare", before, f"--after={tmp_path}", output
    )
    annotated = ("annotate", "--audit", "--input=bundled", "--limit=3", f"--output={tmp_path}/both")
    assert run(*annotated, f"--model={bert_folder}") == 0
    folder = f"{tmp_path}/both"
    hint = f"={folder} is not the output of a finished audit: give --before={folder}/audit\n"
    refused(hint, "compare", f"--before={tmp_path}/both", after, output)
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_named(
    audits: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    damaged = tmp_path / "damaged"
    shutil.copytree(audits[1], damaged)
    part = min((damaged / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:100])
    assert compare((audits[0], damaged), tmp_path / "out") == 2
    assert f"refused: --after={damaged}: {part} can't be read: " in capfd.readouterr().err
    shutil.copy(audits[1] / "parts" / part.name, part)
    (damaged / "manifest.json").write_text("{")
    assert compare((audits[0], damaged), tmp_path / "out") == 2
    assert f"refused: {damaged}/manifest.json does not end a run: " in capfd.readouterr().err


def test_an_audit_that_the_run_would_remove_is_refused(
    audits: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    output = tmp_path / "out"
    shutil.copytree(audits[1], output / "audit")
    (tmp_path / "link").symlink_to(output / "audit")
    for after in (output / "audit", tmp_path / "link"):
        assert compare((audits[0], after), output, "--overwrite") == 2
        message = f"refused: --after={after} would be removed by this run, which writes --output="
        assert message in capfd.readouterr().err
    assert compare(audits, audits[0], "--overwrite") == 2
    assert f"--before={audits[0]} would be removed by this run" in capfd.readouterr().err
    assert (output / "audit" / "manifest.json").exists()
    # Other folders in the output are not the run's.
    shutil.copytree(audits[1], output / "first")
    assert compare((audits[0], output / "first"), output, "--overwrite") == 0


def test_an_output_without_ids_can_t_be_joined(
    audits: tuple[Path, Path], bert_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    source = write_input(tmp_path / "a.parquet", ada(examples(2)))
    arguments = (
        f"--input={source}",
        f"--output={tmp_path}/no_ids",
        f"--model={bert_folder}",
        "--keep_columns=question",
    )
    assert run("audit", *arguments) == 0
    assert compare((audits[0], tmp_path / "no_ids"), tmp_path / "out") == 2
    assert "its rows lack the column 'id', which a comparison needs" in capfd.readouterr().err
