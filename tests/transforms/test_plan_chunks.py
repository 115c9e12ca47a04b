"""PlanChunks: every row is in one chunk, plans are reproducible, bad files are refused."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

# pytest would collect `Test...`.
from apache_beam.testing.test_pipeline import (
    TestPipeline as PipelineOfTests,
)
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.find_inputs import find_inputs
from transforms.plan_chunks import (
    ChunkSize,
    PlanChunks,
    is_answers,
    is_sections,
    is_starts,
    is_text,
    plan_chunks,
    plan_file,
    schema_problem,
    wider,
    with_path_columns,
)
from transforms.records import ChunkRun, ChunkSpec, InputFile, InputRange, part_name, rows_of_part

FILE = InputFile(3, "/in/a.parquet", 1000, "v1", "a.parquet")
SCHEMA = pa.schema([("question", pa.string()), ("context", pa.string()), ("n", pa.int64())])
TEXTS = ("question", "context")


def metadata_of(groups: list[int], width: int = 1) -> pq.FileMetaData:
    """Return the metadata of a file with row groups of these sizes."""
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink, pa.schema([("a", pa.string())]), compression="none", use_dictionary=False
    ) as writer:
        for rows in groups:
            writer.write_table(
                pa.table({"a": pa.array(["x" * width] * rows, pa.string())}),
                row_group_size=max(1, rows),
            )
    return pq.ParquetFile(sink).metadata


def chunks_of(runs: list[ChunkRun]) -> list[ChunkSpec]:
    return [chunk for run in runs for chunk in run.chunks]


@given(
    groups=st.lists(st.integers(0, 40), max_size=4),
    rows=st.integers(1, 50),
    runs=st.integers(1, 9),
    limit=st.none() | st.integers(0, 120),
)
@settings(max_examples=60)
def test_chunks_partition_the_rows_whatever_the_run_length(
    groups: list[int], rows: int, runs: int, limit: int | None
):
    metadata = metadata_of(groups)
    held = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sum(held) == sum(groups)
    file = InputFile(0, "/in/a.parquet", 1, "", "a.parquet", limit)
    planned = list(plan_file(file, metadata, ChunkSize(rows, 2**40, runs)))
    chunks = chunks_of(planned)

    starts = [sum(held[:group]) for group in range(len(held))]
    covered = []
    for chunk in chunks:
        assert 1 <= chunk.rows <= rows
        assert chunk.first_row == starts[chunk.row_group] + chunk.row_start
        assert chunk.row_start + chunk.rows <= held[chunk.row_group]
        covered += range(chunk.first_row, chunk.first_row + chunk.rows)
    assert covered == list(range(sum(groups) if limit is None else min(limit, sum(groups))))

    assert all(
        run.chunks and {chunk.row_group for chunk in run.chunks} == {run.row_group}
        for run in planned
    )
    assert chunks == chunks_of(list(plan_file(file, metadata, ChunkSize(rows, 2**40, 1))))
    for group in range(len(held)):
        of_group = [run for run in planned if run.row_group == group]
        assert len(of_group) >= min(runs, sum(len(run.chunks) for run in of_group))


def test_a_run_is_never_longer_than_sixteen_chunks():
    assert (
        max(len(run.chunks) for run in plan_file(FILE, metadata_of([100]), ChunkSize(1, 2**40)))
        == 16
    )


def test_bytes_bound_a_chunk_by_the_average_of_its_row_group():
    metadata = metadata_of([100], width=1000)
    assert metadata.row_group(0).total_byte_size > 100_000
    rows = [
        chunk.rows for chunk in chunks_of(list(plan_file(FILE, metadata, ChunkSize(1000, 20_000))))
    ]
    assert max(rows) * metadata.row_group(0).total_byte_size / 100 <= 20_000
    assert max(rows) > 15
    assert sum(rows) == 100


def test_a_chunk_has_at_least_one_row():
    assert {
        chunk.rows
        for chunk in chunks_of(
            list(plan_file(FILE, metadata_of([5], width=1000), ChunkSize(1000, 1)))
        )
    } == {1}


class TestPartNames:
    def test_a_name_tells_file_place_and_rows(self):
        name = part_name(FILE, 2, 40, 7)
        assert name == "000003-a-g00002-r000000040-n7.parquet"
        assert rows_of_part(name) == 7

    @pytest.mark.parametrize(
        ("path", "stem"),
        [
            ("gs://bucket/dir/part-0.snappy.parquet", "part-0.snappy"),
            ("/in/größe n1?.parquet", "gr_e_n1_"),
            ("/in/a-n9.parquet", "a-n9"),
            ("/in/" + "x" * 300 + ".parquet", "x" * 80),
            ("/in/..parquet", "."),
        ],
    )
    def test_a_name_is_safe_whatever_the_file_is_called(self, path: str, stem: str):
        name = part_name(InputFile(0, path, 1, "", ""), 0, 0, 12)
        assert name == f"000000-{stem}-g00000-r000000000-n12.parquet"
        assert rows_of_part(name) == 12

    def test_names_sort_in_the_order_of_the_input(self):
        places = [
            (file, group, start)
            for file in (0, 9, 10, 99_999)
            for group in (0, 9, 10)
            for start in (0, 9, 100_000_000)
        ]
        names = [
            part_name(InputFile(file, "/a.parquet", 1, "", "a.parquet"), group, start, 5)
            for file, group, start in places
        ]
        assert names == sorted(names)
        assert len(set(names)) == len(names)


class TestSchemas:
    @pytest.mark.parametrize(
        "kind",
        [
            pa.string(),
            pa.large_string(),
            pa.string_view(),
            pa.null(),
            pa.dictionary(pa.int8(), pa.large_string()),
        ],
    )
    def test_any_type_of_text_will_do(self, kind: pa.DataType):
        assert is_text(kind)
        found = SCHEMA.set(0, pa.field("question", kind))
        assert schema_problem(found, SCHEMA, TEXTS) == ""

    @pytest.mark.parametrize(
        "kind",
        [
            pa.int64(),
            pa.binary(),
            pa.list_(pa.string()),
            pa.struct([("a", pa.string())]),
            pa.dictionary(pa.int8(), pa.int8()),
        ],
    )
    def test_other_types_are_no_text(self, kind: pa.DataType):
        assert not is_text(kind)
        found = SCHEMA.set(0, pa.field("question", kind))
        assert schema_problem(found, SCHEMA, TEXTS) == f"column 'question' is {kind}, not text"

    @pytest.mark.parametrize(
        "text", [pa.string(), pa.large_string(), pa.null(), pa.dictionary(pa.int8(), pa.string())]
    )
    @pytest.mark.parametrize("start", [pa.int32(), pa.int64(), pa.uint8(), pa.null()])
    def test_golds_are_a_struct_of_lists_or_a_list_of_structs(
        self, text: pa.DataType, start: pa.DataType
    ):
        more = pa.field("more", pa.float32())
        for list_of in (pa.list_, pa.large_list):
            assert is_answers(
                pa.struct([("text", list_of(text)), more, ("answer_start", list_of(start))])
            )
            assert is_answers(list_of(pa.struct([("answer_start", start), ("text", text), more])))

    @pytest.mark.parametrize(
        "kind",
        [
            pa.string(),
            pa.null(),
            pa.list_(pa.string()),
            pa.struct([("text", pa.string()), ("answer_start", pa.int32())]),
            pa.struct([("text", pa.list_(pa.string()))]),
            pa.struct([("text", pa.list_(pa.binary())), ("answer_start", pa.list_(pa.int32()))]),
            pa.list_(pa.struct([("text", pa.string()), ("answer_start", pa.float64())])),
            pa.list_(pa.struct([("text", pa.string()), ("start", pa.int32())])),
            pa.list_(
                pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
            ),
            pa.list_(pa.struct([("text", pa.string()), ("answer_start", pa.int32())]), 1),
        ],
    )
    def test_other_types_are_no_golds(self, kind: pa.DataType):
        assert not is_answers(kind)

    def test_order_and_further_columns_do_not_matter(self):
        found = pa.schema([("more", pa.int8()), *reversed(SCHEMA)])
        assert schema_problem(found, SCHEMA, TEXTS) == ""

    @pytest.mark.parametrize(
        ("found", "problem"),
        [
            (SCHEMA.remove(1), "column 'context' is missing"),
            (SCHEMA.append(pa.field("n", pa.int64())), "there is more than one column 'n'"),
            (
                SCHEMA.set(2, pa.field("n", pa.uint64())),
                "column 'n' is uint64, in the other files it is int64",
            ),
            (
                SCHEMA.set(2, pa.field("n", pa.float64())),
                "column 'n' is double, in the other files it is int64",
            ),
            (
                SCHEMA.set(2, pa.field("n", pa.string())),
                "column 'n' is string, in the other files it is int64",
            ),
        ],
    )
    def test_what_differs_is_named(self, found: pa.Schema, problem: str):
        assert problem in schema_problem(found, SCHEMA, TEXTS)

    def test_nulls_fit_any_type_but_nothing_fits_nulls(self):
        nulls = SCHEMA.set(2, pa.field("n", pa.null()))
        assert schema_problem(nulls, SCHEMA, TEXTS) == ""
        assert "column 'n' is int64, in the other files it is null" in schema_problem(
            SCHEMA, nulls, TEXTS
        )
        text_of_nulls = pa.schema(
            [("question", pa.string()), ("context", pa.string()), ("note", pa.null())]
        )
        with_text = text_of_nulls.set(2, pa.field("note", pa.string()))
        assert "column 'note' is string, in the other files it is null" in schema_problem(
            with_text, text_of_nulls, TEXTS
        )

    def test_a_column_of_the_path_is_a_column_of_the_file(self):
        expected = SCHEMA.append(pa.field("lang", pa.string()))
        file = InputFile(0, "/in/lang=en/a.parquet", 1, "1", "a.parquet")
        assert schema_problem(with_path_columns(SCHEMA, file), expected, TEXTS) == ""
        assert with_path_columns(expected, file) == expected
        for other in (replace(file, path="/in/a.parquet"), replace(file, table="iceberg://a/b@1")):
            assert "column 'lang' is missing" in schema_problem(
                with_path_columns(SCHEMA, other), expected, TEXTS
            )


@pytest.mark.parametrize("list_of", [pa.list_, pa.large_list])
@pytest.mark.parametrize("start", [pa.int8(), pa.int32(), pa.uint64(), pa.null()])
@pytest.mark.parametrize("title", [pa.string(), pa.large_string(), pa.null()])
def test_starts_and_sections(
    list_of: Callable[[pa.DataType], pa.DataType], start: pa.DataType, title: pa.DataType
):
    assert is_starts(list_of(start))
    fields = [("title", title), ("start", start)]
    assert is_sections(list_of(pa.struct(fields)))
    assert is_sections(list_of(pa.struct([*fields, ("level", pa.int8())])))
    assert is_sections(list_of(pa.null()))
    assert not is_starts(start)
    assert not is_starts(list_of(title)) or pa.types.is_null(title)
    assert not is_sections(list_of(start)) or pa.types.is_null(start)
    assert not is_sections(pa.struct(fields))
    assert not is_sections(list_of(pa.struct(fields[:1])))
    assert not is_sections(list_of(pa.struct([("title", pa.int8()), ("start", start)])))


NUMBERS = [
    getattr(pa, name)()
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
]
NUMBERS += [pa.float16(), pa.float32(), pa.float64()]


class TestWider:
    @pytest.mark.parametrize("one", NUMBERS, ids=str)
    @pytest.mark.parametrize("other", NUMBERS, ids=str)
    def test_no_number_is_lost(self, one: pa.DataType, other: pa.DataType):
        """The wider type keeps the extremes of both types; if there is none, no type could."""
        kind = wider(one, other)
        assert kind == wider(other, one)
        if kind is None:
            assert {one.bit_width, other.bit_width} & {64}
            return
        for each in (one, other):
            name = str(each).replace("halffloat", "float16").replace("double", "float64")
            dtype = np.dtype("float32" if name == "float" else name)
            limits = np.finfo(dtype) if pa.types.is_floating(each) else np.iinfo(dtype)
            values = pa.array(np.array([limits.min, limits.max, 1], dtype))
            assert values.cast(kind).cast(each).equals(values)
            assert wider(kind, each) == kind

    @pytest.mark.parametrize(
        ("one", "other", "kind"),
        [
            (pa.int64(), pa.null(), pa.int64()),
            (pa.null(), pa.list_(pa.int8()), pa.list_(pa.int8())),
            (pa.null(), pa.null(), pa.null()),
            (pa.string(), pa.large_string(), pa.string()),
            (pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.large_string()),
            (pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.int64())),
            (
                pa.struct({"a": pa.null(), "b": pa.int8()}),
                pa.struct({"a": pa.string(), "b": pa.int16()}),
                pa.struct({"a": pa.string(), "b": pa.int16()}),
            ),
            (pa.struct({"a": pa.int8()}), pa.struct({"b": pa.int8()}), None),
            (pa.int32(), pa.string(), None),
            (pa.int64(), pa.float64(), None),
            (pa.date32(), pa.date32(), pa.date32()),
            (pa.timestamp("us"), pa.timestamp("ns"), None),
            (pa.bool_(), pa.int8(), None),
        ],
        ids=str,
    )
    def test_other_types(self, one: pa.DataType, other: pa.DataType, kind: pa.DataType | None):
        assert wider(one, other) == kind


class TestPlanChunks:
    @pytest.mark.parametrize(
        ("content", "error"),
        [(None, "FileNotFoundError"), (b"", "0 bytes"), (b"PAR1" * 9, "ArrowInvalid")],
    )
    def test_an_unreadable_file_is_one_refusal(
        self, tmp_path: Path, content: bytes | None, error: str
    ):
        path = tmp_path / "a.parquet"
        path.write_bytes(content or b"")
        file = find_inputs(str(path))[0]
        if content is None:
            path.unlink()
        (refusal,) = plan_chunks(file, SCHEMA, TEXTS, ChunkSize(2, 2**20))
        assert refusal.path == str(path)
        assert refusal.chunks == ()
        assert error in refusal.refused

    def test_a_file_that_changed_since_the_run_was_started_is_one_refusal(self, tmp_path: Path):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"question": ["a"], "context": ["b"], "n": [1]}), path)
        file = find_inputs(str(path))[0]
        os.utime(path, (1, 1))
        (refusal,) = plan_chunks(file, SCHEMA, TEXTS, ChunkSize(2, 2**20))
        assert "has changed since the run was started" in refusal.refused

    @pytest.mark.parametrize(("rows", "told"), [(1, True), (100, False)])
    def test_tiny_row_groups_are_told(
        self, tmp_path: Path, rows: int, told: bool, caplog: pytest.LogCaptureFixture
    ):
        count = 120 * rows
        table = pa.table({"question": ["a"] * count, "context": ["b"] * count, "n": [1] * count})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows)
        assert (
            len(
                list(
                    plan_chunks(
                        find_inputs(str(tmp_path))[0], SCHEMA, TEXTS, ChunkSize(2048, 2**20)
                    )
                )
            )
            == 120
        )
        assert ("has 120 rows in 120 row groups" in caplog.text) is told

    def test_a_file_of_another_schema_is_one_refusal(self, tmp_path: Path):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"question": ["a"] * 9}), path)
        (refusal,) = plan_chunks(find_inputs(str(path))[0], SCHEMA, TEXTS, ChunkSize(2, 2**20))
        assert "'context' is missing" in refusal.refused

    @pytest.mark.parametrize("first", [0, 7])
    def test_in_a_pipeline_the_first_range_has_an_empty_run_in_front(
        self, tmp_path: Path, first: int
    ):
        path = tmp_path / "a.parquet"
        pq.write_table(
            pa.table({"question": ["a"] * 3, "context": ["b"] * 3, "n": [1, 2, 3]}), path
        )
        file = find_inputs(str(path))[0]
        listed = json.dumps(
            {"path": file.path, "size": file.size, "version": file.version, "label": file.label}
        ).encode()
        (tmp_path / "run.json").write_bytes(b"before" + listed + b",\n" + listed + b"after")
        ranged = InputRange(str(tmp_path / "run.json"), first, 6, 6 + 2 * len(listed) + 2)
        files, size = (
            [replace(file, index=index) for index in (first, first + 1)],
            ChunkSize(2, 2**20),
        )
        wanted = [run for file in files for run in plan_chunks(file, SCHEMA, TEXTS, size)]
        with PipelineOfTests() as pipeline:
            runs = pipeline | beam.Create([ranged]) | PlanChunks(SCHEMA, TEXTS, size)
            assert_that(runs, equal_to([*([ChunkRun("", -1, ())] if first == 0 else []), *wanted]))
        assert [chunk.rows for chunk in chunks_of(wanted)] == [2, 1, 2, 1]
        assert [chunk.part[:6] for chunk in chunks_of(wanted)] == [f"00000{first}"] * 2 + [
            f"00000{first + 1}"
        ] * 2
