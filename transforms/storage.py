"""All files: local ones and any fsspec URL. The only place that knows fsspec.

A commit publishes finished bytes in one step. Local: a temporary file with a name nobody guesses, fsync, `os.replace`.
Object stores: one `pipe` of the whole object. An open write handle is never used: it would publish a torn object.
Everything here may be done twice, so that transient faults are tried again (`transforms.retries`).
"""

from __future__ import annotations

import errno
import io
import logging
import os
import platform
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate
from pyarrow import dataset

from model.settings import split_names
from transforms.records import InputFile
from transforms.retries import retried

TEMPORARY = "_tmp"
"""Folder below a local output in which files are built before they are committed."""


_log = logging.getLogger("spanmill")

_NOT_DATA = re.compile(
    r"\.|_(?!.*=)|~\$|(@eaDir|#recycle|\$RECYCLE\.BIN|lost\+found|System Volume Information)$"
)
"""Names that writers, editors and operating systems give to what is not data; the partition `_c0=1` is."""

_TABLES = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
"""What lies in the folder of a table, and in no other."""

_REMOVALS_AT_ONCE = 16

_HOST = re.sub(r"[^A-Za-z0-9.]+", "_", platform.node())
_LONGEST_WRITE = 24 * 3600.0
"""Seconds after which a temporary file is nobody's, whatever machine it comes from."""


class StorageError(ValueError):
    """A path that can't be used; the message names it."""


def _locate(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if not path:
        raise StorageError("an empty path names no file")  # fsspec would take the working folder
    if "://" not in path:  # fsspec would take `a::b` for a chain of file systems
        local = LocalFileSystem()
        return local, local._strip_protocol(path)
    try:
        return fsspec.core.url_to_fs(
            path, use_listings_cache=False
        )  # others write there too: a cached listing is old
    except (ImportError, ValueError) as error:
        raise StorageError(f"{path}: {error}") from error


def is_local(path: str) -> bool:
    """Whether a path is on this machine's own file system."""
    return isinstance(_locate(path)[0], LocalFileSystem)


def absolute(path: str) -> str:
    """The path as it is the same from any working folder: absolute if local, the full URL else."""
    fs, inner = _locate(path)
    return (
        inner.rstrip("/")
        if isinstance(fs, LocalFileSystem)
        else fs.unstrip_protocol(inner).rstrip("/")
    )


def join(folder: str, *names: str) -> str:
    """A path below a folder. Raises StorageError for a name that would leave it."""
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise StorageError(f"{name!r} is no name of a file below {folder}")
    return "/".join([folder.rstrip("/"), *names])


def find_inputs(patterns: str) -> list[InputFile]:
    """The files of comma-separated paths, globs, folders (every .parquet below) and URLs, sorted by path, each once.

    Below folders and for wildcards, names that mark what is not data (`_x`, `.x`) are left out; a pattern that spells
    the sign out (`_*.parquet`) finds them.

    Raises StorageError for a pattern that matches nothing, below which a folder can't be listed, or that leads into a
    table of Delta Lake, Hudi or Iceberg.
    """
    found: dict[str, dict[str, Any]] = {}
    for pattern in split_names(patterns):
        try:
            found |= _matches(pattern)
        except OSError as error:
            raise StorageError(f"{pattern!r} can't be listed: {error}") from error
    if not found:
        raise StorageError(f"{patterns!r} names no file")
    paths = _each_once(found)
    return [
        InputFile(index, path, int(found[path]["size"] or 0), _version(found[path]), label)
        for index, (path, label) in enumerate(zip(paths, _labels(paths), strict=True))
    ]


def _each_once(found: Iterable[str]) -> list[str]:
    """Paths, sorted, without those that lead to the file of another: links, `..`, `//`."""
    chosen: dict[str, str] = {}
    for path in sorted(found):
        real = _real(path)
        if real not in chosen or path == real:
            chosen[real] = path
    again = sorted(set(found) - set(chosen.values()))
    if again:
        _log.warning(
            "left out, since they lead to files that are read already: %d (%s)",
            len(again),
            _some(again),
        )
    return sorted(chosen.values())


def _real(path: str) -> str:
    """What is the same for all paths that lead to one file."""
    fs, inner = _locate(path)
    return os.path.realpath(inner) if isinstance(fs, LocalFileSystem) else path


def lies_below(path: str, folder: str) -> bool:
    """Whether a file lies somewhere below a folder, whichever way the two paths lead there."""
    return _real(path).startswith(_real(folder) + "/")


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])])


