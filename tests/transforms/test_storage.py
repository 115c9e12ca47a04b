"""Files: what a pattern finds, and commits that are whole or not there."""

from __future__ import annotations

import bz2
import gzip
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from model.settings import split_names
from transforms import storage
from transforms.storage import (
    StorageError,
    absolute,
    building,
    commit,
    create,
    exists,
    find_inputs,
    is_local,
    join,
    list_names,
    open_dataset,
    open_file,
    open_parquet,
    read,
    remove,
)


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An output that is not there yet, in each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "out")
    request.getfixturevalue("memory")
    return "memory://out"


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestFindInputs:
    def test_files_globs_and_folders_are_one_sorted_list_with_each_file_once(self, tmp_path: Path):
        for name in ("b.parquet", "a.parquet", "deep/c.parquet", "deep/notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"12345")
        found = find_inputs(f"{tmp_path}/b.parquet, {tmp_path}/*.parquet,{tmp_path}")
        assert [file.path for file in found] == [
            f"{tmp_path}/{name}" for name in ("a.parquet", "b.parquet", "deep/c.parquet")
        ]
        assert [file.index for file in found] == [0, 1, 2]
        assert {file.size for file in found} == {5}
        assert all(file.rows is None for file in found)

    def test_a_relative_pattern_becomes_absolute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        (tmp_path / "a.parquet").touch()
        monkeypatch.chdir(tmp_path)
        assert [file.path for file in find_inputs("*.parquet")] == [f"{tmp_path}/a.parquet"]

    def test_links_to_files_count_as_files(self, tmp_path: Path):
        """The Hugging Face cache holds nothing but links: a glob that skips them would lose a whole data set silently."""
        (tmp_path / "blob").write_bytes(b"123")
        (tmp_path / "links").mkdir()
        (tmp_path / "links" / "a.parquet").symlink_to(tmp_path / "blob")
        by_glob, by_folder, by_name = (
            find_inputs(f"{tmp_path}/links{end}") for end in ("/*.parquet", "", "/a.parquet")
        )
        assert by_glob == by_folder == by_name
        assert by_glob[0].size == 3
        (tmp_path / "blob").write_bytes(b"456")
        os.utime(tmp_path / "blob", (1, 1))
        assert find_inputs(f"{tmp_path}/links")[0].state != by_folder[0].state

    def test_a_link_that_leads_nowhere_is_found_and_hides_no_other(self, tmp_path: Path):
        """Planning refuses it by name; without it, its rows would be missing without a word."""
        (tmp_path / "a.parquet").symlink_to(tmp_path / "gone")
        (tmp_path / "b.parquet").touch()
        for pattern in (f"{tmp_path}", f"{tmp_path}/*.parquet"):
            assert [Path(file.path).name for file in find_inputs(pattern)] == [
                "a.parquet",
                "b.parquet",
            ]

    def test_a_link_to_a_folder_is_looked_into_and_one_to_a_folder_above_it_is_not(
        self, tmp_path: Path
    ):
        (tmp_path / "in").mkdir()
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "a.parquet").touch()
        (tmp_path / "in" / "today").symlink_to(tmp_path / "data")
        (tmp_path / "data" / "round").symlink_to(tmp_path)
        for pattern in (f"{tmp_path}/in", f"{tmp_path}/in/*/*.parquet"):
            assert [file.path for file in find_inputs(pattern)] == [
                f"{tmp_path}/in/today/a.parquet"
            ]

    def test_links_that_lead_round_and_round_end(self, tmp_path: Path):
        for folder, other in (("a", "b"), ("b", "a")):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / f"{folder}.parquet").touch()
            for name in ("one", "two"):
                (tmp_path / folder / name).symlink_to(tmp_path / other)
        found = [f"{tmp_path}/a/a.parquet", f"{tmp_path}/b/b.parquet"]
        assert [file.path for file in find_inputs(str(tmp_path))] == found
        assert len(find_inputs(f"{tmp_path}/a")) == 2
        assert [file.path for file in find_inputs(f"{tmp_path}/a/tw*/*.parquet")] == [
            f"{tmp_path}/a/two/b.parquet"
        ]

    @pytest.mark.parametrize(
        "again",
        ["{0}/a/../a/x.parquet", "{0}//a/x.parquet", "{0}/links", "{0}/a/link.parquet", "{0}"],
    )
    def test_a_file_that_several_paths_lead_to_is_found_once(
        self, tmp_path: Path, again: str, caplog: pytest.LogCaptureFixture
    ):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x.parquet").touch()
        (tmp_path / "links").symlink_to(tmp_path / "a")
        (tmp_path / "a" / "link.parquet").symlink_to(tmp_path / "a" / "x.parquet")
        again = again.format(tmp_path)
        for patterns in (f"{again},{tmp_path}/a/x.parquet", f"{tmp_path}/a/x.parquet,{again}"):
            caplog.clear()
            assert [file.path for file in find_inputs(patterns)] == [f"{tmp_path}/a/x.parquet"]
            assert "lead to files that are read already: " in caplog.text

    def test_a_folder_that_a_glob_matches_is_no_input(self, tmp_path: Path):
        (tmp_path / "folder.parquet").mkdir()
        (tmp_path / "a.parquet").touch()
        assert [file.path for file in find_inputs(f"{tmp_path}/*.parquet")] == [
            f"{tmp_path}/a.parquet"
        ]

    def test_a_name_that_looks_like_a_glob_finds_its_own_file(self, tmp_path: Path):
        (tmp_path / "a[1].parquet").touch()
        assert [file.path for file in find_inputs(f"{tmp_path}/a[1].parquet")] == [
            f"{tmp_path}/a[1].parquet"
        ]

    @pytest.mark.parametrize(
        "name", ["a,b.parquet", "a::b.parquet", "a:b.parquet", "a#b.parquet", "a%20b.parquet"]
    )
    def test_any_name_can_be_given(self, tmp_path: Path, name: str):
        (tmp_path / name).touch()
        (tmp_path / "c.parquet").touch()
        given = f"{tmp_path}/{name}".replace(",", r"\,")
        found = [f"{tmp_path}/{name}", f"{tmp_path}/c.parquet"]
        assert [file.path for file in find_inputs(f"{given}, {tmp_path}/c.parquet")] == found

    def test_a_wildcard_that_means_nothing_is_refused(self, tmp_path: Path):
        with pytest.raises(StorageError, match=r"a\*\*.parquet': Invalid pattern"):
            find_inputs(f"{tmp_path}/a**.parquet")

    @pytest.mark.parametrize(
        "pattern", ["{0}/none.parquet", "{0}/*.csv", "{0}", "{0}/a.parquet,{0}/none.parquet"]
    )
    def test_a_pattern_that_matches_nothing_is_named(self, tmp_path: Path, pattern: str):
        (tmp_path / "sub").mkdir()
        if "a.parquet" in pattern:
            (tmp_path / "a.parquet").touch()
        last = pattern.format(tmp_path).split(",")[-1]
        with pytest.raises(StorageError, match="matches no") as refused:
            find_inputs(pattern.format(tmp_path))
        assert repr(last) in str(refused.value)

    @pytest.mark.parametrize("patterns", ["", ",", " , "])
    def test_no_pattern_at_all_is_refused(self, patterns: str):
        with pytest.raises(StorageError, match="names no file"):
            find_inputs(patterns)

    @pytest.mark.parametrize("url", ["nowhere://a/b.parquet", "s3nope://x"])
    def test_an_unknown_protocol_is_named(self, url: str):
        with pytest.raises(StorageError, match=url.split(":")[0]):
            find_inputs(url)

    def test_a_changed_file_has_another_version(self, tmp_path: Path):
        path = tmp_path / "a.parquet"
        path.write_bytes(b"1")
        os.utime(path, (1, 1))
        before = find_inputs(str(path))[0].version
        os.utime(path, (2, 2))
        assert find_inputs(str(path))[0].version != before

    @pytest.mark.parametrize(
        "name", ["ETag", "etag", "generation", "mtime", "updated", "LastModified", "last_modified"]
    )
    def test_the_version_is_what_the_store_offers(self, name: str):
        assert storage._version({"size": 3, name: "v1"}) == "v1"
        assert storage._version({"size": 3}) == ""

    @pytest.mark.parametrize("pattern", ["", "/*/*.parquet", "/**"])
    def test_a_folder_that_can_not_be_listed_is_no_empty_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
    ):
        """fsspec leaves it out without a word, and its rows with it. (Permissions do not bind the tests' user.)"""
        for folder in ("a", "locked"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "x.parquet").touch()
        scan = os.scandir

        def refuse(path: str) -> object:
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied", path)
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(StorageError, match=r"can't be listed: .*Permission denied"):
            find_inputs(f"{tmp_path}{pattern}")

    @pytest.mark.parametrize(
        ("names", "labels"),
        [
            (["a/x.parquet", "b/y.parquet"], ["x.parquet", "y.parquet"]),
            (
                ["a/x.parquet", "b/x.parquet", "b/y.parquet"],
                ["a/x.parquet", "b/x.parquet", "b/y.parquet"],
            ),
            (["1/a/x.parquet", "2/a/x.parquet"], ["1/a/x.parquet", "2/a/x.parquet"]),
        ],
    )
    def test_labels_tell_files_apart_and_are_no_longer_than_they_must(
        self, tmp_path: Path, names: list[str], labels: list[str]
    ):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        assert [file.label for file in find_inputs(str(tmp_path))] == labels

    def test_the_ending_may_be_of_any_case(self, tmp_path: Path):
        for name in ("a.PARQUET", "b.Parquet"):
            (tmp_path / name).touch()
        assert [Path(file.path).name for file in find_inputs(str(tmp_path))] == [
            "a.PARQUET",
            "b.Parquet",
        ]

    def test_objects_keep_their_protocol(self, memory: fsspec.AbstractFileSystem):
        memory.pipe_file("/in/a.parquet", b"12")
        assert [(file.path, file.size) for file in find_inputs("memory://in/*.parquet")] == [
            ("memory:///in/a.parquet", 2)
        ]


