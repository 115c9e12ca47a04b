"""Snapshots of the output of real runs, at moments that are made by leaving out what came later."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.job.options import Refused
from pipeline.looks import snapshot as module
from pipeline.looks.snapshot import Snapshot, Watcher
from tests.runs import examples, part_files, read_manifest, read_parts, run, write_input

NOW = 2_000_000_000.0

Moment = Callable[[int], Path]


@pytest.fixture(scope="module")
def finished(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run annotate on two files with 17 rows; the last row of each is rejected."""
    folder = tmp_path_factory.mktemp("watched")
    for name, count in (("a", 10), ("b", 7)):
        rows = examples(count).to_pylist()
        rows[-1]["question"] = None
        write_input(folder / "in" / f"{name}.parquet", pa.Table.from_pylist(rows))
    options = ("--chunk_rows=4", "--output_prefix=qa_", f"--model={bert_folder}")
    assert run("annotate", f"--input={folder}/in", f"--output={folder}/out", *options) == 0
    return folder / "out"


@pytest.fixture
def moment(finished: Path, tmp_path: Path) -> Moment:
    """Return a function that returns the output as it was after the given number of its five parts.

    A part was committed every ten seconds, the last at NOW.
    """

    def at(parts: int) -> Path:
        output = tmp_path / "out"
        (output / "parts").mkdir(parents=True, exist_ok=True)
        shutil.copy(finished / "run.json", output)
        for number, path in enumerate(part_files(finished)[:parts]):
            copy = shutil.copy(path, output / "parts")
            os.utime(copy, (NOW, NOW - 10 * (4 - number)))
        return output

    return at


def look(output: Path | str) -> Snapshot:
    return Watcher(str(output)).look(NOW)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


def test_an_output_that_is_not_there_yet_is_waited_for(tmp_path: Path):
    assert look(tmp_path / "out") == Snapshot(str(tmp_path / "out"))
    assert look(tmp_path).state == "waiting"
    assert not look(tmp_path).finished


def test_a_run_before_its_first_part(moment: Moment):
    snapshot = look(moment(0))
    assert (snapshot.state, snapshot.stage, snapshot.parts) == ("running", "annotate", 0)
    assert (snapshot.planned_parts, snapshot.planned_rows, snapshot.exact) == (5, 17, True)
    assert snapshot.seconds_left is None
    assert snapshot.since_commit is None


def test_parts_as_they_come(moment: Moment, finished: Path):
    watcher = Watcher(str(moment(0)))
    for parts, rows, rejected in ((1, 4, 0), (3, 10, 1), (5, 17, 2)):
        output = moment(parts)
        snapshot = watcher.look(NOW + 3)
        assert (snapshot.parts, snapshot.rows, snapshot.receipts) == (parts, rows, parts)
        assert snapshot.outcomes["answered"] == rows - rejected
        assert snapshot.outcomes["rejected"] == rejected
        assert snapshot.reasons == ({"question_missing": rejected} if rejected else {})
        assert snapshot.since_commit == 3 + 10 * (5 - parts)
        assert snapshot.state == "running"
    shutil.copy(finished / "manifest.json", output)
    assert watcher.look(NOW).state == "complete"


def test_the_speed_and_the_time_left(moment: Moment):
    """Ten rows in about twenty seconds, and seven to come."""
    snapshot = look(moment(3))
    assert snapshot.rows_per_second == pytest.approx(0.5, rel=0.1)
    assert snapshot.seconds_left == pytest.approx(7 / snapshot.rows_per_second)


def test_latest_answers_come_from_the_newest_parts(moment: Moment):
    snapshot = look(moment(4))
    rows = read_parts(moment(4)).to_pylist()
    newest = {(row["id"], row["question"], row["qa_answer_text"]) for row in rows[4:]}
    shown = [(answer.id, answer.question, answer.text) for answer in snapshot.answers]
    assert shown
    assert set(shown) <= newest
    assert shown[0] in {(row["id"], row["question"], row["qa_answer_text"]) for row in rows[10:]}
    assert all(0 <= answer.probability <= 1 for answer in snapshot.answers)


