"""FindInputs: which files a pattern finds, and which folders are refused."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from model.settings import split_names
from transforms.find_inputs import find_inputs
from transforms.storage import StorageError, absolute, commit


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

    def test_a_name_that_is_not_utf8_is_refused(self, tmp_path: Path):
        """Arrow opens no such file, and run.json can't list it."""
        (tmp_path / "a.parquet").touch()
        odd = os.path.join(os.fsencode(tmp_path), b"\xe9.parquet")
        with open(odd, "wb"):
            pass
        for pattern in (str(tmp_path), os.fsdecode(odd)):
            with pytest.raises(StorageError, match="its name is not UTF-8: rename the file"):
                find_inputs(pattern)

    def test_links_to_files_count_as_files(self, tmp_path: Path):
        """The Hugging Face cache consists of links; skipping them would lose data silently."""
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
        """Planning refuses it by name; otherwise its rows would be missing silently."""
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
            assert "paths of files that are already among the inputs" in caplog.text

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

    @pytest.mark.parametrize("pattern", ["", "/*/*.parquet", "/**"])
    def test_a_folder_that_can_not_be_listed_is_no_empty_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
    ):
        """fsspec omits it silently, and so its rows. (Permissions don't bind the tests' user.)"""
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
        """Data, and what Spark, notebooks, editors and disk stations leave next to it."""
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
        assert "skipping 7 files and folders whose names" in caplog.text
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
        """Its files hold deleted rows too; a file that the user names is read all the same."""
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
