"""One stage fails: the other keeps what it has, and a rerun retries only the one that failed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import model.audit.window_losses
import pipeline.job.duplicates
import transforms.decode_answers
import transforms.find_duplicates
import transforms.make_windows
import transforms.measure_loss
import transforms.read_examples
import transforms.write_audit
from tests.runs import examples, identities, part_files, read_manifest, read_parts, run, write_input
from transforms import storage
from transforms.claim import ClaimLost

ROWS, CHUNK = 10, 4
LAST = ROWS % CHUNK
"""Rows of the last chunk, which fails."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = examples(ROWS).set_column(
        1, "question", pa.array([*["Who?"] * (CHUNK - 1), None, *["Where?"] * (ROWS - CHUNK)])
    )
    table = table.append_column(
        "answers", pa.array([{"text": ["Ada"], "answer_start": [28]}] * ROWS)
    )
    return write_input(tmp_path_factory.mktemp("failed") / "in.parquet", table)


@pytest.fixture(scope="module")
def both(source: Path, bert_folder: Path) -> Callable[[Path], int]:
    """Return a function that runs annotate with an audit: `both(output)` returns the exit code."""
    arguments = (
        "annotate",
        "--audit",
        f"--input={source}",
        f"--model={bert_folder}",
        f"--chunk_rows={CHUNK}",
    )
    return lambda output, *more: run(*arguments, f"--output={output}", *more)