class TestWhatIsNotData:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> str:
        """Data, and what Spark, notebooks, editors and disk stations leave beside it."""
        for name in (
            *(
                "a.parquet",
                "_c0=1/b.parquet",
                "_temporary/0/c.parquet",
                ".ipynb_checkpoints/a-checkpoint.parquet",
            ),
            *(
                "_x.parquet",
                ".x.parquet",
                "deep/_y.parquet",
                "deep/z.parquet",
                "@eaDir/a.parquet",
                "~$a.parquet",
            ),
            "_SUCCESS",
        ):
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).touch()
        return str(tmp_path)

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("", ["_c0=1/b.parquet", "a.parquet", "deep/z.parquet"]),
            ("/*.parquet", ["a.parquet"]),
            ("/*", ["a.parquet"]),
            ("/*/*.parquet", ["_c0=1/b.parquet", "deep/z.parquet"]),
            ("/**/*.parquet", ["_c0=1/b.parquet", "a.parquet", "deep/z.parquet"]),
            ("/**/_*.parquet", ["_x.parquet", "deep/_y.parquet"]),
            ("/_*/**", ["_c0=1/b.parquet", "_temporary/0/c.parquet"]),
            ("/.x.parquet", [".x.parquet"]),
            ("/.*.parquet", [".x.parquet"]),
            ("/_temporary", ["_temporary/0/c.parquet"]),
            ("/_temporary/*/*.parquet", ["_temporary/0/c.parquet"]),
        ],
    )
    def test_it_is_left_out_unless_it_is_named(self, folder: str, pattern: str, names: list[str]):
        assert [file.path for file in find_inputs(folder + pattern)] == [
            f"{folder}/{name}" for name in names
        ]

    def test_the_log_says_how_many(self, folder: str, caplog: pytest.LogCaptureFixture):
        find_inputs(folder)
        assert "mark what is not data: 7 (" in caplog.text
        assert f"{folder}/.ipynb_checkpoints" in caplog.text
        caplog.clear()
        find_inputs(f"{folder}/deep/z.parquet,{folder}/a*")
        assert caplog.text == ""

    @pytest.mark.parametrize(
        "pattern",
        ["", "/table", "/table/*.parquet", "/table/data", "/table/data/day=1/*.parquet", "/**"],
    )
    @pytest.mark.parametrize(
        ("sign", "kind"),
        [
            ("_delta_log/00000000000000000000.json", "Delta Lake"),
            (".hoodie/hoodie.properties", "Hudi"),
            ("metadata/v1.metadata.json", "Iceberg"),
        ],
    )
    def test_a_table_is_refused_by_name(self, output: str, pattern: str, sign: str, kind: str):
        """Its files hold rows that were deleted; one that is named itself is the user's own affair."""
        for name in ("a.parquet", "data/day=1/b.parquet", sign):
            commit(f"{output}/table", b"x", *name.split("/"))
        with pytest.raises(StorageError, match=f"table is a table of {kind}"):
            find_inputs(output + pattern)
        assert find_inputs(f"{output}/table/a.parquet")[0].path == absolute(
            f"{output}/table/a.parquet"
        )

    def test_a_folder_called_metadata_makes_no_table(self, output: str):
        commit(output, b"x", "metadata", "notes.json")
        commit(output, b"x", "a.parquet")
        assert len(find_inputs(output)) == 1


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("a, b,a,,", ["a", "b"]),
        (r"a\,b,c", ["a,b", "c"]),
        (r"a\b", [r"a\b"]),
        ("", []),
        (" , ", []),
    ],
)
def test_names_of_a_list(listed: str, names: list[str]):
    assert split_names(listed) == tuple(names)


