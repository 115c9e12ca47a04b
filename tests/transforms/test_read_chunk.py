"""ReadChunk: each chunk has its own rows, committed chunks are skipped, errors are receipts."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms import read_chunk
from transforms.claim import Output
from transforms.find_inputs import find_inputs
from transforms.plan_chunks import ChunkSize, plan_file
from transforms.read_chunk import committed_receipt, read_run, read_tables
from transforms.records import RECEIPT_KEY, Chunk, ChunkRun, Receipt, path_columns
from transforms.storage import commit
from transforms.write_chunk import to_parquet


@pytest.fixture
def table() -> pa.Table:
    """Return thirty rows with types that are hard to read in pieces."""
    rows = range(30)
    return pa.table(
        {
            "question": [f"question {row}" for row in rows],
            "source": pa.array([f"source {row % 11}" for row in rows]).dictionary_encode(),
            "context": pa.array(
                [f"context {row} " + "long " * (row % 4) for row in rows], pa.large_string()
            ),
            "answers": pa.array(
                [{"text": ["x"] * (row % 3), "answer_start": [row] * (row % 3)} for row in rows]
            ),
            "deep": pa.array(
                [None if row % 5 == 0 else [{"a": [row, None]}, None] for row in rows]
            ),
        }
    )


@pytest.fixture
def source(tmp_path: Path, table: pa.Table) -> str:
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=13)
    return str(tmp_path / "a.parquet")


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path / "out")


def plan(source: str, rows: int, runs: int = 1) -> list[ChunkRun]:
    metadata = pq.ParquetFile(source).metadata
    return list(plan_file(find_inputs(source)[0], metadata, ChunkSize(rows, 2**40, runs)))


def outputs(folder: str, *stages: str) -> tuple[Output, ...]:
    return tuple(
        Output(stage, f"{folder}/{stage}", "this run") for stage in stages or ("annotate",)
    )


def commit_part(folder: str, receipt: Receipt) -> None:
    told = json.dumps(replace(receipt, run=receipt.run or "this run").to_json())
    table = pa.table({"a": [1]}).replace_schema_metadata({RECEIPT_KEY: told.encode()})
    commit(folder, to_parquet(table), "parts", receipt.part)


@pytest.mark.parametrize("rows", [1, 4, 13, 100])
def test_chunks_hold_the_rows_of_their_place(source: str, output: str, table: pa.Table, rows: int):
    seen = []
    for run in plan(source, rows):
        for chunk in read_run(run, outputs(output), table.schema):
            assert isinstance(chunk, Chunk)
            wanted = table.slice(chunk.spec.first_row, chunk.spec.rows)
            assert chunk.table.schema.types == table.schema.types
            assert chunk.table.to_pylist() == wanted.to_pylist()
            seen.append(chunk.spec.rows)
    assert sum(seen) == 30


def test_columns_come_as_expected(source: str, output: str, table: pa.Table):
    """Only the expected columns are read, in their order, with the types of the first file."""
    expected = pa.schema(
        [("context", pa.string()), ("question", pa.dictionary(pa.int32(), pa.string()))]
    )
    (run, *_) = plan(source, 5)
    for chunk in read_run(run, outputs(output), expected):
        assert chunk.table.schema == expected
        wanted = table.slice(chunk.spec.first_row, chunk.spec.rows).select(["context", "question"])
        assert chunk.table.to_pylist() == wanted.to_pylist()


class TestPathColumns:
    @pytest.fixture
    def read(self, tmp_path: Path, output: str) -> Callable[..., list[Chunk | Receipt]]:
        def read_file(path: str, table: pa.Table, **columns: pa.DataType) -> list[Chunk | Receipt]:
            (tmp_path / path).parent.mkdir(parents=True)
            pq.write_table(table, tmp_path / path)
            expected = pa.schema(
                [*table.schema, *(pa.field(name, kind) for name, kind in columns.items())]
            )
            (run,) = plan(str(tmp_path / path), 20)
            return list(read_run(run, outputs(output), expected))

        return read_file

    @pytest.mark.parametrize(
        ("folder", "columns"),
        [
            ("lang=en", {"lang": "en"}),
            ("lang=en/year=2026", {"lang": "en", "year": "2026"}),
            ("lang=a%2Fb%20%C3%A4", {"lang": "a/b ä"}),
            ("a%3Ab=1", {"a:b": "1"}),
            ("lang=__HIVE_DEFAULT_PARTITION__", {"lang": None}),
            ("lang=a=b", {"lang": "a=b"}),
            ("lang=", {"lang": ""}),
            ("=x/plain", {}),
        ],
    )
    def test_they_stand_in_every_row(
        self,
        read: Callable,
        tmp_path: Path,
        table: pa.Table,
        folder: str,
        columns: dict[str, str | None],
    ):
        path = f"{folder}/k=v.parquet"
        assert path_columns(f"/in/{path}") == path_columns(f"s3://b/{path}") == columns
        chunks = read(path, table, **dict.fromkeys(columns, pa.string()))
        rows = [row for chunk in chunks for row in chunk.table.to_pylist()]
        assert rows == [{**row, **columns} for row in table.to_pylist()]

    @pytest.mark.parametrize(
        ("folder", "values"),
        [
            ("n=en", pa.array(["en"] * 30)),
            ("n=en", pa.array(["en"] * 30).dictionary_encode()),
            ("n=07", pa.array([7] * 30)),
            ("n=2026-11-01", pa.array([date(2026, 11, 1)] * 30)),
            ("n=true", pa.array([True] * 30)),
            ("n=__HIVE_DEFAULT_PARTITION__", pa.array([None] * 30, pa.int64())),
        ],
    )
    def test_one_that_is_in_the_file_too_stays_as_it_is_there(
        self, read: Callable, table: pa.Table, folder: str, values: pa.Array
    ):
        chunks = read(f"{folder}/a.parquet", table.append_column("n", values))
        assert (
            pa.concat_tables(chunk.table for chunk in chunks).column("n").to_pylist()
            == values.to_pylist()
        )

    @pytest.mark.parametrize(
        ("folder", "values"),
        [
            ("n=en", pa.array(["en"] * 29 + ["de"])),
            ("n=en", pa.array([None] * 30, pa.string())),
            ("n=en", pa.array([1] * 30)),
            ("n=8", pa.array([7] * 30)),
            ("n=8", pa.array([[8]] * 30)),
        ],
    )
    def test_one_that_says_something_else_is_refused_by_name(
        self, read: Callable, table: pa.Table, folder: str, values: pa.Array
    ):
        *_, failed = read(f"{folder}/a.parquet", table.append_column("n", values))
        assert "column 'n' has other values than " in failed.error
        assert folder in failed.error


def test_only_missing_chunks_are_read_whichever_they_are(source: str, table: pa.Table):
    (run, *_) = plan(source, 2)
    chosen = [run.chunks[place] for place in (1, 2, 5)]
    for spec, read in zip(chosen, read_tables(run, chosen, table.schema), strict=True):
        assert read.to_pylist() == table.slice(spec.first_row, spec.rows).to_pylist()


def test_rows_between_missing_chunks_are_not_held(
    source: str, output: str, table: pa.Table, monkeypatch: pytest.MonkeyPatch
):
    """Memory holds only the chunks of a run that are missing."""
    (run, *_) = plan(source, 1)
    held: list[int] = []
    from_batches = pa.Table.from_batches

    class Watched:
        @staticmethod
        def from_batches(batches: list[pa.RecordBatch]) -> pa.Table:
            held.append(sum(batch.num_rows for batch in batches))
            return from_batches(batches)

    monkeypatch.setattr(read_chunk.pa, "Table", Watched)
    chosen = [run.chunks[place] for place in (0, 11)]
    assert [read.num_rows for read in read_tables(run, chosen, table.schema)] == [1, 1]
    assert held == [1, 1]


def test_committed_chunks_become_their_receipts(source: str, output: str, table: pa.Table):
    (run, *_) = plan(source, 4)
    first, second, third, fourth = run.chunks
    for spec in (second, fourth):
        commit_part(
            f"{output}/annotate",
            Receipt(stage="annotate", part=spec.part, rows=spec.rows, counts={"rows": spec.rows}),
        )
    found = list(read_run(run, outputs(output), table.schema))
    assert [record.part for record in found if isinstance(record, Receipt)] == [
        second.part,
        fourth.part,
    ]
    assert [record.spec for record in found if isinstance(record, Chunk)] == [first, third]


def test_a_run_that_is_done_is_not_opened(source: str, output: str, table: pa.Table):
    (run, *_) = plan(source, 4)
    for spec in run.chunks:
        commit_part(f"{output}/annotate", Receipt(stage="annotate", part=spec.part))
    Path(source).unlink()
    records = list(read_run(run, outputs(output), table.schema))
    assert [record.part for record in records] == [spec.part for spec in run.chunks]
    assert all(isinstance(record, Receipt) and not record.failed_step for record in records)


def test_a_chunk_is_done_when_every_stage_has_its_part(source: str, output: str, table: pa.Table):
    (run, *_) = plan(source, 13)
    (spec,) = run.chunks
    stages = outputs(output, "audit", "annotate")
    (chunk,) = read_run(run, stages, table.schema)
    assert chunk.stages == ("audit", "annotate")
    commit_part(f"{output}/audit", Receipt(stage="audit", part=spec.part))
    receipt, chunk = read_run(run, stages, table.schema)
    assert (receipt.stage, chunk.stages) == ("audit", ("annotate",))
    commit_part(f"{output}/annotate", Receipt(stage="annotate", part=spec.part))
    assert [record.stage for record in read_run(run, stages, table.schema)] == ["audit", "annotate"]


class TestCommittedReceipt:
    def test_it_comes_back_as_it_was_written(self, output: str):
        receipt = Receipt(
            "annotate",
            "/in/ä.parquet",
            2,
            40,
            7,
            "p",
            {"rows": 7},
            {"r": 1},
            {"ReadChunk": 0.5},
            "digest",
        )
        commit_part(output, receipt)
        assert committed_receipt(Output("annotate", output, "this run"), "p") == replace(
            receipt, run="this run"
        )

    def test_a_part_whose_rejections_are_missing_counts_as_missing(self, output: str):
        """The store reported them as written, but lost them."""
        here = Output("annotate", output, "this run")
        commit_part(output, Receipt(stage="annotate", part="p", counts={"rejected": 1}))
        assert committed_receipt(here, "p") is None
        commit(output, b"rejections", "rejections", "p")
        assert committed_receipt(here, "p") is not None

    def test_a_part_of_another_run_counts_as_missing(self, output: str):
        """A worker of an overwritten run may commit it a moment too late."""
        commit_part(output, Receipt(stage="annotate", part="p", run="the run before"))
        assert committed_receipt(Output("annotate", output, "this run"), "p") is None

    def test_no_part_no_receipt(self, output: str):
        assert committed_receipt(Output("annotate", output, "this run"), "p") is None

    @pytest.mark.parametrize("content", [b"", b"junk", to_parquet(pa.table({"a": [1]}))])
    def test_a_damaged_part_counts_as_missing(self, output: str, content: bytes | pa.Buffer):
        commit(output, content, "parts", "p")
        assert committed_receipt(Output("annotate", output, "this run"), "p") is None


class TestFailures:
    def damage(self, source: str, row_group: int, column: int = 2) -> None:
        """Overwrite the pages of a column chunk with other bytes."""
        chunk = pq.ParquetFile(source).metadata.row_group(row_group).column(column)
        begin = chunk.dictionary_page_offset or chunk.data_page_offset
        with open(source, "r+b") as file:
            file.seek(begin)
            file.write(b"\xff" * chunk.total_compressed_size)

    def test_a_read_error_fails_all_that_is_left_of_the_run(
        self, source: str, output: str, table: pa.Table
    ):
        self.damage(source, 1)
        before, broken, after = plan(source, 5)
        for run in (before, after):
            assert all(
                isinstance(record, Chunk) for record in read_run(run, outputs(output), table.schema)
            )
        receipts = list(read_run(broken, outputs(output), table.schema))
        assert [(receipt.part, receipt.rows) for receipt in receipts] == [
            (spec.part, spec.rows) for spec in broken.chunks
        ]
        for receipt in receipts:
            assert (receipt.path, receipt.row_group, receipt.failed_step) == (
                source,
                1,
                "ReadChunk",
            )
            assert receipt.stage == "annotate"
            assert receipt.error

    @pytest.mark.parametrize(
        ("column", "name", "message"),
        [
            (1, "source", "column 'source' can't be read: a page header is damaged"),
            (4, "answers", "UnreadableColumn: of 5 columns, 'answers' (struct<text: list"),
        ],
    )
    def test_the_column_that_can_not_be_read_is_named(
        self, source: str, output: str, table: pa.Table, column: int, name: str, message: str
    ):
        self.damage(source, 1, column)
        _, broken, _ = plan(source, 5)
        for receipt in read_run(broken, outputs(output), table.schema):
            assert message in receipt.error
        without = pa.schema([field for field in table.schema if field.name != name])
        assert all(
            isinstance(record, Chunk) for record in read_run(broken, outputs(output), without)
        )

    def test_committed_chunks_of_a_broken_run_stay_done(
        self, source: str, output: str, table: pa.Table
    ):
        self.damage(source, 1)
        _, broken, _ = plan(source, 5)
        first, *others = broken.chunks
        commit_part(f"{output}/annotate", Receipt(stage="annotate", part=first.part))
        done, *failed = read_run(broken, outputs(output), table.schema)
        assert (done.part, done.failed_step) == (first.part, "")
        assert [receipt.part for receipt in failed] == [spec.part for spec in others]

    def test_a_file_that_is_gone_fails_its_chunks(self, source: str, output: str, table: pa.Table):
        run, *_ = plan(source, 5)
        Path(source).unlink()
        receipts = list(read_run(run, outputs(output), table.schema))
        assert len(receipts) == len(run.chunks)
        assert all("FileNotFoundError" in receipt.error for receipt in receipts)

    def test_a_row_group_that_ends_early_is_told(
        self, source: str, output: str, table: pa.Table, tmp_path: Path
    ):
        """Rows that the footer declares but that are missing must not be lost silently."""
        run = replace(plan(source, 5)[0], state=None)
        pq.write_table(table.slice(0, 7), source)
        first, *failed = read_run(run, outputs(output), table.schema)
        assert first.table.to_pylist() == table.slice(0, 5).to_pylist()
        assert [receipt.failed_step for receipt in failed] == ["ReadChunk"] * 2
        assert "row group 0 ends before row 10" in failed[0].error

    def test_a_file_that_changed_since_the_run_was_started_fails_its_chunks(
        self, source: str, output: str, table: pa.Table
    ):
        run, *_ = plan(source, 5)
        pq.write_table(table, source, row_group_size=13, compression="none")
        receipts = list(read_run(run, outputs(output), table.schema))
        assert [receipt.part for receipt in receipts] == [spec.part for spec in run.chunks]
        assert all("has changed since the run was started" in receipt.error for receipt in receipts)

    def test_a_file_that_must_not_be_read_is_no_matter_of_the_run(
        self, source: str, output: str, table: pa.Table, monkeypatch: pytest.MonkeyPatch
    ):
        def fail(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(read_chunk, "read_tables", fail)
        run, *_ = plan(source, 5)
        receipts = list(read_run(run, outputs(output), table.schema))
        assert [receipt.part for receipt in receipts] == [spec.part for spec in run.chunks]
        assert all("Permission denied" in receipt.error for receipt in receipts)

    def test_a_systemic_error_is_raised(
        self, source: str, output: str, table: pa.Table, monkeypatch: pytest.MonkeyPatch
    ):
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(read_chunk, "read_tables", fail)
        with pytest.raises(OSError, match="No space left"):
            list(read_run(plan(source, 5)[0], outputs(output), table.schema))

    def test_a_refused_file_is_a_receipt_without_part(self, output: str, table: pa.Table):
        (receipt,) = read_run(
            ChunkRun("/in/a.parquet", -1, (), refused="no Parquet"), outputs(output), table.schema
        )
        assert (receipt.path, receipt.part, receipt.failed_step, receipt.error) == (
            "/in/a.parquet",
            "",
            "PlanChunks",
            "no Parquet",
        )

    def test_the_sentinel_is_an_empty_receipt(self, output: str, table: pa.Table):
        assert list(read_run(ChunkRun("", -1, ()), outputs(output), table.schema)) == [Receipt()]