@pytest.fixture(scope="module")
def whole(both: Callable[[Path], int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a run without a failure."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert both(folder) == 0
    return folder


def figures(output: Path) -> dict[str, Any]:
    """Return a manifest without its times."""
    return {name: value for name, value in read_manifest(output).items() if name != "steps"}


def assert_equal_outputs(output: Path, whole: Path) -> None:
    for folder in ("", "audit"):
        assert figures(output / folder) == figures(whole / folder)
        assert read_parts(output / folder).equals(read_parts(whole / folder))
        names = [
            sorted(path.name for path in (each / folder).rglob("*.parquet"))
            for each in (output, whole)
        ]
        assert names[0] == names[1]
    assert (output / "audit" / "audit.json").read_bytes() == (
        whole / "audit" / "audit.json"
    ).read_bytes()


def assert_failed_apart(output: Path, failed: str, whole: Path, step: str, error: str) -> None:
    """Assert that the stage in this folder lacks its last chunk, and that the other is complete."""
    sound = "audit" if failed == "" else ""
    assert figures(output / sound) == figures(whole / sound)
    assert read_parts(output / sound).equals(read_parts(whole / sound))
    manifest = read_manifest(output / failed)
    assert manifest["state"] == "incomplete"
    assert manifest["why"] == ["1 chunks failed"]
    assert manifest["chunks"] == {"planned": 3, "failed": 1}
    rows = manifest["rows"]
    assert rows["planned"] == ROWS == sum(rows.values()) - rows["planned"]
    assert rows["in_failed_chunks"] == LAST
    (failure,) = manifest["failures"]
    assert (failure["row_start"], failure["rows"], failure["step"]) == (ROWS - LAST, LAST, step)
    assert error in failure["error"]
    assert len(part_files(output / failed)) == 2
    audit = json.loads((output / "audit" / "audit.json").read_text("utf-8"))
    if failed == "audit":
        assert audit["rows"] == rows
        assert audit["failures"] == manifest["failures"]
        page = (output / "audit" / "report.html").read_text("utf-8")
        assert f"row group 0 from row {ROWS - LAST}, {step}: " in page
    else:
        assert audit["failures"] == []


def fail_last(
    patch: pytest.MonkeyPatch, module: object, name: str, rows: Callable[..., int]
) -> None:
    """Make a function fail on the last chunk, which `rows` recognizes from its arguments."""
    function = getattr(module, name)

    def failing(*given: Any, **named: Any) -> Any:
        if rows(*given, **named) == LAST:
            raise ZeroDivisionError(f"in {name}")
        return function(*given, **named)

    patch.setattr(module, name, failing)


IN_ONE_STAGE = {
    "reading golds": (
        "audit",
        "MakeWindows",
        transforms.make_windows,
        "read_golds",
        lambda answers, *_: len(answers),
    ),
    "placing golds": (
        "audit",
        "PredictSpans",
        model.audit.window_losses,
        "gold_views",
        lambda _, golds: len(golds.texts),
    ),
    "measuring": (
        "audit",
        "MeasureLoss",
        model.audit.window_losses.MeasureLosses,
        "measure",
        lambda self, *_: len(self.golds.texts),
    ),
    "losses": (
        "audit",
        "MeasureLoss",
        transforms.measure_loss,
        "measure",
        lambda columns, *_: columns.num_rows,
    ),
    "answers": (
        "",
        "DecodeAnswers",
        transforms.decode_answers,
        "answer_columns",
        len,
    ),
}
"""Folder of the failing stage, the reported step, the module and function that fail, and the
number of rows of a chunk by the function's arguments."""


@pytest.mark.parametrize("case", IN_ONE_STAGE)
def test_a_crash_in_what_a_step_does_for_one_stage(
    case: str,
    both: Callable[[Path], int],
    whole: Path,
    output: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    folder, step, module, name, rows = IN_ONE_STAGE[case]
    with monkeypatch.context() as patch:
        fail_last(patch, module, name, rows)
        assert both(output) == 1
        assert_failed_apart(output, folder, whole, step, f"ZeroDivisionError: in {name}")
        printed = capfd.readouterr().out
        assert (
            f"failed: {json.loads((output / 'run.json').read_text())['inputs'][0]['path']}"
            in printed
        )
        assert f"\nincomplete: {output / folder}\n" in printed
        assert f"\ncomplete: {output / ('audit' if folder == '' else '')}\n" in printed
        kept = {each: identities(output / each) for each in ("", "audit")}
        assert both(output) == 1  # fails again, and nothing else changes
        assert_failed_apart(output, folder, whole, step, f"ZeroDivisionError: in {name}")
        assert {each: identities(output / each) for each in ("", "audit")} == kept
    assert both(output) == 0
    assert_equal_outputs(output, whole)
    for each, parts in kept.items():
        assert parts.items() <= identities(output / each).items()


@pytest.mark.parametrize("folder", ["audit", ""])
def test_a_part_that_can_not_be_written(
    folder: str, both: Callable[[Path], int], whole: Path, output: Path
):
    """A folder has the name of the part."""
    obstacle = output / folder / "parts" / part_files(whole)[-1].name
    obstacle.mkdir(parents=True)
    assert both(output) == 1
    obstacle.rmdir()  # `part_files` would list it
    assert_failed_apart(output, folder, whole, "WriteChunk", "IsADirectoryError")
    kept = {each: identities(output / each) for each in ("", "audit")}
    assert both(output) == 0
    assert_equal_outputs(output, whole)
    for each, parts in kept.items():
        assert parts.items() <= identities(output / each).items()


def test_a_full_disk_in_one_stage_ends_the_run(
    both: Callable[[Path], int], whole: Path, output: Path, monkeypatch: pytest.MonkeyPatch
):
    """A full disk under the audit's part ends the run; the next one completes both."""
    move = os.replace

    def fill_up(source: str, target: str) -> None:
        if "/audit/parts/" in target and target.endswith(part_files(whole)[-1].name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "replace", fill_up)
        assert both(output) == 3
    assert not (output / "manifest.json").exists()
    assert [len(part_files(output / each)) for each in ("audit", "")] == [2, 2]
    assert both(output) == 0
    assert_equal_outputs(output, whole)


@pytest.mark.parametrize("lost", ["audit", ""])
def test_a_chunk_that_was_cut_off_between_its_parts(
    lost: str, both: Callable[[Path], int], whole: Path, output: Path
):
    """Only the missing part is computed and counted; the other is not rewritten."""
    shutil.copytree(whole, output)
    part_files(output / lost)[1].unlink()
    kept = {each: identities(output / each) for each in ("", "audit")}
    assert both(output) == 0
    assert_equal_outputs(output, whole)
    for each, parts in kept.items():
        assert parts.items() <= identities(output / each).items()


def fail_with(
    patch: pytest.MonkeyPatch,
    module: object,
    name: str,
    error: Exception,
    where: Callable[..., bool] = lambda *_: True,
) -> None:
    """Make a function raise an error where its arguments fulfil a condition."""
    function = getattr(module, name)

    def failing(*given: Any, **named: Any) -> Any:
        if where(*given):
            raise error
        return function(*given, **named)

    patch.setattr(module, name, failing)


def of_one_pair(measured: model.audit.window_losses.MeasureLosses, *_: Any) -> bool:
    return len(set(measured.windows.pair.tolist())) == 1


@pytest.fixture
def repeated(tmp_path: Path, bert_folder: Path) -> Callable[[Path], int]:
    """Return a function as `both`, for an input whose first two chunks hold one pair each."""
    table = examples(ROWS).take([0, 0, 1, 1, 2, 3])
    table = table.append_column("answers", pa.array([{"text": ["Ada"], "answer_start": [28]}] * 6))
    source = write_input(tmp_path / "in.parquet", table)
    arguments = f"--input={source}", f"--model={bert_folder}", "--chunk_rows=2"
    return lambda output: run("annotate", "--audit", *arguments, f"--output={output}")


@pytest.mark.parametrize(
    "error", [MemoryError("full"), OSError(errno.EIO, "odd"), RuntimeError("odd")], ids=repr
)
def test_a_crash_in_measuring_the_only_pair_of_a_chunk_is_tried_again(
    error: Exception,
    repeated: Callable[[Path], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    output, whole = tmp_path / "out", tmp_path / "whole"
    assert repeated(whole) == 0
    measure = model.audit.window_losses.MeasureLosses
    with monkeypatch.context() as patch:
        fail_with(patch, measure, "measure", error, of_one_pair)
        assert repeated(output) == 1
    assert figures(output) == figures(whole)
    manifest = read_manifest(output / "audit")
    assert manifest["why"][0] == "2 chunks failed"
    assert manifest["rows"]["rejected"] == 0
    for failure in manifest["failures"]:
        assert failure["step"] == "MeasureLoss"
        assert str(error) in failure["error"]
    assert repeated(output) == 0
    assert_equal_outputs(output, whole)


def test_values_that_can_not_be_measured_reject_the_only_pair_of_a_chunk(
    repeated: Callable[[Path], int], output: Path, monkeypatch: pytest.MonkeyPatch
):
    """A rerun would fail again: the row must not keep the run incomplete."""
    measure = model.audit.window_losses.MeasureLosses
    fail_with(monkeypatch, measure, "measure", ValueError("odd"), of_one_pair)
    repeated(output)
    manifest = read_manifest(output / "audit")
    assert manifest["chunks"] == {"planned": 3, "failed": 0}
    assert manifest["reasons"] == {"loss_error": 4}


CLOSING = {
    "ReadExamples": (transforms.read_examples, "read_rows"),
    "WriteAudit": (transforms.write_audit, "write_audit"),
    "ListParts": (pipeline.job.duplicates, "audited_parts"),
    "FindDuplicates": (transforms.find_duplicates, "write_duplicates"),
    "FindDuplicates, reading": (transforms.find_duplicates, "read_hashes"),
}
"""The functions in which the steps fail that close an audit."""


@pytest.mark.parametrize("case", CLOSING)
def test_a_crash_in_closing_the_audit(
    case: str,
    both: Callable[[Path], int],
    whole: Path,
    output: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    step = case.partition(",")[0]
    with monkeypatch.context() as patch:
        fail_with(patch, *CLOSING[case], ZeroDivisionError("odd"))
        assert both(output) == 1
    assert figures(output) == figures(whole)
    manifest = read_manifest(output / "audit")
    assert manifest["state"] == "incomplete"
    assert manifest["why"] == [f"{step} failed"]
    (failure,) = manifest["failures"]
    assert failure["path"].startswith(str(output / "audit"))
    assert (failure["step"], failure["error"]) == (step, "ZeroDivisionError: odd")
    assert manifest["failures_not_listed"] == 0
    assert manifest["rows"] == read_manifest(whole / "audit")["rows"]
    printed = capfd.readouterr().out
    assert f"{step}: ZeroDivisionError: odd\n" in printed
    assert f"\ncomplete: {output}\n" in printed
    kept = {each: identities(output / each) for each in ("", "audit")}
    assert both(output) == 0
    assert {each: identities(output / each) for each in ("", "audit")} == kept
    assert_equal_outputs(output, whole)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), PermissionError("no"), ClaimLost("lost")], ids=repr
)
@pytest.mark.parametrize("case", ["WriteAudit", "FindDuplicates, reading"])
def test_what_concerns_the_run_ends_it_when_the_audit_is_closed(
    case: str,
    error: Exception,
    both: Callable[[Path], int],
    whole: Path,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    with monkeypatch.context() as patch:
        fail_with(patch, *CLOSING[case], error)
        assert both(output) == 3
    assert not (output / "manifest.json").exists()
    assert both(output) == 0
    assert_equal_outputs(output, whole)
