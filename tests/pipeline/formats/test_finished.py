"""Opening an output before its rows are read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.formats.finished import as_rows, open_run, read_manifest
from pipeline.job.options import Refused
from tests.runs import examples, run, write_input
from transforms.run_files import RunFiles


@pytest.fixture(scope="module")
def output(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    table = examples(5).rename_columns(["key", "question", "context"])
    source = write_input(folder / "a.parquet", table)
    options = (
        "--chunk_rows=2",
        "--output_prefix=qa_",
        "--id_column=key",
        "--keep_columns=key,context",
    )
    assert (
        run(
            "annotate",
            f"--input={source}",
            f"--output={folder}/out",
            f"--model={bert_folder}",
            *options,
        )
        == 0
    )
    return folder / "out"


def test_columns_are_known_by_what_they_are(output: Path):
    finished = open_run(str(output))
    assert (finished.stage, finished.state, len(finished.parts)) == ("annotate", "complete", 3)
    assert finished.output("status") == "qa_status"
    assert [finished.input(kind) for kind in ("id", "context", "question", "answers")] == [
        "key",
        "context",
        None,
        None,
    ]


def test_rows_come_in_order_with_the_columns_that_are_asked_for(output: Path):
    assert list(open_run(str(output)).rows(["key"])) == [{"key": f"row {n}"} for n in range(5)]


def test_a_run_that_did_not_finish_has_no_state(output: Path, tmp_path: Path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "run.json").write_bytes((output / "run.json").read_bytes())
    with pytest.raises(Refused, match="has no parts"):
        open_run(str(tmp_path))
    part = next((output / "parts").iterdir())
    (tmp_path / "parts" / part.name).write_bytes(part.read_bytes())
    assert open_run(str(tmp_path)).state == ""
    (tmp_path / "manifest.json").write_text(json.dumps({"state": "incomplete", "content": ""}))
    assert open_run(str(tmp_path)).state == "incomplete"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "1", '{"state": "complete"}', '{"content": ""}', "\udcff"]
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str):
    (tmp_path / "manifest.json").write_text(content, "utf-8", "surrogateescape")
    with pytest.raises(Refused, match=rf"^{tmp_path}/manifest\.json does not end a run: "):
        read_manifest(RunFiles(str(tmp_path)))


def test_what_is_no_output_is_named(tmp_path: Path):
    with pytest.raises(
        Refused, match=f"{tmp_path} has no run.json: it is not an output of annotate or audit"
    ):
        open_run(str(tmp_path))


def test_text_that_is_no_utf8_is_null_and_spoils_no_other():
    text = pa.array([b"a", b"\xff", b"b"], pa.binary()).view(pa.string())
    rows = list(as_rows(pa.table({"n": [1, 2, 3], "text": text})))
    assert rows == [{"n": 1, "text": "a"}, {"n": 2, "text": None}, {"n": 3, "text": "b"}]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"configuration": {}}'])
def test_a_run_json_that_describes_no_run(content: str, tmp_path: Path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(Refused, match=r"run\.json does not describe a run"):
        open_run(str(tmp_path))
