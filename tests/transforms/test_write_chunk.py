"""WriteChunk: columns and receipts of parts, the order of commits, digests."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.columns import exact_names
from model.reading.columns import ANSWER_COLUMNS, columns_for
from model.reading.tokenizer import Tokenizer
from tests.transforms.fakes import DECODING, FakeReader, answered_chunk, asked, claimed, run_step
from transforms import claim, storage
from transforms.claim import ClaimLost
from transforms.read_chunk import committed_receipt
from transforms.records import Answered, Chunk, Outcome, OutputColumns, Receipt, row_ids
from transforms.run_files import RunFiles
from transforms.write_chunk import (
    EXACT_COLUMNS,
    REJECTION_SCHEMA,
    WriteChunk,
    content_digest,
    output_table,
    write_outcome,
)

COLUMNS = OutputColumns(("id", "question", "context"))
LETTERS = {"b": (3.0, 3.0)}


@pytest.fixture
def answered(words: Tokenizer) -> Chunk[Answered]:
    """Return four rows, the second and the last of them rejected."""
    found = answered_chunk(asked("a b", None, "b c d", " "), FakeReader(words, LETTERS))
    spec = replace(found.spec, path="/in/a.parquet", row_group=1, row_start=8, first_row=108)
    return replace(found, spec=spec, seconds={"ReadChunk": 0.25})


def write(answered: Chunk[Answered], output: Path, columns: OutputColumns = COLUMNS) -> Receipt:
    return write_outcome(answered, answered.payload.outcomes[0], claimed(output), columns)


def with_outcomes(answered: Chunk[Answered], *outcomes: Outcome) -> Chunk[Answered]:
    return answered.carrying(replace(answered.payload, outcomes=outcomes))


class TestOutputTable:
    def test_kept_columns_first_then_the_outcome(self, answered: Chunk[Answered]):
        table = output_table(
            answered, answered.payload.outcomes[0], OutputColumns(("context", "id"), "qa_")
        )
        assert table.column_names == [
            "context",
            "id",
            *(f"qa_{name}" for name in answered.payload.outcomes[0].columns.column_names),
        ]
        assert table.column("context").to_pylist() == ["a b", None, "b c d", " "]
        assert table.column("qa_answer_text").to_pylist() == ["b", None, "b", None]

    def test_ids_are_made_where_there_are_none(self, answered: Chunk[Answered]):
        table = output_table(
            answered, answered.payload.outcomes[0], OutputColumns(("context",), id="key")
        )
        assert table.column_names[:2] == ["key", "context"]
        assert table.column("key").to_pylist() == [f"a.parquet:1:{row}" for row in (8, 9, 10, 11)]

    def test_ids_that_are_there_are_taken_as_they_are(self, answered: Chunk[Answered]):
        assert row_ids(answered, "id").to_pylist() == [f"row {row}" for row in range(4)]

    def test_no_column_need_be_kept(self, answered: Chunk[Answered]):
        table = output_table(answered, answered.payload.outcomes[0], OutputColumns(()))
        assert table.column_names == answered.payload.outcomes[0].columns.column_names
        assert table.num_rows == 4


class TestWriteOutcome:
    def test_the_receipt_stands_in_the_part(self, answered: Chunk[Answered], tmp_path: Path):
        receipt = write(answered, tmp_path)
        assert committed_receipt(claimed(tmp_path), answered.spec.part) == receipt
        assert (
            receipt.stage,
            receipt.path,
            receipt.row_group,
            receipt.row_start,
            receipt.rows,
        ) == (
            "annotate",
            "/in/a.parquet",
            1,
            8,
            4,
        )
        assert receipt.counts == answered.payload.outcomes[0].counts
        assert receipt.reasons == {"context_missing": 1, "context_blank": 1}
        assert receipt.seconds == {"ReadChunk": 0.25}
        assert receipt.failed_step == ""

    def test_a_part_is_one_row_group_of_all_rows(self, answered: Chunk[Answered], tmp_path: Path):
        write(answered, tmp_path)
        file = pq.ParquetFile(tmp_path / "parts" / answered.spec.part)
        assert (file.metadata.num_row_groups, file.metadata.num_rows) == (1, 4)
        assert file.read().equals(output_table(answered, answered.payload.outcomes[0], COLUMNS))

    def test_rejections_say_where_the_row_is_and_why(
        self, answered: Chunk[Answered], tmp_path: Path
    ):
        write(answered, tmp_path)
        table = pq.ParquetFile(tmp_path / "rejections" / answered.spec.part).read()
        assert table.schema.equals(REJECTION_SCHEMA)
        common = {"path": "/in/a.parquet", "row_group": 1, "stage": "MakeWindows"}
        assert table.to_pylist() == [
            {
                **common,
                "id": "row 1",
                "row": 109,
                "reason": "context_missing",
                "message": "the context is missing",
            },
            {
                **common,
                "id": "row 3",
                "row": 111,
                "reason": "context_blank",
                "message": "the context is blank",
            },
        ]

    @pytest.mark.parametrize(
        ("ids", "named"),
        [
            (pa.array([1, 2, 3, 4]), ["2", "4"]),
            (pa.array(["a", None, "c", "d"]), [None, "d"]),
            (pa.array(["a", "b", "c", "d"]).dictionary_encode(), ["b", "d"]),
            (pa.array([b"a", b"\xff", b"c", b"d"]).view(pa.string()), [None, "d"]),
        ],
    )
    def test_ids_of_rejections_are_text_whatever_the_column_holds(
        self, answered: Chunk[Answered], tmp_path: Path, ids: pa.Array, named: list[str | None]
    ):
        table = answered.table.set_column(0, "id", ids)
        write(replace(answered, table=table), tmp_path)
        written = pq.ParquetFile(tmp_path / "rejections" / answered.spec.part).read()
        assert written.column("id").to_pylist() == named

    def test_without_rejections_there_is_no_file_and_no_old_one(
        self, answered: Chunk[Answered], tmp_path: Path
    ):
        write(answered, tmp_path)
        write(
            with_outcomes(answered, replace(answered.payload.outcomes[0], rejections=())), tmp_path
        )
        assert list((tmp_path / "rejections").iterdir()) == []

    def test_the_part_comes_last(
        self, answered: Chunk[Answered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """The part finishes a chunk: it comes after the rejections, and that of annotate last."""
        committed, commit = [], claim.commit

        def record(output: str, content: pa.Buffer, *names: str) -> None:
            committed.append((Path(output).name, names[0]))
            commit(output, content, *names)

        monkeypatch.setattr(claim, "commit", record)
        audit = Outcome(
            "audit", audit_columns(4), answered.payload.outcomes[0].rejections, {"rows": 4}
        )
        step = WriteChunk(
            (claimed(tmp_path / "audit", "audit"), claimed(tmp_path / "annotate")), COLUMNS
        )
        receipts = run_step(step, with_outcomes(answered, *answered.payload.outcomes, audit))
        assert committed == [
            ("audit", "rejections"),
            ("audit", "parts"),
            ("annotate", "rejections"),
            ("annotate", "parts"),
        ]
        assert [receipt.stage for receipt in receipts] == ["audit", "annotate"]
        assert all(receipt.seconds.keys() == {"ReadChunk", "WriteChunk"} for receipt in receipts)

    def test_a_broken_write_fails_the_chunk_and_leaves_no_part(
        self, answered: Chunk[Answered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def refuse(*_: object) -> None:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

        monkeypatch.setattr(storage.os, "replace", refuse)
        (receipt,) = run_step(WriteChunk((claimed(tmp_path),), COLUMNS), answered)
        assert receipt.failed_step == "WriteChunk"
        assert "File name too long" in receipt.error
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [RunFiles.RUN]

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
    def test_a_disk_that_is_full_or_forbidden_ends_the_run(
        self,
        answered: Chunk[Answered],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
    ):
        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        output = claimed(tmp_path)
        monkeypatch.setattr(storage.os, "fsync", refuse)
        with pytest.raises(OSError, match=os.strerror(number)):
            run_step(WriteChunk((output,), COLUMNS), answered)
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [RunFiles.RUN]

    def test_where_another_run_writes_nothing_more_is_written(
        self, answered: Chunk[Answered], tmp_path: Path
    ):
        """The worker has outlived its run, whose output was overwritten."""
        output = claimed(tmp_path)
        write(answered, tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
        for left in ('{"run": "another run"}', None):
            if left is None:
                (tmp_path / RunFiles.RUN).unlink()
            else:
                (tmp_path / RunFiles.RUN).write_text(left)
            with pytest.raises(ClaimLost, match="now belongs to another run"):
                run_step(WriteChunk((output,), COLUMNS), answered)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before


def audit_columns(rows: int) -> pa.Table:
    """Return columns with the names that the audit's digest covers."""
    return pa.table({name: pa.array([None] * rows, pa.string()) for name in EXACT_COLUMNS["audit"]})


