"""Storage: paths, reads, and commits that are whole or not there."""

from __future__ import annotations

import bz2
import gzip
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from transforms import storage
from transforms.storage import (
    StorageError,
    absolute,
    building,
    commit,
    commit_file,
    create,
    exists,
    is_local,
    join,
    list_names,
    list_times,
    open_file,
    read,
    remove,
    version_of,
)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestPaths:
    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/etc", "a\\b"])
    def test_a_name_can_not_leave_its_folder(self, tmp_path: Path, name: str):
        with pytest.raises(StorageError, match="not a valid name"):
            join(str(tmp_path), name)
        with pytest.raises(StorageError, match="not a valid name"):
            commit(str(tmp_path / "out"), b"x", "parts", name)
        assert files_below(tmp_path) == []

    def test_join_adds_names_to_folders_and_urls(self):
        assert join("/out/", "parts", "a") == "/out/parts/a"
        assert join("gs://bucket/out", "parts") == "gs://bucket/out/parts"

    def test_absolute_is_the_same_from_any_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        assert absolute("out/") == f"{tmp_path}/out"
        assert absolute(f"{tmp_path}/out") == f"{tmp_path}/out"
        assert absolute("memory://out/") == "memory:///out"

    def test_an_empty_path_is_not_the_working_folder(self):
        with pytest.raises(StorageError, match="empty path"):
            absolute("")

    def test_is_local(self, tmp_path: Path):
        assert is_local(str(tmp_path))
        assert not is_local("memory://out")


class TestCommit:
    def test_a_commit_makes_its_folders_and_can_be_read(self, output: str):
        commit(output, b"content", "parts", "a.parquet")
        assert read(join(output, "parts", "a.parquet")) == b"content"
        assert exists(join(output, "parts", "a.parquet"))
        assert list_names(join(output, "parts")) == ["a.parquet"]

    def test_a_commit_replaces_what_is_there(self, output: str):
        commit(output, b"one", "a")
        commit(output, pa.py_buffer(b"two"), "a")
        assert read(join(output, "a")) == b"two"

    def test_a_file_is_committed_like_bytes(self, output: str, tmp_path: Path):
        (tmp_path / "made").write_bytes(b"content")
        commit_file(output, str(tmp_path / "made"), "copies", "a.parquet")
        assert read(join(output, "copies", "a.parquet")) == b"content"
        assert (tmp_path / "made").exists()

    def test_a_missing_folder_has_no_names(self, output: str):
        assert list_names(join(output, "parts")) == []
        assert not exists(join(output, "parts"))

    def test_a_listing_has_the_times_of_files(self, output: str):
        begin = time.time()
        commit(output, b"x", "parts", "a")
        (name, modified), *more = list_times(join(output, "parts")).items()
        assert (name, more) == ("a", [])
        assert begin - 2 < modified < time.time() + 2  # clocks of file systems tick slowly
        assert list_times(join(output, "missing")) == {}

    def test_reading_a_missing_file_raises(self, output: str):
        with pytest.raises(FileNotFoundError):
            read(join(output, "a"))

    def test_create_is_exclusive(self, output: str):
        assert create(output, b"first", "run.json")
        assert not create(output, b"second", "run.json")
        assert read(join(output, "run.json")) == b"first"

    def test_remove_outlives_another_process_that_still_writes(self, tmp_path: Path):
        folder, until = tmp_path / "parts", time.monotonic() + 0.5

        def write() -> None:
            number = 0
            while time.monotonic() < until:
                number += 1
                with suppress(OSError):
                    folder.mkdir(exist_ok=True)
                    (folder / f"{number}").touch()
                    (folder / f"{number - 20}").unlink(missing_ok=True)

        writer = threading.Thread(target=write)
        writer.start()
        while writer.is_alive():
            remove(str(tmp_path), "parts")
        remove(str(tmp_path), "parts")
        assert not folder.exists()

    def test_remove_takes_files_and_folders_and_forgives_missing_ones(self, output: str):
        commit(output, b"x", "parts", "a")
        commit(output, b"x", "b")
        for name in ("parts", "b", "missing"):
            remove(output, name)
        assert list_names(output) == []
        assert list_names(join(output, "parts")) == []

    @pytest.mark.parametrize("name", ["run[12]", "run?", "run*", "**"])
    def test_remove_takes_no_name_for_a_pattern(self, output: str, name: str):
        """This holds for the name of the output and for the name of a file in it."""
        for folder in (name, "run1", "run2"):
            commit(join(output, folder), folder.encode(), "parts", "a")
            commit(join(output, folder), folder.encode(), "a[1]")
            commit(join(output, folder), folder.encode(), "a1")
        remove(join(output, name), "parts")
        remove(join(output, name), "a[1]")
        remove(join(output, name), "gone*")
        assert list_names(join(output, name, "parts")) == []
        assert list_names(join(output, name)) == ["a1"]
        for folder in ("run1", "run2"):
            assert list_names(join(output, folder)) == ["a1", "a[1]"]
            assert read(join(output, folder, "parts", "a")) == folder.encode()

    def test_the_first_bytes_can_be_read_alone(self, output: str):
        commit(output, b"content", "a")
        assert read(join(output, "a"), 3) == b"con"
        assert read(join(output, "a"), 30) == b"content"

    def test_only_one_of_many_creates_wins(self, tmp_path: Path):
        start = threading.Barrier(8)
        won: list[int] = []

        def attempt(number: int) -> None:
            start.wait()
            if create(str(tmp_path / "out"), str(number).encode(), "run.json"):
                won.append(number)

        threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert (tmp_path / "out" / "run.json").read_text() == str(won[0])

    @pytest.mark.parametrize("broken", ["replace", "fsync"])
    def test_a_commit_that_breaks_leaves_the_old_file_and_no_torn_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
    ):
        def fail(*_: object) -> None:
            raise KeyboardInterrupt  # not an Exception: an interrupt must not leave a mess either

        commit(str(tmp_path), b"old", "parts", "a")
        with monkeypatch.context() as patch:
            patch.setattr(storage.os, broken, fail)
            with pytest.raises(KeyboardInterrupt):
                commit(str(tmp_path), b"new", "parts", "a")
        assert files_below(tmp_path) == ["parts/a"]
        assert (tmp_path / "parts" / "a").read_bytes() == b"old"

    def test_a_create_that_breaks_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(storage.os, "link", fail)
            with pytest.raises(OSError, match="No space left"):
                create(str(tmp_path), b"x", "run.json")
        assert files_below(tmp_path) == []