def test_only_new_parts_are_opened(moment: Moment, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []

    def open_parquet(path: str) -> Any:
        opened.append(Path(path).name)
        return original(path)

    original = module.open_parquet
    watcher = Watcher(str(moment(2)))
    monkeypatch.setattr(module, "open_parquet", open_parquet)
    before = watcher.look(NOW)
    assert set(opened) == {path.name for path in part_files(moment(2))}
    opened.clear()
    assert watcher.look(NOW) == before
    assert opened == []
    newest = part_files(moment(3))[2]
    watcher.look(NOW)
    assert set(opened) == {newest.name}


def test_many_parts_are_read_little_by_little(moment: Moment, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_MOST_RECEIPTS", 2)
    watcher = Watcher(str(moment(5)))
    assert [watcher.look(NOW).receipts for _ in range(4)] == [2, 4, 5, 5]


def test_nothing_is_changed(moment: Moment):
    output = moment(3)
    before = {path: path.stat() for path in output.rglob("*")}
    look(output)
    after = {path: path.stat() for path in output.rglob("*")}
    assert before.keys() == after.keys()
    assert all(after[path].st_mtime_ns == stat.st_mtime_ns for path, stat in before.items())


def test_a_finished_run_has_the_accounting_of_its_manifest(finished: Path):
    snapshot, manifest = look(finished), read_manifest(finished)
    assert (snapshot.state, snapshot.finished) == ("complete", True)
    assert {"planned": snapshot.planned_rows, **snapshot.outcomes} == manifest["rows"]
    assert snapshot.reasons == manifest["reasons"]
    assert snapshot.seconds_left is None


def test_an_incomplete_run_says_why(moment: Moment, finished: Path):
    output = moment(4)
    shutil.copy(finished / "manifest.json", output)
    change(output / "manifest.json", state="incomplete", why=["1 chunks failed"])
    snapshot = look(output)
    assert (snapshot.state, snapshot.why) == ("incomplete", ("1 chunks failed",))


def test_a_rerun_that_replaces_a_part_is_seen(moment: Moment):
    """A part that is damaged counts only by its name, until it is written again."""
    output = moment(1)
    (part,) = part_files(output)
    whole = part.read_bytes()
    part.write_bytes(b"damaged")
    watcher = Watcher(str(output))
    snapshot = watcher.look(NOW)
    assert (snapshot.rows, snapshot.outcomes["answered"], snapshot.answers) == (4, 0, ())
    part.write_bytes(whole)
    os.utime(part, (NOW, NOW + 1))
    assert watcher.look(NOW).outcomes["answered"] == 4


def test_an_output_that_is_overwritten_begins_again(moment: Moment):
    watcher = Watcher(str(output := moment(3)))
    assert watcher.look(NOW).parts == 3
    shutil.rmtree(output)
    assert watcher.look(NOW).state == "waiting"
    change(moment(0) / "run.json", run="0" * 64)
    snapshot = watcher.look(NOW)
    assert (snapshot.state, snapshot.parts, snapshot.outcomes["answered"]) == ("running", 0, 0)


def test_foreign_and_old_parts(moment: Moment):
    """Other files are no parts; a part without a receipt counts by its name."""
    output = moment(1)
    (output / "parts" / "_SUCCESS").touch()
    (part,) = part_files(output)[:1]
    pq.write_table(pa.table({"id": ["row 0"]}), part)
    snapshot = look(output)
    assert (snapshot.parts, snapshot.rows, snapshot.outcomes["answered"]) == (1, 4, 0)


def test_inputs_that_can_not_be_read_from_here(moment: Moment):
    output = moment(2)
    identity = json.loads((output / "run.json").read_text("utf-8"))
    moved = [{**each, "path": f"/nowhere{each['path']}"} for each in identity["inputs"]]
    change(output / "run.json", inputs=moved)
    snapshot = look(output)
    assert (snapshot.parts, snapshot.planned_parts, snapshot.planned_rows) == (2, 0, 0)
    assert snapshot.seconds_left is None


def test_a_run_on_a_store(moment: Moment, memory: fsspec.AbstractFileSystem):
    memory.put(f"{moment(3)}/", "/watch/", recursive=True)
    snapshot = look("memory://watch")
    assert (snapshot.parts, snapshot.rows, snapshot.receipts) == (3, 10, 3)
    assert snapshot.answers


def test_an_audit(bert_folder: Path, tmp_path: Path):
    """`annotate --audit` writes two outputs and one Parquet copy of an input of another format."""
    golds = {"answers": {"text": ["Ada"], "answer_start": [28]}}
    rows = [json.dumps(row | golds) for row in examples(5).to_pylist()]
    (tmp_path / "in.jsonl").write_text("\n".join(rows), "utf-8")
    output = tmp_path / "out"
    arguments = (f"--input={tmp_path}/in.jsonl", f"--output={output}", f"--model={bert_folder}")
    assert run("annotate", "--audit", *arguments) == 0
    (output / "audit" / "manifest.json").unlink()
    snapshot = look(output / "audit")
    assert (snapshot.stage, snapshot.state, snapshot.outcomes["scored"]) == ("audit", "running", 5)
    assert snapshot.answers[0].question == "Who kept lamp 0?"
    assert snapshot.planned_rows == 5
    (output / "manifest.json").unlink()
    snapshot = look(output)
    assert (snapshot.stage, snapshot.state, snapshot.planned_rows) == ("annotate", "running", 5)


def test_a_question_list(bert_folder: Path, tmp_path: Path):
    """Outcomes are those of questions, rows are documents."""
    write_input(tmp_path / "in.parquet", examples(5).drop_columns(["question"]))
    lines = [{"question_id": each, "question": f"{each} lit it?"} for each in ("Who", "When")]
    write_input(tmp_path / "list.parquet", pa.Table.from_pylist(lines))
    output = tmp_path / "out"
    arguments = (f"--input={tmp_path}/in.parquet", f"--output={output}", f"--model={bert_folder}")
    assert run("annotate", f"--questions={tmp_path}/list.parquet", *arguments) == 0
    done = look(output)
    (output / "manifest.json").unlink()
    snapshot = look(output)
    for each in (done, snapshot):
        assert (each.rows, each.planned_rows, each.unit) == (5, 5, "questions")
        assert each.outcomes["answered"] == 10
    assert snapshot.answers[0].id == "row 0, Who"
    assert snapshot.answers[0].question == "Who lit it?"


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ('{"run": "x"', "does not describe a run"),
        ('{"run": "x"}', "does not describe a run"),
        ('{"configuration": {"stage": "compare"}, "inputs": []}', "output of compare"),
    ],
)
def test_what_can_not_be_watched_is_refused(tmp_path: Path, identity: str, message: str):
    (tmp_path / "run.json").write_text(identity, "utf-8")
    with pytest.raises(Refused, match=message):
        look(tmp_path)
