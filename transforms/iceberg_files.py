"""The Parquet files of a snapshot of an Iceberg table, which are inputs like any other.

Runs read columns by name, Iceberg by id. So a file must have the table's columns under the table's
names, and no deleted rows; others are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from transforms.parquet_files import FOOTERS_AT_ONCE, open_parquet
from transforms.storage import StorageError, filesystem_of, full_path, info_of

if TYPE_CHECKING:
    from pyiceberg.schema import Schema
    from pyiceberg.table import DataScan
    from pyiceberg.table.name_mapping import NameMapping

_SCHEME = "iceberg://"


def is_iceberg(pattern: str) -> bool:
    """Return whether a pattern names an Iceberg table."""
    return pattern.startswith(_SCHEME)


def iceberg_files(url: str) -> dict[str, dict[str, Any]]:
    """Return path -> the store's information for each data file of a table.

    The information has one more key, `table`: the URL with the id of the snapshot that was found.
    Reads the footer of every data file.

    url  iceberg://CATALOG/NAMESPACE.TABLE[@SNAPSHOT]: a catalog of pyiceberg's configuration, and
         the id of a snapshot, a branch or a tag; without one the current snapshot

    Raises StorageError, also for a file that can't be read as plain Parquet: one of another format,
    with deleted rows, or with other columns than the table.
    """
    catalog, _, rest = url.removeprefix(_SCHEME).partition("/")
    name, _, reference = rest.partition("@")
    if not (catalog and name):
        raise StorageError(f"{url} is not {_SCHEME}CATALOG/NAMESPACE.TABLE[@SNAPSHOT]")
    try:
        scan = _scan(catalog, name, reference)
        columns = scan.projection()  # raises ValueError if there is no such snapshot
        snapshot, paths = scan.snapshot(), list(_plain_files(scan))
        if not (snapshot and paths):
            raise ValueError("the table has no rows")
        mapping = scan.table_metadata.name_mapping()
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
            found = dict(pool.map(lambda path: _found(path, columns, mapping), paths))
    except ImportError as error:
        raise StorageError(f"{url}: {error}: pip install 'spanmill[iceberg]'") from error
    except Exception as error:  # each kind of catalog and each store raises errors of its own
        raise StorageError(f"{url}: {str(error) or type(error).__name__}") from error
    table = f"{_SCHEME}{catalog}/{name}@{snapshot.snapshot_id}"
    return {path: {**info, "table": table} for path, info in found.items()}


def _scan(catalog: str, name: str, reference: str) -> DataScan:
    """Return a scan of the snapshot with this id or name, of the current one without either."""
    from pyiceberg.catalog import load_catalog  # an extra

    table = load_catalog(catalog).load_table(name)
    if reference.isdecimal():
        return table.scan(snapshot_id=int(reference))
    return table.scan().use_ref(reference) if reference else table.scan()


def _plain_files(scan: DataScan) -> Iterator[str]:
    """Yield the paths of the data files. Raises ValueError for another format or deleted rows."""
    for task in scan.plan_files():
        path, kind = task.file.file_path, task.file.file_format.name
        if kind != "PARQUET":
            raise ValueError(f"{path} is {kind}, not Parquet")
        if task.delete_files:
            raise ValueError(f"{path} has deleted rows: rewrite the table's data files first")
        yield path


def _found(path: str, columns: Schema, mapping: NameMapping | None) -> tuple[str, dict[str, Any]]:
    """Return the path and the store's information of a data file.

    columns  of the table
    mapping  of names to ids, for files without ids

    Raises ValueError if its columns, or the fields in them, have other names or ids than the
    table's: columns were added, dropped or renamed since, or only the partition has their values.
    """
    from pyiceberg.io.pyarrow import pyarrow_to_schema
    from pyiceberg.schema import index_name_by_id

    with open_parquet(path) as opened:
        there = index_name_by_id(pyarrow_to_schema(opened.schema_arrow, mapping))
    names = index_name_by_id(columns)
    for each in {**names, **there}:
        if there.get(each) != names.get(each):
            raise ValueError(
                f"{path} has other columns than the table ({there.get(each)!r} for "
                f"{names.get(each)!r}): rewrite the table's data files first"
            )
    fs, inner = filesystem_of(path)
    return full_path(fs, inner), info_of(fs, inner) or {}
