"""Data sets of the Hugging Face hub as inputs, and a file of one as an output, on a stand-in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from pipeline import convert
from tests.hub import TOKEN, set_endpoint
from tests.runs import Annotate, examples, identities, read_parts, run, write_input
from transforms import retries
from transforms.find_inputs import find_inputs
from transforms.parquet_files import open_parquet
from transforms.storage import StorageError

REPOSITORY = "ada/lamps"
URL = f"hf://datasets/{REPOSITORY}"


@pytest.fixture
def hub(hub_address: str, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    """Return the API of a hub with an empty data set."""
    set_endpoint(hub_address, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    api = HfApi()
    api.delete_repo(REPOSITORY, repo_type="dataset", missing_ok=True)
    api.create_repo(REPOSITORY, repo_type="dataset")
    return api


def put(hub: HfApi, name: str, path: Path) -> str:
    """Commit a file. Returns the commit."""
    return hub.upload_file(
        path_or_fileobj=path, path_in_repo=name, repo_id=REPOSITORY, repo_type="dataset"
    ).oid


def paths(output: Path) -> list[str]:
    return [each["path"] for each in json.loads((output / "run.json").read_text())["inputs"]]


def test_runs_read_files_at_the_commits_that_changed_them(
    hub: HfApi, annotate: Annotate, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
):
    write_input(tmp_path / "a.parquet", examples(30), row_group_size=10)
    (tmp_path / "b.jsonl").write_text(json.dumps(examples(1, 30).to_pylist()[0]) + "\n", "utf-8")
    first = put(hub, "data/lang=en/a.parquet", tmp_path / "a.parquet")
    second = put(hub, "data/b.jsonl", tmp_path / "b.jsonl")
    options = "--chunk_rows=5", "--keep_columns=id"
    assert annotate(f"{URL}/data/**/*.*", output, *options) == 0
    assert sorted(read_parts(output)["id"].to_pylist()) == sorted(f"row {n}" for n in range(31))
    parquet, lines = f"{URL}@{first}/data/lang=en/a.parquet", f"{URL}@{second}/data/b.jsonl"
    assert paths(output) == sorted([parquet, lines])

    # Commits of other files change nothing, those of the inputs are another run.
    kept = identities(output)
    put(hub, "README.txt", tmp_path / "b.jsonl")
    assert annotate(f"{URL}/data/**/*.*", output, *options) == 0
    assert identities(output) == kept
    write_input(tmp_path / "a.parquet", examples(20))
    third = put(hub, "data/lang=en/a.parquet", tmp_path / "a.parquet")
    capfd.readouterr()
    assert annotate(f"{URL}/data/**/*.*", output, *options) == 2
    refused = capfd.readouterr().err
    assert f"@{first}/data/lang=en/a.parquet" in refused or f"@{third}/" in refused
    with open_parquet(parquet) as file:  # what the workers of the first run still read
        assert file.read().equals(examples(30))


def test_folders_revisions_and_globs(hub: HfApi, tmp_path: Path):
    path = write_input(tmp_path / "a.parquet", examples(1))
    first = put(hub, "a.parquet", path)
    second = put(hub, "deep/b.parquet", path)
    files = [f"{URL}@{first}/a.parquet", f"{URL}@{second}/deep/b.parquet"]
    for pattern in (URL, f"{URL}@main", f"{URL}@{second}", f"{URL}/**/*.parquet"):
        assert [file.path for file in find_inputs(pattern)] == sorted(files)
    assert [file.path for file in find_inputs(f"{URL}@{first}")] == files[:1]
    (one, other) = find_inputs(f"{URL}/a.parquet,{URL}/deep")
    assert one.version == other.version != ""
    assert one.size == path.stat().st_size


@pytest.mark.parametrize("missing", ["user", "data set", "revision", "file", "token", "server"])
def test_what_is_not_there_is_named(
    hub: HfApi, missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    put(hub, "a.parquet", write_input(tmp_path / "a.parquet", examples(1)))
    pattern = {
        "user": "hf://datasets/lamps",
        "data set": "hf://datasets/ada/none/a.parquet",
        "revision": f"{URL}@none/a.parquet",
        "file": f"{URL}/none.parquet",
    }.get(missing, f"{URL}/a.parquet")
    if missing == "token":
        monkeypatch.delenv("HF_TOKEN")
    if missing == "server":
        set_endpoint("http://127.0.0.1:1", monkeypatch)
        monkeypatch.setattr(retries.POLICY, "sleep", lambda _: None)
    with pytest.raises(StorageError) as refused:
        find_inputs(pattern)
    assert pattern in str(refused.value)


def test_one_file_is_written_in_one_commit_and_a_run_is_refused(
    hub: HfApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "a.csv").write_text("question,context\nWho?,Ada lit the lamp.\n", "utf-8")
    put(hub, "a.csv", tmp_path / "a.csv")
    output = f"{URL}/made/a.parquet"
    assert convert.main(["import", f"--input={URL}/a.csv", f"--output={output}"]) == 0
    (file,) = find_inputs(output)
    with open_parquet(file.path, file.state) as opened:
        assert opened.read().column("question").to_pylist() == ["Who?"]
    capfd.readouterr()
    assert run("annotate", f"--input={output}", f"--output={URL}/out") == 2
    assert f"--output={URL}/out: " in (message := capfd.readouterr().err)
    assert "pipeline.publish FOLDER --to hub" in message
