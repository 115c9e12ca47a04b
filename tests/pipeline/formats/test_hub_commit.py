"""A run as a commit of a stand-in of the hub, a process of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from pipeline.publish import main
from tests.hub import TOKEN, set_endpoint
from tests.runs import read_manifest


@pytest.fixture
def hub(hub_address: str, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    set_endpoint(hub_address, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return HfApi()


def listed(hub: HfApi) -> set[str]:
    return set(hub.list_repo_files("ada/answers", repo_type="dataset"))


def test_a_commit_holds_the_run_and_replaces_the_one_before(
    priced: Path, tmp_path: Path, hub: HfApi, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(priced, tmp_path / "out")
    last = max((tmp_path / "out" / "parts").iterdir())
    shutil.copy(last, last.with_name("zz-n2.parquet"))
    for name in ("own.txt", "parts/.DS_Store", "parts/notes.txt"):
        (tmp_path / "out" / name).write_text("not of the run")
    assert main([str(tmp_path / "out"), "--to=hub", "--name=ada/answers"]) == 0
    assert "3 parts in the data set ada/answers: commit " in capsys.readouterr().out
    assert "parts/zz-n2.parquet" in listed(hub)
    assert not {"own.txt", "parts/.DS_Store", "parts/notes.txt"} & listed(hub)

    assert main([str(priced), "--to=hub", "--name=ada/answers"]) == 0
    files = {str(path.relative_to(priced)) for path in priced.rglob("*") if path.is_file()}
    assert {"run.json", "manifest.json", f"parts/{last.name}"} <= files
    assert listed(hub) == {*files, "README.md"}


def test_refusals(priced: Path, tmp_path: Path, hub: HfApi, capsys: pytest.CaptureFixture[str]):
    assert main([str(priced), "--to=hub"]) == 2
    assert "--name USER/NAME" in capsys.readouterr().err
    assert main([str(priced), "--to=hub", "--name=a/b/c"]) == 2
    assert "refused: --to=hub: " in capsys.readouterr().err
    shutil.copytree(priced, tmp_path / "out")
    manifest = read_manifest(priced) | {"state": "incomplete", "why": ["1 chunks failed"]}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    assert main([str(tmp_path / "out"), "--to=hub", "--name=ada/answers"]) == 2
    assert "is incomplete: 1 chunks failed" in capsys.readouterr().err
