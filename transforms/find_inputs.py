"""FindInputs: from the patterns of `--input` to the list of input files.

A file that is found twice is listed once. Files that are not data (`_x`, `.x`) are left out.
Folders of table formats are refused, because their Parquet files also hold deleted and old rows; an
Iceberg table is named as such.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from model.reading.texts import is_utf8
from model.settings import split_names
from transforms.iceberg_files import iceberg_files, is_iceberg
from transforms.records import InputFile
from transforms.retries import is_transient, retried
from transforms.storage import (
    FileSystem,
    StorageError,
    at_commits,
    files_below,
    filesystem_of,
    full_path,
    glob_pattern,
    info_of,
    is_on_hub,
    real_path,
    version_of,
)

_log = logging.getLogger("spanmill")

_NOT_DATA = re.compile(
    r"\.|_(?!.*=)|~\$|(@eaDir|#recycle|\$RECYCLE\.BIN|lost\+found|System Volume Information)$"
)
"""Names that writers, editors and operating systems give to files and folders that are not data.

A folder of a partition, such as `_c0=1`, is data.
"""

_TABLES = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
"""Folders that only the root of a table of this format contains."""

_MOST_NAMED = 5
"""How many names a message lists."""


def find_inputs(patterns: str) -> list[InputFile]:
    """Return the input files of comma-separated paths, globs, folders and URLs, sorted by path.

    A folder stands for every .parquet file below it. Each file is listed once. Names that mark what
    is not data (`_x`, `.x`) are left out below folders and for wildcards, unless the pattern itself
    spells the sign out (`_*.parquet`). A file on the Hugging Face hub is listed at the last commit
    that changed it, so that all workers read the same content. Of an Iceberg table,
    the files of a snapshot are listed (`iceberg_files`).

    Raises StorageError if a pattern matches nothing, if a folder can't be listed, if a pattern
    leads into a table of Delta Lake, Hudi or Iceberg, and for a name that is not UTF-8.
    """
    infos: dict[str, dict[str, Any]] = {}
    for pattern in split_names(patterns):
        try:
            infos |= _matches(pattern)
        except StorageError:
            raise
        except Exception as error:
            # Libraries of stores raise errors of their own, and ValueError for an invalid path.
            if not (isinstance(error, OSError | ValueError) or is_transient(error)):
                raise
            raise StorageError(f"{pattern!r} can't be listed: {error}") from error
    if not infos:
        raise StorageError(f"{patterns!r} names no file")
    paths = _each_once(infos)
    # Arrow opens no such file, and run.json can't list it.
    for path in paths:
        if not is_utf8(path):
            raise StorageError(
                f"{path}: its name is not UTF-8: rename the file, or the folder that it is in"
            )
    return [
        InputFile(
            index,
            path,
            int(infos[path]["size"] or 0),
            version_of(infos[path]),
            label,
            table=infos[path].get("table", ""),
        )
        for index, (path, label) in enumerate(zip(paths, _labels(paths), strict=True))
    ]


def _each_once(paths: Iterable[str]) -> list[str]:
    """Return paths sorted, one for each file: links, `..` and `//` give a file several paths."""
    unique = set(paths)
    chosen: dict[str, str] = {}
    for path in sorted(unique):
        real = real_path(path)
        # Prefer the real path to a link, so that the choice does not depend on names.
        if real not in chosen or path == real:
            chosen[real] = path
    repeated = sorted(unique - set(chosen.values()))
    if repeated:
        _log.warning(
            "skipping %d paths of files that are already among the inputs (%s)",
            len(repeated),
            _first(repeated),
        )
    return sorted(chosen.values())


def _first(names: Sequence[str]) -> str:
    """Return the first names for a message, with "..." if there are more."""
    return ", ".join([*names[:_MOST_NAMED], *(["..."] if len(names) > _MOST_NAMED else [])])


@retried
def _matches(pattern: str) -> dict[str, dict[str, Any]]:
    """Return path -> the store's information for each file that a pattern matches."""
    if is_iceberg(pattern):
        return iceberg_files(pattern)
    fs, inner = filesystem_of(pattern)
    # A literal path first: file names may contain `*`, `?` and `[`.
    info = info_of(fs, inner)
    matches: dict[str, dict[str, Any]] = {}
    if info and info["type"] == "directory":
        matches = _search(fs, inner, f"{inner}/**", lambda path: path.lower().endswith(".parquet"))
    elif info:
        matches = {inner: info}  # also a file whose name holds a `*`
    elif any(sign in pattern for sign in "*?["):
        matches = _glob(fs, inner, pattern)
    if not matches:
        wanted = ".parquet file; a glob, such as FOLDER/*.jsonl, takes other formats"
        raise StorageError(f"{pattern!r} matches no {wanted if info else 'file'}")
    paths = at_commits(fs, list(matches)) if is_on_hub(pattern) else matches
    return {full_path(fs, path): info for path, info in zip(paths, matches.values(), strict=True)}