class TestContentDigest:
    def test_it_is_that_of_the_values_however_they_lie(self):
        table = pa.table({"a": [1, None, 3, 4], "b": ["x", "y", None, "z"]})
        pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 2), table.slice(3)])
        longer = pa.concat_tables([table, table])
        assert content_digest(pieces) == content_digest(longer.slice(4)) == content_digest(table)

    def test_what_lies_beneath_a_null_does_not_count(self):
        """A mask hides values without removing them; a reopened part has other bytes there."""
        mask = np.array([False, True])
        one, other = (
            pa.table({"a": pa.array(np.array([1, hidden], np.int32), mask=mask)})
            for hidden in (7, 8)
        )
        assert content_digest(one) == content_digest(other)

    def test_hashes_are_values_too(self):
        """The exact columns of the audit include binary ones."""
        one, other = (
            pa.table({"hash": pa.array([value, None], pa.binary(2))})
            for value in (b"\x00\xff", b"\x00\xfe")
        )
        assert content_digest(one) != content_digest(other)

    @pytest.mark.parametrize("changed", [[1, 2, 4], [1, None, 3], [1, 2], [2, 1, 3]])
    def test_any_other_value_changes_it(self, changed: list[int | None]):
        assert content_digest(pa.table({"a": pa.array(changed)})) != content_digest(
            pa.table({"a": [1, 2, 3]})
        )

    def test_a_reopened_part_has_the_digest_of_its_receipt(
        self, answered: Chunk[Answered], tmp_path: Path
    ):
        receipt = write(answered, tmp_path)
        part = pq.ParquetFile(tmp_path / "parts" / receipt.part).read()
        exact = part.select(exact_names(columns_for(()))).replace_schema_metadata(None)
        assert content_digest(exact) == receipt.digest

    def test_the_columns_of_the_digest_are_those_of_every_version(self):
        assert {**EXACT_COLUMNS, "annotate": exact_names(columns_for(()))} == {
            "annotate": (
                "answer_start",
                "answer_end",
                "window_index",
                "num_windows",
                "status",
                "reason",
                "question_tokens_cut",
            ),
            "audit": (
                "num_tokens",
                "num_windows",
                "windows_whole",
                "golds",
                "gold_start",
                "gold_end",
                "pair_hash",
                "status",
                "reason",
            ),
        }

    @pytest.mark.parametrize("column", EXACT_COLUMNS["annotate"])
    def test_it_covers_every_exact_column(self, words: Tokenizer, tmp_path: Path, column: str):
        rows, reader = asked("a b", None, "b c d", " "), FakeReader(words, LETTERS)
        every = frozenset(each.option for each in ANSWER_COLUMNS)
        decoding = replace(DECODING, all_answers=0.1)
        answered = answered_chunk(rows, reader, decoding, options=every)
        before = write(answered, tmp_path).digest
        outcome = answered.payload.outcomes[0]
        place = outcome.columns.column_names.index(column)
        values = outcome.columns.column(column).to_pylist()
        values[0] = "other" if isinstance(values[2], str) or column == "reason" else 99
        changed = outcome.columns.set_column(
            place, outcome.columns.field(place), pa.array(values, outcome.columns.field(place).type)
        )
        assert (
            write(with_outcomes(answered, replace(outcome, columns=changed)), tmp_path).digest
            != before
        )

    def test_it_leaves_out_what_rounding_may_change(
        self, answered: Chunk[Answered], tmp_path: Path
    ):
        before = write(answered, tmp_path).digest
        outcome = answered.payload.outcomes[0]
        place = outcome.columns.column_names.index("probability")
        changed = outcome.columns.set_column(
            place, outcome.columns.field(place), pa.array([0.1, None, 0.2, None], pa.float32())
        )
        assert (
            write(with_outcomes(answered, replace(outcome, columns=changed)), tmp_path).digest
            == before
        )
