"""Snapshots of Iceberg tables as inputs: which files are read, and which tables are refused.

The tables are real, in a catalog of SQLite.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyiceberg.catalog
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import LongType
from pyiceberg.utils.config import Config

from tests.runs import Annotate, examples, identities, read_parts, write_input
from transforms.find_inputs import find_inputs
from transforms.storage import StorageError

URL = "iceberg://local/docs.lamps"


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """Return a catalog in the configuration, which pyiceberg reads when it is imported."""
    monkeypatch.setenv("PYICEBERG_CATALOG__LOCAL__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__LOCAL__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LOCAL__WAREHOUSE", f"file://{tmp_path}/warehouse")
    monkeypatch.setattr(pyiceberg.catalog, "_ENV_CONFIG", Config())
    loaded = load_catalog("local")
    loaded.create_namespace("docs")
    return loaded


@pytest.fixture
def lamps(catalog: Catalog) -> Table:
    """Return a table with one data file of three rows."""
    rows = examples(3)
    table = catalog.create_table("docs.lamps", rows.schema)
    table.append(rows)
    return table


def files_of(table: Table) -> list[str]:
    return sorted(task.file.file_path.removeprefix("file://") for task in table.scan().plan_files())


def refusal(url: str = URL) -> str:
    with pytest.raises(StorageError) as caught:
        find_inputs(url)
    assert str(caught.value).startswith(url)
    return str(caught.value)


def test_a_run_reads_one_snapshot(
    annotate: Annotate, lamps: Table, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    output = tmp_path / "out"
    first = lamps.current_snapshot().snapshot_id
    assert annotate(URL, output) == 0
    assert read_parts(output).column("id").to_pylist() == ["row 0", "row 1", "row 2"]
    (entry,) = json.loads((output / "run.json").read_text("utf-8"))["inputs"]
    assert entry["table"] == f"{URL}@{first}"

    # After an append, the same command is another run, and the snapshot's own URL the same run.
    before = identities(output)
    lamps.append(examples(2, first=3))
    second = lamps.current_snapshot().snapshot_id
    capfd.readouterr()
    assert annotate(URL, output) == 2
    assert f"tables of --input were ['{URL}@{first}'], are ['{URL}@{second}']" in (
        capfd.readouterr().err
    )
    assert annotate(f"{URL}@{first}", output) == 0
    assert identities(output) == before
    assert annotate(URL, tmp_path / "second") == 0
    assert sorted(read_parts(tmp_path / "second").column("id").to_pylist()) == [
        f"row {number}" for number in range(5)
    ]


def test_a_snapshot_is_named_by_id_branch_or_tag(lamps: Table):
    old = files_of(lamps)
    first = lamps.current_snapshot().snapshot_id
    lamps.manage_snapshots().create_tag(first, "night").commit()
    lamps.append(examples(2))
    assert [file.path for file in find_inputs(URL)] == files_of(lamps)
    for name in (str(first), "night"):
        (file,) = find_inputs(f"{URL}@{name}")
        assert ([file.path], file.table) == (old, f"{URL}@{first}")
    assert "Snapshot not found: 7" in refusal(f"{URL}@7")
    assert "Cannot scan unknown ref=day" in refusal(f"{URL}@day")


def test_folders_of_partitions_are_not_columns(
    annotate: Annotate, catalog: Catalog, tmp_path: Path
):
    """Iceberg writes null, blanks and names into paths in ways of its own."""
    rows = examples(4).append_column("at", pa.array(["New York", None, "a=b", "é"]))
    rows = rows.append_column("n", pa.array(range(4)))
    table = catalog.create_table("docs.lamps", rows.schema)
    with table.update_spec() as update:
        update.add_identity("at").add_field("n", IdentityTransform(), "n_part")
    table.append(rows)
    assert all("/at=" in path and "/n_part=" in path for path in files_of(table))
    assert annotate(URL, tmp_path / "out") == 0
    written = read_parts(tmp_path / "out")
    assert "n_part" not in written.column_names
    assert sorted(written.select(rows.column_names).to_pylist(), key=lambda row: row["n"]) == (
        rows.to_pylist()
    )


@pytest.mark.parametrize(
    ("evolve", "reason"),
    [
        (lambda update: update.rename_column("question", "asked"), "'question' for 'asked'"),
        (lambda update: update.add_column("page", LongType()), "None for 'page'"),
        (lambda update: update.delete_column("id"), "'id' for None"),
    ],
    ids=["renamed", "added", "dropped"],
)
def test_files_from_before_the_columns_changed_are_refused(
    lamps: Table, evolve: Callable, reason: str
):
    (old,) = files_of(lamps)
    snapshot = lamps.current_snapshot().snapshot_id
    with lamps.update_schema() as update:
        evolve(update)
    assert f"{old} has other columns than the table ({reason})" in refusal()
    # The snapshot has the columns that it had then; rewritten files have the new ones.
    assert find_inputs(f"{URL}@{snapshot}")
    lamps.overwrite(lamps.scan().to_arrow())
    assert find_inputs(URL)


def test_names_that_changed_places_are_refused(lamps: Table):
    with lamps.update_schema() as update:
        update.rename_column("question", "old")
    with lamps.update_schema() as update:
        update.rename_column("context", "question").rename_column("old", "context")
    assert "('question' for 'context')" in refusal()


def test_fields_within_columns_are_compared(catalog: Catalog):
    golds = pa.array([{"text": ["Ada"], "answer_start": [0]}])
    rows = examples(1).append_column("answers", golds)
    table = catalog.create_table("docs.lamps", rows.schema)
    table.append(rows)
    assert find_inputs(URL)
    with table.update_schema() as update:
        update.rename_column(("answers", "text"), "words")
    assert "('answers.text.element' for 'answers.words.element')" in refusal()


def test_files_without_ids_are_read_by_the_table_s_names(lamps: Table, tmp_path: Path):
    path = write_input(tmp_path / "given.parquet", examples(2))
    lamps.add_files([f"file://{path}"])
    assert str(path) in [file.path for file in find_inputs(URL)]
    partition_only = write_input(tmp_path / "less.parquet", examples(2).drop(["id"]))
    lamps.add_files([f"file://{partition_only}"])
    assert f"{partition_only} has other columns than the table (None for 'id')" in refusal()


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        ("POSITION_DELETES", "PARQUET", "has deleted rows: rewrite the table's data files first"),
        ("EQUALITY_DELETES", "PARQUET", "does not yet support equality deletes"),
        ("DATA", "ORC", "other.file is ORC, not Parquet"),
    ],
)
def test_files_that_runs_would_read_wrong_are_refused(
    lamps: Table, content: str, kind: str, reason: str
):
    """pyiceberg writes no such files: the table gets an entry for one, which is not opened."""
    other = DataFile.from_args(
        content=DataFileContent[content],
        file_path=f"{lamps.location()}/other.file",
        file_format=FileFormat[kind],
        partition=Record(),
        record_count=1,
        file_size_in_bytes=1,
        spec_id=0,
    )
    with lamps.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        append.append_data_file(other)
    assert reason in refusal()


def test_what_is_not_there_is_named(catalog: Catalog, lamps: Table):
    for url in ("iceberg://local", "iceberg:///docs.lamps", "iceberg://"):
        assert f"{url} is not iceberg://CATALOG/NAMESPACE.TABLE[@SNAPSHOT]" in refusal(url)
    assert "docs.gone" in refusal("iceberg://local/docs.gone")
    assert "URI missing" in refusal("iceberg://other/docs.lamps")
    catalog.create_table("docs.empty", examples(1).schema)
    assert "the table has no rows" in refusal("iceberg://local/docs.empty")
    (path,) = files_of(lamps)
    Path(path).unlink()
    assert path in refusal()