def _glob(fs: FileSystem, inner: str, pattern: str) -> dict[str, dict[str, Any]]:
    """Return the matches of a glob: `inner` in its file system, `pattern` as the user wrote it."""
    root = re.split(r"[*?[]", inner)[0].rpartition("/")[0].rstrip("/") or "/"
    try:
        glob = glob_pattern(inner)
    except ValueError as error:
        raise StorageError(f"{pattern!r}: {error}") from error

    def matches(path: str) -> bool:
        if glob.match(path):
            return True
        # `**` stands for any folders, including those with an empty name.
        return "**" in inner and bool(glob.match(re.sub("//+", "/", path)))

    return _search(fs, root, inner, matches) if info_of(fs, root) else {}


def _search(
    fs: FileSystem, root: str, pattern: str, matches: Callable[[str], bool]
) -> dict[str, dict[str, Any]]:
    """Return path -> the store's information for the data files below `root` that match."""
    _refuse_table(fs, root)
    # A sign that the pattern spells out lets the search enter such folders.
    signs = {part[:1] for part in pattern[len(root) :].split("/")}
    left_out: list[str] = []

    def enter(folder: str) -> bool:
        name = folder.rpartition("/")[2]
        if name in _TABLES:
            _refuse_table(fs, folder.rpartition("/")[0])
        if _NOT_DATA.match(name) and name[:1] not in signs:
            left_out.append(folder)
            return False
        return True

    data = {}
    levels = None if "**" in pattern else pattern.count("/") - root.rstrip("/").count("/")
    for path, info in files_below(fs, root, levels, enter):
        if path.endswith(".metadata.json"):
            _refuse_table(fs, path.rpartition("/metadata/")[0])
        if not matches(path):
            continue
        if _is_data(path, pattern):
            data[path] = info
        else:
            left_out.append(path)
    # Skipped files should not be a surprise.
    if left_out:
        _log.warning(
            "skipping %d files and folders whose names (like _x and .x) mark what is not data (%s)",
            len(left_out),
            _first(sorted(left_out)),
        )
    return data


def _is_data(path: str, pattern: str) -> bool:
    """Return whether no name in a path marks what is not data, as far as wildcards match it.

    A part of the pattern that begins with the same sign as the name matches it, as in a shell,
    where `*` doesn't match `.x` but `.*` does.
    """
    names, parts = path.split("/"), pattern.split("/")
    if "**" in parts:
        # Align the end of the pattern with the end of the path: "" matches the names in between.
        begin, end = parts.index("**"), len(parts) - parts[::-1].index("**")
        parts = [*parts[:begin], *[""] * (len(names) - begin - len(parts) + end), *parts[end:]]
    return all(
        not _NOT_DATA.match(name) or part[:1] == name[:1]
        for name, part in zip(names, parts, strict=False)
    )


def _refuse_table(fs: FileSystem, folder: str) -> None:
    """Raise StorageError if a folder is a table, or a partition or data folder of one."""
    while folder:
        table_format = _table_format(fs, folder)
        if table_format:
            raise StorageError(
                f"{folder} is a table of {table_format}: its Parquet files also hold deleted and "
                "old rows. Write its rows to Parquet with its own reader, or name each file to "
                "read, or an Iceberg table as iceberg://CATALOG/NAMESPACE.TABLE"
            )
        # Go up as long as the folder may be inside a table: a partition, or its `data` folder.
        folder, _, name = folder.rpartition("/")
        if "=" not in name and name != "data":
            return


def _table_format(fs: FileSystem, folder: str) -> str:
    """Return the format of the table whose root is this folder, "" if the folder is not one."""
    for name, table_format in _TABLES.items():
        if info_of(fs, f"{folder}/{name}"):
            return table_format
    metadata = f"{folder}/metadata"
    if info_of(fs, metadata):
        names = [info["name"] for info in fs.ls(metadata, detail=True)]
        if any(name.endswith(".metadata.json") for name in names):
            return "Iceberg"
    return ""


def _labels(paths: Sequence[str]) -> list[str]:
    """Return the shortest ends of the paths that differ from each other: base names if possible."""
    parts = [PurePosixPath(path).parts for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return list(paths)
