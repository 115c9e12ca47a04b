"""StoredFolder: downloaded once, verified by digest, stored where nobody else can write."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import fsspec
import pytest

from model.checkpoint import CheckpointError, digest
from transforms import storage, stored_folder
from transforms.stored_folder import StoredFolder


@pytest.fixture
def url(
    memory: fsspec.AbstractFileSystem,
    bert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Return the tiny checkpoint in an object store, with an empty cache on this machine."""
    for path in bert_folder.iterdir():
        memory.pipe_file(f"/models/bert/{path.name}", path.read_bytes())
    memory.pipe_file("/models/bert/modeling_bert.py", b"raise SystemExit")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return "memory://models/bert"


def test_it_is_fetched_whole_without_code(url: str, bert_folder: Path):
    folder = StoredFolder(url).folder()
    assert digest(folder) == digest(bert_folder)
    assert not list(folder.glob("*.py"))


def test_with_its_digest_it_is_fetched_once(
    url: str, bert_folder: Path, memory: fsspec.AbstractFileSystem
):
    location = StoredFolder(url, digest(bert_folder))
    folder = location.folder()
    memory.store.clear()  # a second download would fail
    assert location.folder() == folder


def test_of_many_at_once_one_fetches_and_the_others_wait(
    url: str, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    fetched: Counter[str] = Counter()
    together = Barrier(8)

    def fetch(path: str, target: str) -> None:
        fetched[path] += 1
        storage.fetch(path, target)

    def folder(_: int) -> Path:
        together.wait()
        return StoredFolder(url, digest(bert_folder)).folder()

    monkeypatch.setattr(stored_folder, "fetch", fetch)
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(folder, range(8)))
    assert len(folders) == 1
    assert set(fetched.values()) == {1}


def test_what_a_killed_process_fetched_is_removed(url: str, tmp_path: Path, bert_folder: Path):
    left = tmp_path / f"spanmill-models-{os.getuid()}" / "fetching-1"
    left.mkdir(parents=True, mode=0o700)
    left.parent.chmod(0o700)
    (left / "model.safetensors").write_bytes(b"the beginning")
    StoredFolder(url).folder()
    assert [path.name for path in left.parent.iterdir()] == [digest(bert_folder)]


@pytest.mark.parametrize("others", ["writable", "link"])
def test_a_cache_that_others_can_write_is_not_used(url: str, tmp_path: Path, others: str):
    """Its name is predictable, and every user can write to the folder for temporary files."""
    cache = tmp_path / f"spanmill-models-{os.getuid()}"
    if others == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        cache.symlink_to(tmp_path / "theirs")
    else:
        cache.mkdir()
        cache.chmod(0o777)
    with pytest.raises(CheckpointError, match="only this user can write"):
        StoredFolder(url).folder()


def test_a_fetch_leaves_nothing_but_the_folder(url: str, tmp_path: Path, bert_folder: Path):
    StoredFolder(url).folder()
    StoredFolder(url).folder()
    assert [path.name for path in tmp_path.glob("spanmill-models-*/*")] == [digest(bert_folder)]


def test_another_digest_is_refused_and_not_kept(url: str, tmp_path: Path):
    with pytest.raises(CheckpointError, match="not the one that this run was started with"):
        StoredFolder(url, "0" * 64).folder()
    assert list(tmp_path.glob("spanmill-models-*/*")) == []


def test_a_folder_without_config_is_refused(url: str, memory: fsspec.AbstractFileSystem):
    memory.rm("/models/bert/config.json")
    with pytest.raises(CheckpointError, match=r"memory://models/bert has no config\.json"):
        StoredFolder(url).folder()