class TestBuilding:
    """A file that is too large to hold in memory is published whole or not at all."""

    def test_it_is_there_once_it_is_done(self, output: str):
        path = join(output, "deep", "a.json")
        with building(path) as temporary:
            Path(temporary).write_bytes(b"whole")
            assert not exists(path)
        assert read(path) == b"whole"
        assert list_names(join(output, "deep")) == ["a.json"]
        assert not Path(temporary).exists()

    def test_it_replaces_what_is_there(self, output: str):
        commit(output, b"old", "a.json")
        with building(join(output, "a.json")) as temporary:
            Path(temporary).write_bytes(b"new")
        assert read(join(output, "a.json")) == b"new"

    def test_a_body_that_breaks_leaves_the_old_file_and_no_torn_one(self, output: str):
        commit(output, b"old", "a.json")
        with pytest.raises(RuntimeError), building(join(output, "a.json")) as temporary:
            Path(temporary).write_bytes(b"to")
            raise RuntimeError("stopped")
        assert read(join(output, "a.json")) == b"old"
        assert list_names(output) == ["a.json"]
        assert not Path(temporary).exists()

    def test_others_may_read_it(self, tmp_path: Path):
        """Its mode follows the umask; files that `tempfile` makes are private."""
        (tmp_path / "plain").touch()
        with building(f"{tmp_path}/a.json") as temporary:
            Path(temporary).touch()
        assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("name", "compress"),
    [("a.txt", bytes), ("a.txt.gz", gzip.compress), ("a.txt.bz2", bz2.compress)],
)
def test_a_file_is_decompressed_by_its_ending(
    output: str, name: str, compress: Callable[[bytes], bytes]
):
    commit(output, compress(b"one\ntwo\n"), name)
    with open_file(join(output, name)) as file:
        assert list(file) == [b"one\n", b"two\n"]


def test_states_in_messages():
    assert storage.described(3, "1795861317016580") == "3 bytes, version 1795861317016580"
    assert storage.described(3, '"9dd4"') == '3 bytes, version "9dd4"'
    assert storage.described(3, "") == "3 bytes"


@pytest.mark.parametrize(
    "name", ["ETag", "etag", "generation", "mtime", "updated", "LastModified", "last_modified"]
)
def test_the_version_is_what_the_store_offers(name: str):
    assert version_of({"size": 3, name: "v1"}) == "v1"
    assert version_of({"size": 3}) == ""


@pytest.mark.parametrize(
    ("info", "seconds"),
    [
        ({"mtime": 12.5, "created": 99.0}, 12.5),
        ({"LastModified": datetime(1970, 1, 1, 0, 1, tzinfo=UTC)}, 60.0),
        ({"updated": "1970-01-01T00:02:00.000Z"}, 120.0),
        ({"updated": "yesterday", "created": 7}, 7.0),
        ({}, 0.0),
    ],
)
def test_times_are_those_of_every_kind_of_store(
    info: dict[str, Any], seconds: float, monkeypatch: pytest.MonkeyPatch
):
    listing = [{"name": "/parts/a", "type": "file", **info}]
    monkeypatch.setattr(LocalFileSystem, "ls", lambda *_, **__: listing)
    assert list_times("/parts") == {"a": seconds}
