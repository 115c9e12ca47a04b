"""The files and columns of a job: unreadable ones are refused by name before a row is read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.job.options import Refused
from tests.pipeline.job.conftest import Resolve
from tests.runs import examples, write_input


class TestInputRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--input=/nowhere/*.parquet",), "--input: '/nowhere/*.parquet' matches no file"),
            (("--input=",), "--input is missing"),
            (("--input=,",), "--input: ',' names no file"),
            (("--output=",), "--output: an empty path"),
            (("--output=nosuch://a",), "--output: nosuch://a: "),
            (("--model=nosuch://a",), "--model: nosuch://a: "),
            (("--model=/nowhere",), "--model: "),
            (
                ("--question_column=ask",),
                "--question_column=ask: {source} has the columns id, question, context",
            ),
            (
                ("--question_column={q}",),
                "--question_column={{q}}: {source} has the columns id, question, context",
            ),
            (
                ("--context_column=text",),
                "--context_column=text: {source} has the columns id, question, context",
            ),
            (
                ("--keep_columns=id,score",),
                "--keep_columns: {source} has no column 'score', only id, question, context",
            ),
            (
                ("--output_prefix=q", "--id_column=qstatus"),
                "the output column 'qstatus' is already an input column",
            ),
            (
                ("--locate=page", "--output_prefix=q", "--id_column=qpage"),
                "the output column 'qpage' is already an input column",
            ),
        ],
    )
    def test_what_is_not_there_is_named(
        self, job: Resolve, source: Path, arguments: tuple[str, ...], message: str
    ):
        with pytest.raises(Refused) as refused:
            job(*arguments)
        assert message.format(source=source) in str(refused.value)

    @pytest.mark.parametrize(
        ("option", "word", "wanted"),
        [
            ("page_column", "page", "list<int32>"),
            ("section_column", "section", "list<struct<start: int32, title: string>>"),
        ],
    )
    def test_columns_of_places(
        self, job: Resolve, source: Path, tmp_path: Path, option: str, word: str, wanted: str
    ):
        """They are read, whether kept or not, and in the identity only if they are given."""
        locate = f"--locate=sentence,{word}"
        with pytest.raises(Refused, match=f"--{option}=at: {source} has the columns id, question"):
            job(locate, f"--{option}=at")
        with pytest.raises(Refused) as refused:
            job(locate, f"--{option}=id")
        assert str(refused.value) == f"--{option}=id: {source}: it is string, not {wanted}"
        values = [[0, 3]] * 3 if word == "page" else [[{"start": 0, "title": "One"}]] * 3
        path = write_input(tmp_path / "b.parquet", examples(3).append_column("at", [values]))
        for other in ("", "--locate=sentence"):
            with pytest.raises(Refused, match=f"--{option}=at: only --locate {word} reads it"):
                job(f"--input={path}", f"--{option}=at", *filter(None, [other]))
        read = job(f"--input={path}", locate, f"--{option}=at", "--keep_columns=id")
        assert "at" in read.inputs.expected.names
        assert "at" not in read.columns.keep
        assert read.configuration_of("annotate")[option] == "at"
        assert option not in job(f"--input={path}", locate).configuration_of("annotate")

    def test_a_column_that_is_not_asked_for_clashes_with_none(self, job: Resolve):
        assert job("--output_prefix=q", "--id_column=qpage").columns.id == "qpage"

    def test_an_id_column_that_is_missing_is_logged_if_it_was_named(
        self, job: Resolve, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        path = write_input(tmp_path / "b.parquet", examples(3).drop_columns("id"))
        with caplog.at_level("INFO", "spanmill"):
            job(f"--input={path}")
            assert "id_column" not in caplog.text
            assert job(f"--input={path}", "--id_column=key").columns.id == "key"
        assert f"--id_column=key: {path} has no such column" in caplog.text

    def test_an_input_below_the_output_is_refused(self, job: Resolve, source: Path, tmp_path: Path):
        """A rerun would read its own parts."""
        with pytest.raises(Refused, match=f"{source} is inside --output={tmp_path}"):
            job(f"--output={tmp_path}")
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(Refused, match="is inside --output="):
            job(f"--output={tmp_path}/link")
        # A prefix of the name is not a parent folder.
        assert job(f"--output={str(source)[:-1]}").output == str(source)[:-1]

    @pytest.mark.parametrize(
        ("column", "values", "message"),
        [
            ("question", pa.array([1, 2, 3]), "column 'question' is int64, not text"),
            ("context", pa.array([["a"]] * 3), "column 'context' is list<"),
        ],
    )
    def test_texts_must_be_text(
        self, job: Resolve, tmp_path: Path, column: str, values: pa.Array, message: str
    ):
        table = examples(3)
        path = write_input(
            tmp_path / "b.parquet",
            table.set_column(table.column_names.index(column), column, values),
        )
        with pytest.raises(Refused) as refused:
            job(f"--input={path}")
        assert f"--input: {path}: {message}" in str(refused.value)

    def test_a_column_twice_is_refused(self, job: Resolve, tmp_path: Path):
        table = examples(3).append_column("id", pa.array([1, 2, 3]))
        path = write_input(tmp_path / "b.parquet", table)
        with pytest.raises(Refused, match="there is more than one column 'id'"):
            job(f"--input={path}")

    def test_types_hold_what_all_files_have(self, job: Resolve, tmp_path: Path):
        """The order of files does not matter. Planning refuses damaged files and unfit types."""
        columns = {
            "a": (pa.array([None] * 3), pa.array([1, 2, 3])),
            "b": (pa.array([1, 2, 3], pa.int32()), pa.array([1, 2, 3], pa.int64())),
            "c": (pa.array([[None]] * 3), pa.array([["x"]] * 3)),
            "d": (pa.array([1, 2, 3]), pa.array(["1", "2", "3"])),
        }
        for place in (0, 1):
            table = examples(3)
            for name, values in columns.items():
                table = table.append_column(name, values[place])
            write_input(tmp_path / f"in{place}" / "x.parquet", table)
            write_input(tmp_path / f"in{1 - place}" / "z.parquet", table)
            (tmp_path / f"in{place}" / "y.parquet").write_bytes(b"damaged")
        for place in (0, 1):
            found = job(f"--input={tmp_path}/in{place}").inputs.expected
            assert found.field("a").type == found.field("b").type == pa.int64()
            assert found.field("c").type == pa.list_(pa.string())
            assert found.field("d").type == columns["d"][place].type

    def test_folders_of_the_path_are_columns(self, job: Resolve, tmp_path: Path):
        path = write_input(tmp_path / "in" / "lang=en" / "id=7" / "a.parquet", examples(3))
        found = job(f"--input={path}")
        assert found.inputs.expected == examples(3).schema.append(pa.field("lang", pa.string()))
        assert found.columns.keep == ("id", "question", "context", "lang")
        assert job(f"--input={path}", "--keep_columns=id").inputs.expected.names == [
            "id",
            "question",
            "context",
        ]

    def test_a_limit_takes_the_first_files_only(self, job: Resolve, tmp_path: Path):
        for name in "xyz":
            write_input(tmp_path / "in" / f"{name}.parquet", examples(4))
        found = job(f"--input={tmp_path}/in", "--limit=6")
        assert [(Path(file.path).name, file.rows) for file in found.files] == [
            ("x.parquet", 4),
            ("y.parquet", 2),
        ]