@retried
def _matches(pattern: str) -> dict[str, dict[str, Any]]:
    """What the store tells of each file that a path, glob or folder stands for."""
    fs, inner = _locate(pattern)
    info = _info(fs, inner)
    matches: dict[str, dict[str, Any]] = {}
    if info and info["type"] == "directory":
        matches = _search(fs, inner, f"{inner}/**", lambda path: path.lower().endswith(".parquet"))
    elif info:
        matches = {inner: info}
    elif any(sign in pattern for sign in "*?["):
        root = re.split(r"[*?[]", inner)[0].rpartition("/")[0].rstrip("/")
        try:
            glob = re.compile(glob_translate(inner))
        except ValueError as error:
            raise StorageError(f"{pattern!r}: {error}") from error

        def wanted(
            path: str,
        ) -> bool:  # `**` stands for any folders, and so for those without a name
            return bool(
                glob.match(path) or ("**" in inner and glob.match(re.sub("//+", "/", path)))
            )

        if _info(fs, root or "/"):
            matches = _search(fs, root or "/", inner, wanted)
    if not matches:
        raise StorageError(f"{pattern!r} matches no {'.parquet file' if info else 'file'}")
    return {
        path if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path): info
        for path, info in matches.items()
    }


def _search(
    fs: fsspec.AbstractFileSystem, root: str, pattern: str, wanted: Callable[[str], bool]
) -> dict[str, dict[str, Any]]:
    """The files below a folder that are wanted, with what the store tells of them, but for those that are not data."""
    _refuse_table(fs, root)
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

    matches = {}
    levels = None if "**" in pattern else pattern.count("/") - root.rstrip("/").count("/")
    for path, info in _files_below(fs, root, levels, enter):
        if path.endswith(".metadata.json"):
            _refuse_table(fs, path.rpartition("/metadata/")[0])
        if wanted(path) and _is_data(path, pattern):
            matches[path] = info
        elif wanted(path):
            left_out.append(path)
    if left_out:
        names = _some(sorted(left_out))
        _log.warning(
            "left out, since names like _x and .x mark what is not data: %d (%s)",
            len(left_out),
            names,
        )
    return matches


def _is_data(path: str, pattern: str) -> bool:
    """Whether no name in a path marks what is not data, but where the pattern begins with the same sign.

    So wildcards don't match such names, as in a shell `*` doesn't match `.x`.
    """
    names, parts = path.split("/"), pattern.split("/")
    if "**" in parts:
        begin, end = parts.index("**"), len(parts) - parts[::-1].index("**")
        parts = [*parts[:begin], *[""] * (len(names) - begin - len(parts) + end), *parts[end:]]
    return all(
        not _NOT_DATA.match(name) or part[:1] == name[:1]
        for name, part in zip(names, parts, strict=False)
    )


def _refuse_table(fs: fsspec.AbstractFileSystem, folder: str) -> None:
    """Raises StorageError if a folder is a table of a format that keeps deleted and old rows, or a partition of one."""
    while folder:
        found = [kind for name, kind in _TABLES.items() if _info(fs, f"{folder}/{name}")]
        metadata = f"{folder}/metadata"
        if not found and _info(fs, metadata):
            found = [
                "Iceberg"
                for info in fs.ls(metadata, detail=True)
                if info["name"].endswith(".metadata.json")
            ]
        if found:
            raise StorageError(
                f"{folder} is a table of {found[0]}: its Parquet files hold deleted and old rows too. "
                "Write its rows to Parquet with its own reader, or name the files that are to be read one by one"
            )
        folder, _, name = folder.rpartition("/")
        if "=" not in name and name != "data":
            return


