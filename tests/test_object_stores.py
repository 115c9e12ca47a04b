"""Whole jobs on object stores, each a server process, equal those on a local disk."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from model.checkpoint import digest
from tests.runs import examples, read_manifest, read_parts, run, wait_until, write_input
from tests.started import start, start_function
from tests.stores import Store, gcs, s3
from transforms.find_inputs import find_inputs
from transforms.parquet_files import open_parquet
from transforms.storage import commit, create, read, remove
from transforms.stored_folder import StoredFolder

STORES = {"s3": s3, "gcs": gcs}


pytestmark = pytest.mark.usefixtures("no_models_cached")


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with STORES[request.param]() as running:
        yield running


@pytest.fixture(scope="module")
def model(store: Store, bert_folder: Path) -> str:
    return store.put(bert_folder, "models/bert")


def with_golds(count: int, first: int = 0) -> pa.Table:
    table = examples(count, first)
    golds = [
        {"text": ["Ada"], "answer_start": [text.index("Ada")]}
        for text in table["context"].to_pylist()
    ]
    return table.append_column("answers", pa.array(golds))


def manifest_of(store: Store, name: str) -> dict:
    return json.loads(read(f"{store.url}/{name}/manifest.json"))


def test_annotate_and_audit_as_on_a_local_disk(
    store: Store, model: str, bert_folder: Path, tmp_path: Path
):
    for name, first in (("a", 0), ("b", 100)):
        write_input(tmp_path / "in" / f"{name}.parquet", with_golds(9, first), row_group_size=5)
    source = store.put(tmp_path / "in", "both/in")
    for local in (True, False):
        inputs = tmp_path / "in" if local else f"{source}/*.parquet"
        output = tmp_path / "here" if local else f"{store.url}/both/out"
        checkpoint = bert_folder if local else model
        arguments = (
            f"--input={inputs}",
            f"--output={output}",
            f"--model={checkpoint}",
            "--chunk_rows=4",
            "--audit",
        )
        assert run("annotate", *arguments) == 0

    there = store.get("both/out", tmp_path / "there")
    assert sorted(path.name for path in there.iterdir()) == [
        "audit",
        "manifest.json",
        "parts",
        "run.json",
    ]
    for tree in (".", "audit"):
        here, fetched = read_manifest(tmp_path / "here" / tree), read_manifest(there / tree)
        for figure in ("state", "rows", "content", "windows", "tokens", "chunks", "configuration"):
            assert fetched[figure] == here[figure]
        assert read_parts(there / tree).equals(read_parts(tmp_path / "here" / tree))
    assert json.loads((there / "audit" / "duplicates.json").read_text())["repeated_pairs"] == 0
    inputs = json.loads((there / "run.json").read_text())["inputs"]
    assert [entry["path"] for entry in inputs] == [f"{source}/a.parquet", f"{source}/b.parquet"]
    assert all(entry["version"] for entry in inputs)


def test_files_in_other_formats_are_copied_to_the_store(store: Store, model: str, tmp_path: Path):
    (tmp_path / "in").mkdir()
    lines = [json.dumps(row) + "\n" for row in examples(5).to_pylist()]
    (tmp_path / "in" / "a.jsonl").write_text("".join(lines), "utf-8")
    source = store.put(tmp_path / "in", "copied/in")
    arguments = f"--input={source}/*.jsonl", f"--output={store.url}/copied/out", f"--model={model}"
    for _ in range(2):
        assert run("annotate", *arguments) == 0
    copy, report = sorted(store.files.ls(f"{store.url}/copied/out/copies", detail=False))
    assert report == f"{copy}.golds.jsonl"
    there = store.get("copied/out", tmp_path / "there")
    assert read_parts(there)["id"].to_pylist() == examples(5)["id"].to_pylist()
    (entry,) = json.loads((there / "run.json").read_text())["inputs"]
    assert (entry["path"], entry["copy"]) == (f"{source}/a.jsonl", copy.rpartition("/")[2])


def test_a_killed_run_is_gone_on_with(store: Store, model: str, tmp_path: Path):
    """After a kill, committed objects are complete and stay."""
    rows = 120
    write_input(tmp_path / "in" / "a.parquet", examples(rows))
    source, output = store.put(tmp_path / "in", "killed/in"), f"{store.url}/killed/out"
    arguments = (f"--input={source}", f"--output={output}", f"--model={model}", "--chunk_rows=4")
    process = start(["annotate", *arguments], tmp_path / "log")
    parts = f"{output}/parts"

    def writes() -> bool:
        assert process.exitcode is None, (tmp_path / "log").read_text()
        return store.files.exists(parts) and len(store.files.ls(parts, detail=False)) >= 3

    wait_until(writes)
    process.kill()
    process.join()
    assert not store.files.exists(f"{output}/manifest.json")
    kept = versions(store, parts)
    assert 3 <= len(kept) < rows / 4

    assert run("annotate", *arguments) == 0
    assert manifest_of(store, "killed/out")["rows"]["answered"] == rows
    assert versions(store, parts).items() >= kept.items()
    table = read_parts(store.get("killed/out", tmp_path / "out"))
    assert table.column("id").to_pylist() == [f"row {n}" for n in range(rows)]


def versions(store: Store, folder: str) -> dict[str, str]:
    """Return the time of every object of a folder."""
    listed = store.files.ls(folder, detail=True)
    return {
        entry["name"]: str(entry.get("generation") or entry["LastModified"]) for entry in listed
    }


def test_another_run_is_refused_and_removed_when_asked(
    store: Store, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_input(tmp_path / "in" / "a.parquet", examples(6))
    arguments = (
        f"--input={store.put(tmp_path / 'in', 'other/in')}",
        f"--output={store.url}/other/out",
        f"--model={model}",
    )
    assert run("annotate", *arguments, "--chunk_rows=2") == 0
    before = versions(store, f"{store.url}/other/out/parts")
    assert run("annotate", *arguments, "--chunk_rows=4") == 2
    assert "chunk_rows was 2, is 4" in capfd.readouterr().err
    assert versions(store, f"{store.url}/other/out/parts") == before
    assert run("annotate", *arguments, "--chunk_rows=4", "--overwrite") == 0
    assert len(store.files.ls(f"{store.url}/other/out/parts")) == 2
    assert manifest_of(store, "other/out")["rows"]["answered"] == 6


def test_an_output_whose_name_looks_like_a_glob_touches_no_other(
    store: Store, model: str, tmp_path: Path
):
    """The output's name, as a pattern, would match each of the other names."""
    write_input(tmp_path / "in" / "a.parquet", examples(6))
    source = store.put(tmp_path / "in", "glob/in")
    others = [
        f"{store.url}/glob/{name}/{file}"
        for name in ("run1x", "run2yz")
        for file in ("manifest.json", "parts/p", "run.json")
    ]
    for path in others:
        store.files.pipe_file(path, path.encode())
    output = f"{store.url}/glob/run[12]*?"
    arguments = (f"--input={source}", f"--output={output}", f"--model={model}")
    for code, *more in (
        (0, "--chunk_rows=2"),
        (0, "--chunk_rows=2"),
        (2, "--chunk_rows=4"),
        (0, "--chunk_rows=4", "--overwrite"),
    ):
        assert run("annotate", *arguments, *more) == code
    assert len(versions(store, f"{output}/parts")) == 2
    assert manifest_of(store, "glob/run[12]*?")["rows"]["answered"] == 6
    assert all(store.files.cat_file(path) == path.encode() for path in others)