class TestPaths:
    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/etc", "a\\b"])
    def test_a_name_can_not_leave_its_folder(self, tmp_path: Path, name: str):
        with pytest.raises(StorageError, match="no name of a file"):
            join(str(tmp_path), name)
        with pytest.raises(StorageError, match="no name of a file"):
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

    def test_a_missing_folder_has_no_names(self, output: str):
        assert list_names(join(output, "parts")) == []
        assert not exists(join(output, "parts"))

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
        """Neither the output's nor that of a file in it."""
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

    def test_a_parquet_file_can_be_opened(self, output: str):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"a": [1, 2]}), sink)
        commit(output, sink.getvalue(), "a.parquet")
        with open_parquet(join(output, "a.parquet")) as file:
            assert file.read().to_pydict() == {"a": [1, 2]}

    def test_any_range_of_a_file_can_be_read(self, output: str):
        """Row groups of a file that is larger than what is fetched at once, and its metadata."""
        table = pa.table({"a": list(range(5000)), "b": [f"text {n} " * 20 for n in range(5000)]})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=700, compression="none")
        commit(output, sink.getvalue(), "a.parquet")
        with open_parquet(join(output, "a.parquet")) as file:
            assert file.read_row_group(3).equals(table.slice(2100, 700))
            assert (
                pa.Table.from_batches(file.iter_batches(batch_size=999, row_groups=[0, 7])).num_rows
                == 800
            )

    def test_a_file_is_opened_in_its_state_only(self, output: str):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"a": [1]}), sink)
        commit(output, sink.getvalue(), "a.parquet")
        (found,) = find_inputs(join(output, "a.parquet"))
        with open_parquet(found.path, found.state) as file:
            assert file.metadata.num_rows == 1
        with (
            pytest.raises(StorageError, match="has changed"),
            open_parquet(found.path, (found.size + 1, found.version)),
        ):
            pass

    def test_the_footer_of_a_file_is_parsed_once(self, tmp_path: Path):
        """A file of 10,000 row groups is opened 10,000 times. In another state, it is parsed again."""
        path, table = tmp_path / "a.parquet", pa.table({"a": list(range(9))})
        pq.write_table(table, path, row_group_size=3)
        (found,) = find_inputs(str(path))
        with open_parquet(found.path, found.state) as file:
            assert file.metadata.num_row_groups == 3
        content = path.read_bytes()
        footer = int.from_bytes(content[-8:-4], "little") + 8
        path.write_bytes(content[:-footer] + b"x" * footer)
        os.utime(path, (float(found.version), float(found.version)))
        (damaged,) = find_inputs(str(path))
        assert damaged.state == found.state
        for group in range(3):
            with open_parquet(found.path, found.state) as file:
                assert file.read_row_group(group).equals(table.slice(3 * group, 3))
        os.utime(path, (1, 1))
        (damaged,) = find_inputs(str(path))
        with pytest.raises(pa.ArrowInvalid), open_parquet(damaged.path, damaged.state):
            pass

    def test_what_has_changed_is_told(self, tmp_path: Path):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"a": [1]}), path)
        size = path.stat().st_size
        os.utime(path, (1, 1))
        (found,) = find_inputs(str(path))
        os.utime(path, (2, 2))
        with pytest.raises(StorageError) as changed, open_parquet(found.path, found.state):
            pass
        was, now = (
            f"{size} bytes, version of 1970-01-01T00:00:0{second}+00:00" for second in (1, 2)
        )
        assert f"it had {was}, it has {now}" in str(changed.value)
        assert storage.described(3, "1795861317016580") == "3 bytes, version 1795861317016580"
        assert storage.described(3, '"9dd4"') == '3 bytes, version "9dd4"'
        assert storage.described(3, "") == "3 bytes"

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
            raise KeyboardInterrupt  # no Exception: an interrupt must not leave a mess either

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
    """A file that is too big to be held as bytes, published as one that is whole."""

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
        """As the umask says, and not as temporary files are made elsewhere."""
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


def test_files_are_one_dataset(output: str):
    for number in (1, 2):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"n": [number, number * 10], "text": ["a", "b"]}), sink)
        commit(output, sink.getvalue(), f"{number}.parquet")
    found = open_dataset([join(output, "1.parquet"), join(output, "2.parquet")])
    assert found.to_table(columns=["n"], filter=pc.field("n") >= 10).to_pylist() == [
        {"n": 10},
        {"n": 20},
    ]
    assert [fragment.count_rows() for fragment in found.get_fragments()] == [2, 2]