def _files_below(
    fs: fsspec.AbstractFileSystem,
    folder: str,
    levels: int | None = None,
    enter: Callable[[str], bool] = lambda folder: True,
    links: frozenset[str] = frozenset(),
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Files below a folder, so many levels deep (None: all), with what the store tells of them.

    enter  whether a folder below it is looked into
    links  folders that links have led to on the way here: none is followed round and round

    Not `fs.find` or `fs.glob`: these leave out, without a word, a folder that can't be listed, and its rows with it.
    """
    for info in fs.ls(folder, detail=True):
        path, via = info["name"].rstrip("/"), links
        if isinstance(fs, LocalFileSystem) and info["islink"]:
            # Of what the link leads to. One that leads nowhere is planned, so that it is refused by its name.
            info = _info(fs, path) or {**info, "type": "file"}
            real = _real(path)
            if real in links or f"{_real(folder)}/".startswith(f"{real}/"):
                continue
            via = links | {real}
        if info["type"] == "file":
            if info["size"] or not info["name"].endswith(
                "/"
            ):  # else what a console made to show a folder
                yield path, info
        elif info["type"] == "directory" and levels != 1:
            if path == folder.rstrip("/"):
                yield from _files_below_no_name(fs, folder.rstrip("/"), info)
            elif enter(path):
                yield from _files_below(fs, path, levels and levels - 1, enter, via)


def _files_below_no_name(
    fs: fsspec.AbstractFileSystem, folder: str, info: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects whose keys have two slashes after a folder: `fs.ls` takes the second away, and lists the folder again."""
    found = {
        path: each
        for path, each in fs.find(folder, detail=True, prefix="/").items()
        if path.startswith(f"{folder}//")
    }
    if not found and info["name"].endswith("/"):
        raise OSError(
            errno.EINVAL, "a folder without a name can't be listed in this store", f"{folder}//"
        )
    yield from found.items()


def _info(fs: fsspec.AbstractFileSystem, inner: str) -> dict[str, Any] | None:
    """What a store tells of a path, None if there is nothing (`fs.exists` takes any error for that)."""
    try:
        return dict(fs.info(inner))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _version(info: dict[str, Any]) -> str:
    """What a store offers to tell a changed object: etag or generation, else its time of modification."""
    for name in ("ETag", "etag", "generation", "mtime", "updated", "LastModified", "last_modified"):
        if info.get(name):
            return str(info[name])
    return ""


def _labels(paths: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that still tell all of them apart: base names, if these differ."""
    parts = [PurePosixPath(path).parts for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return list(paths)


@contextmanager
def open_parquet(path: str, state: tuple[int, str] | None = None) -> Iterator[pq.ParquetFile]:
    """A Parquet file opened for reading, closed on exit.

    state  its size and version: StorageError if it has others now
    """
    fs, inner = _locate(path)
    info = _get_info(path)
    now = int(info["size"] or 0), _version(info)
    if state is not None and state != now:
        was, now_is = described(*state), described(*now)
        raise StorageError(
            f"{path} has changed since the run was started: it had {was}, it has {now_is}"
        )
    local = isinstance(fs, LocalFileSystem)
    source: Any = pa.OSFile(inner) if local else _StoredFile(path, now[0])
    known = _last_read.footer if state is not None and _last_read.file == (path, state) else None
    with (
        source,
        pq.ParquetFile(
            source, metadata=known, pre_buffer=not local, page_checksum_verification=True
        ) as file,
    ):
        if state is not None and state[1]:
            _last_read.file, _last_read.footer = (path, state), file.metadata
        yield file


class _LastRead(threading.local):
    """The footer that this thread has read last: of a file of many row groups, parsing it is most of the work of a run."""

    file: tuple[str, tuple[int, str]] | None = None
    footer: pq.FileMetaData | None = None


_last_read = _LastRead()


def described(size: int, version: str) -> str:
    """The state of a file in words; a version that is a time of modification is told as one."""
    with suppress(ValueError, OverflowError, OSError):
        version = f"of {datetime.fromtimestamp(float(version), UTC).isoformat()}"
    return f"{size} bytes, version {version}" if version else f"{size} bytes"


@retried
def _get_info(path: str) -> dict[str, Any]:
    fs, inner = _locate(path)
    return dict(fs.info(inner))


@retried
def read_range(path: str, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a file. Raises OSError if it has not so many."""
    fs, inner = _locate(path)
    content: bytes = fs.cat_file(inner, start=start, end=stop)
    if len(content) != stop - start:
        raise OSError(errno.EIO, f"{len(content)} bytes came of {start} to {stop}", path)
    return content


class _StoredFile(io.RawIOBase):
    """An object for reading, range by range: each is one call that can be tried again, as an open fsspec handle is not."""

    def __init__(self, path: str, size: int):
        super().__init__()
        self._path, self._size, self._place = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        stop = min(self._place + len(buffer), self._size)
        if stop <= self._place:
            return 0
        content = read_range(self._path, self._place, stop)
        buffer[: len(content)] = content
        self._place = stop
        return len(content)


def open_dataset(paths: Sequence[str]) -> dataset.Dataset:
    """Parquet files of one schema as one dataset: only columns that are asked for are read, and only row groups whose
    statistics allow for what is filtered for."""
    fs, _ = _locate(paths[0])
    return dataset.dataset([_locate(path)[1] for path in paths], format="parquet", filesystem=fs)


@contextmanager
def open_file(path: str) -> Iterator[IO[bytes]]:
    """A file opened for reading from front to back, decompressed by its ending (.gz, .bz2, .xz, .zst)."""
    fs, inner = _locate(path)
    with fs.open(inner, "rb", compression="infer") as file:
        yield file


@contextmanager
def building(path: str) -> Iterator[str]:
    """A local file to write, which becomes `path` in one step once the body is done, and is gone if the body raises."""
    fs, inner = _locate(path)
    local = isinstance(fs, LocalFileSystem)
    folder = os.path.dirname(inner) if local else tempfile.gettempdir()
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{PurePosixPath(inner).name}-{secrets.token_hex(8)}")
    try:
        yield temporary
        if local:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, inner)
            _sync_folder(folder)
        else:
            fs.put_file(temporary, inner)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


@retried
def exists(path: str) -> bool:
    return _info(*_locate(path)) is not None


@retried
def read(path: str, most: int | None = None) -> bytes:
    """The bytes of a file, or the first so many. Raises FileNotFoundError."""
    fs, inner = _locate(path)
    return bytes(fs.cat_file(inner, end=most))


@retried
def fetch(path: str, target: str) -> None:
    """Copies a file to a local one. Raises FileNotFoundError."""
    fs, inner = _locate(path)
    fs.get_file(inner, target)


@retried
def list_names(folder: str) -> list[str]:
    """Names of the files in a folder, sorted; none if there is no such folder."""
    fs, inner = _locate(folder)
    try:
        return sorted(
            PurePosixPath(entry["name"]).name
            for entry in fs.ls(inner, detail=True)
            if entry["type"] == "file"
        )
    except FileNotFoundError:
        return []


@retried
def commit(output: str, content: bytes | pa.Buffer, *names: str) -> None:
    """Publishes finished bytes as the file `output/names...`, in one step, replacing what is there."""
    path = join(output, *names)
    fs, inner = _locate(path)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(inner, bytes(content))
        return
    os.makedirs(os.path.dirname(inner), exist_ok=True)
    with _temporary_file(output, content) as temporary:
        os.replace(temporary, inner)
    _sync_folder(os.path.dirname(inner))


@retried
def create(output: str, content: bytes, name: str) -> bool:
    """Publishes finished bytes as a new file; False, and nothing done, if the file is there already."""
    path = join(output, name)
    fs, inner = _locate(path)
    if not isinstance(fs, LocalFileSystem):
        try:
            fs.pipe_file(inner, content, mode="create")
        except FileExistsError:
            return False
        return True
    with _temporary_file(output, content) as temporary:
        try:
            os.link(
                temporary, inner
            )  # fails if the name exists, and never shows a file that is half written
        except FileExistsError:
            return False
    _sync_folder(os.path.dirname(inner))
    return True


@contextmanager
def _temporary_file(output: str, content: bytes | pa.Buffer) -> Iterator[str]:
    """A file with this content, safely on the disk; gone at the end unless the body has moved it."""
    _, inner = _locate(output)
    folder = os.path.join(inner, TEMPORARY)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{_HOST}-{os.getpid()}-{secrets.token_hex(8)}")
    file: IO[bytes]
    try:
        with open(path, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _sync_folder(folder: str) -> None:
    """Makes a new name in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporary(output: str) -> None:
    """Removes the temporary files of processes of this machine that are gone, and any that is a day old."""
    fs, inner = _locate(output)
    folder = os.path.join(inner, TEMPORARY)
    if not isinstance(fs, LocalFileSystem) or not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        host, owner, *_ = *name.rsplit("-", 2), ""
        gone = (
            host == _HOST
            and owner.isdigit()
            and (int(owner) == os.getpid() or not _is_running(int(owner)))
        )
        with suppress(FileNotFoundError):
            path = os.path.join(folder, name)
            if gone or time.time() - os.stat(path).st_mtime > _LONGEST_WRITE:
                os.unlink(path)
    with suppress(OSError):
        os.rmdir(folder)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # someone else's
        return True
    return True


@retried
def remove(output: str, *names: str) -> None:
    """Removes a file or folder below the output, if it is there.

    Not `fs.rm` of a store: it takes a name with `*`, `?` or `[` for a pattern, and removes what others have there.
    """
    fs, inner = _locate(join(output, *names))
    try:
        if isinstance(fs, LocalFileSystem):
            fs.rm(inner, recursive=True)
        else:
            files = [path for path, _ in _files_below(fs, inner)]
            with ThreadPoolExecutor(_REMOVALS_AT_ONCE) as pool:
                list(pool.map(fs.rm_file, files))
    except (FileNotFoundError, IsADirectoryError) as error:
        if _info(
            fs, inner
        ):  # another process writes and removes there still: what was seen is another thing now
            raise OSError(errno.ENOTEMPTY, f"{inner} changed while it was being removed") from error