def test_what_is_removed_is_gone_and_nothing_else(store: Store):
    folder = f"{store.url}/removed/a[1]"
    for name in ("parts/x", "parts/deep/y", "partsx", "run.json", "run.json.old"):
        commit(folder, b"x", *name.split("/"))
    for name in ("parts", "run.json", "missing"):
        remove(folder, name)
    base = folder.split("://")[1]
    assert sorted(store.files.find(base)) == [f"{base}/partsx", f"{base}/run.json.old"]


def test_keys_with_two_slashes_are_found_and_what_marks_a_folder_is_not(
    store: Store, tmp_path: Path
):
    """Consoles represent a folder by an empty object whose key ends with a slash."""
    table = examples(2)
    write_input(tmp_path / "a.parquet", table)
    content = (tmp_path / "a.parquet").read_bytes()
    for name in ("a.parquet", "/b.parquet", "/deep//c.parquet"):
        store.files.pipe_file(f"{store.url}/slashes/{name}", content)
    for name in ("", "d.parquet/"):
        mark_folder(store, f"slashes/{name}")
    base = f"{store.url}/slashes"
    for pattern in (base, f"{base}/**", f"{base}/**/*.parquet"):
        found = [file.path for file in find_inputs(pattern)]
        assert found == [f"{base}//b.parquet", f"{base}//deep//c.parquet", f"{base}/a.parquet"]
    assert [file.path for file in find_inputs(f"{base}//*.parquet")] == [f"{base}//b.parquet"]
    assert [file.path for file in find_inputs(f"{base}/*.parquet")] == [f"{base}/a.parquet"]
    (found,) = find_inputs(f"{base}//b.parquet")
    with open_parquet(found.path, found.state) as file:
        assert file.read().equals(table)


def mark_folder(store: Store, key: str) -> None:
    """Put an empty object of this key. fsspec cannot: it strips the last slash."""
    bucket = store.url.split("://")[1]
    if store.url.startswith("s3"):
        store.files.call_s3("put_object", Bucket=bucket, Key=key, Body=b"")
        return
    name = urllib.parse.quote(key, safe="")
    host = store.environment["STORAGE_EMULATOR_HOST"]
    address = f"{host}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}"
    urllib.request.urlopen(urllib.request.Request(address, data=b"", method="POST")).close()


def test_of_many_that_create_a_file_one_wins(store: Store):
    """The stores decide this, so that two runs can never both claim an output."""
    contents = [f"claim {n}".encode() for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        created = list(
            pool.map(lambda content: create(f"{store.url}/claims", content, "run.json"), contents)
        )
    assert sum(created) == 1
    assert read(f"{store.url}/claims/run.json") == contents[created.index(True)]


def fetch(url: str, wanted: str, told: Path) -> int:
    """Download the model, and write the folder's path into a file."""
    told.write_text(str(StoredFolder(url, wanted).folder()))
    return 0


def test_a_model_is_fetched_once_for_all_processes_of_a_machine(
    store: Store, bert_folder: Path, tmp_path: Path
):
    url = store.put(bert_folder, "models/shared")
    wanted = digest(bert_folder)
    processes = [
        start_function(partial(fetch, url, wanted, tmp_path / f"folder {n}"), tmp_path / "log")
        for n in (1, 2)
    ]
    for process in processes:
        process.join()
        assert process.exitcode == 0, (tmp_path / "log").read_text()
    folders = {(tmp_path / f"folder {n}").read_text() for n in (1, 2)}
    assert len(folders) == 1
    assert digest(Path(folders.pop())) == wanted
    assert [path.name for path in tmp_path.glob("spanmill-models-*/*")] == [wanted]
    store.files.rm(url, recursive=True)  # a second download would fail
    assert digest(StoredFolder(url, wanted).folder()) == wanted


@pytest.mark.parametrize("missing", ["input", "model", "bucket"])
def test_what_is_not_there_is_refused_by_name(
    store: Store, model: str, tmp_path: Path, missing: str, capfd: pytest.CaptureFixture[str]
):
    write_input(tmp_path / "in" / "a.parquet", examples(2))
    source = store.put(tmp_path / "in", "there/in")
    nowhere = store.url.replace("corpus", "no-such-bucket")
    given = {
        "input": f"{store.url}/nowhere/*.parquet" if missing == "input" else source,
        "model": f"{store.url}/models/nowhere" if missing == "model" else model,
        "output": f"{nowhere}/out" if missing == "bucket" else f"{store.url}/there/out",
    }
    assert run("annotate", *(f"--{name}={value}" for name, value in given.items())) == 2
    message = capfd.readouterr().err
    assert "refused: " in message
    assert given["output" if missing == "bucket" else missing] in message
    assert not store.files.exists(f"{store.url}/there/out")
