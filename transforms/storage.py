"""Storage: reads, commits and removes files, local ones and those of any fsspec URL.

This is the only file that imports fsspec. A commit publishes finished bytes in one step:

local          a temporary file with a random name, fsync, `os.replace`
object stores  one `pipe` of the whole object, never an open write handle: closing one after an
               error would publish a torn object

Every operation that is retried after transient faults (`transforms.retries`) is idempotent.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO, Any, TypeAlias

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile
from fsspec.utils import glob_translate

from transforms.retries import retried
from transforms.temporary import TEMPORARY, sweep, sync_folder, temporary_file

FileSystem: TypeAlias = fsspec.AbstractFileSystem
"""What `filesystem_of` returns; `ls` and `info` return the file system's own paths."""

_REMOVALS_AT_ONCE = 16

_PATHS_AT_ONCE = 50
"""Files about which the Hugging Face hub is asked in one request."""

_AT_COMMIT = re.compile(r"@[0-9a-f]{40}(/|$)")
"""In URLs of the Hugging Face hub that name a commit, of which files never change."""


class StorageError(ValueError):
    """A path can't be used; the message names it."""


def filesystem_of(path: str) -> tuple[FileSystem, str]:
    """Return the file system of a path or URL, and the path within it. Raises StorageError."""
    if not path:  # fsspec would take the working directory
        raise StorageError("an empty path does not name a file")
    if "://" not in path:  # fsspec would take `a::b` for a chain of file systems
        local = LocalFileSystem()
        return local, local._strip_protocol(path)
    # No cache of listings: other processes write to the same store.
    options: dict[str, Any] = {"use_listings_cache": False}
    if is_on_hub(path) and not _AT_COMMIT.search(path):
        # The hub's file system caches regardless, and so is made anew; a commit does not change.
        options["skip_instance_cache"] = True
    try:
        return fsspec.core.url_to_fs(path, **options)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{path}: {error}") from error


def is_on_hub(path: str) -> bool:
    """Return whether a path is in a repository of the Hugging Face hub."""
    return path.startswith("hf://")


def at_commits(fs: FileSystem, inner: Sequence[str]) -> list[str]:
    """Return the paths of files of one repository of the hub, each at its last commit.

    That is the last one that changed the file: there the content is fixed, and later commits of
    other files do not change the path.
    """
    from huggingface_hub import HfApi  # only for the hub: the import takes a while

    commits: dict[str, str] = {}
    found = [fs.resolve_path(path) for path in inner]
    for begin in range(0, len(found), _PATHS_AT_ONCE):
        some = found[begin : begin + _PATHS_AT_ONCE]
        for entry in HfApi(fs.endpoint, fs.token).get_paths_info(
            some[0].repo_id,
            [each.path for each in some],
            expand=True,
            revision=some[0].revision,
            repo_type=some[0].repo_type,
        ):
            commits[entry.path] = entry.last_commit.oid
    return [f"{each.root.split('@')[0]}@{commits[each.path]}/{each.path}" for each in found]


def is_local(path: str) -> bool:
    """Return whether a path is on this machine's own file system."""
    return isinstance(filesystem_of(path)[0], LocalFileSystem)


def full_path(fs: FileSystem, inner: str) -> str:
    """Return the path or URL by which `filesystem_of` leads to `inner` in this file system."""
    return inner if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(inner)


def absolute(path: str) -> str:
    """Return a path that is valid from any working directory: absolute if local, else the URL."""
    return full_path(*filesystem_of(path)).rstrip("/")


def real_path(path: str) -> str:
    """Return what all paths to one file share: the local path without links, or the URL."""
    fs, inner = filesystem_of(path)
    return os.path.realpath(inner) if isinstance(fs, LocalFileSystem) else path


def lies_below(path: str, folder: str) -> bool:
    """Return whether a file is somewhere below a folder, whatever links the two paths contain."""
    return real_path(path).startswith(real_path(folder) + "/")


def join(folder: str, *names: str) -> str:
    """Return a path below a folder. Raises StorageError for a name that would leave the folder."""
    for name in names:
        # The names come from input files, and must not reach files outside the output.
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise StorageError(f"{name!r} is not a valid name of a file below {folder}")
    return "/".join([folder.rstrip("/"), *names])


def glob_pattern(inner: str) -> re.Pattern[str]:
    """Return the regular expression of a glob. Raises ValueError for an invalid one."""
    return re.compile(glob_translate(inner))


def info_of(fs: FileSystem, inner: str) -> dict[str, Any] | None:
    """Return a store's information about a path, None if it does not exist.

    Raises every other error, which `fs.exists` would take for "does not exist".
    """
    try:
        return dict(fs.info(inner))
    except (FileNotFoundError, NotADirectoryError):
        return None


def version_of(info: dict[str, Any]) -> str:
    """Return what changes with an object's content: etag or generation, else modification time."""
    for name in (
        *("ETag", "etag", "generation", "blob_id"),
        *("mtime", "updated", "LastModified", "last_modified"),
    ):
        if info.get(name):
            return str(info[name])
    return ""


def files_below(
    fs: FileSystem,
    folder: str,
    levels: int | None = None,
    enter: Callable[[str], bool] = lambda folder: True,
    links: frozenset[str] = frozenset(),
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path, the store's information) of the files below a folder. Raises OSError.

    levels  depth of the search; None: unlimited
    enter   returns whether to search a folder
    links   folders that links have led to so far, so that a cycle of links ends

    Does not use `fs.find` or `fs.glob`: they silently omit a folder that can't be listed, and so
    its rows.
    """
    for info in fs.ls(folder, detail=True):
        path, links_to_here = info["name"].rstrip("/"), links
        if isinstance(fs, LocalFileSystem) and info["islink"]:
            # Take the target's information. A broken link counts as a file: reading it fails, and
            # planning refuses it by name.
            info = info_of(fs, path) or {**info, "type": "file"}
            target = real_path(path)
            if target in links or f"{real_path(folder)}/".startswith(f"{target}/"):
                continue
            links_to_here = links | {target}
        if info["type"] == "file":
            # Consoles represent a folder by an empty object whose name ends with a slash.
            if info["size"] or not info["name"].endswith("/"):
                yield path, info
        elif info["type"] == "directory" and levels != 1:
            if path == folder.rstrip("/"):
                yield from _files_below_no_name(fs, folder.rstrip("/"), info)
            elif enter(path):
                yield from files_below(fs, path, levels and levels - 1, enter, links_to_here)


def _files_below_no_name(
    fs: FileSystem, folder: str, info: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects whose keys have two slashes after a folder.

    `fs.ls` strips the second slash, so that listing `folder//` would list the folder itself again.
    """
    objects = fs.find(folder, detail=True, prefix="/")
    below = {path: each for path, each in objects.items() if path.startswith(f"{folder}//")}
    if not below and info["name"].endswith("/"):
        raise OSError(
            errno.EINVAL, "this store can't list a folder with an empty name", f"{folder}//"
        )
    yield from below.items()


def described(size: int, version: str) -> str:
    """Return the state of a file for a message, a modification time in ISO format."""
    with suppress(ValueError, OverflowError, OSError):
        version = f"of {datetime.fromtimestamp(float(version), UTC).isoformat()}"
    return f"{size} bytes, version {version}" if version else f"{size} bytes"


@retried
def state_of(path: str) -> tuple[int, str]:
    """Return the size and version of a file. Raises FileNotFoundError."""
    fs, inner = filesystem_of(path)
    info = dict(fs.info(inner))
    return int(info["size"] or 0), version_of(info)


@retried
def read_range(path: str, start: int, stop: int) -> bytes:
    """Return bytes `start` to `stop` (exclusive) of a file. Raises OSError if it is shorter."""
    fs, inner = filesystem_of(path)
    # The hub's file system would read megabytes ahead.
    options = {"cache_type": "none"} if is_on_hub(path) else {}
    content: bytes = fs.cat_file(inner, start=start, end=stop, **options)
    if len(content) != stop - start:
        raise OSError(
            errno.EIO, f"bytes {start} to {stop} were asked for, {len(content)} bytes came", path
        )
    return content


@contextmanager
def open_file(path: str) -> Iterator[IO[bytes]]:
    """Open a file for sequential reading, decompressed by extension (.gz, .bz2, .xz, .zst)."""
    fs, inner = filesystem_of(path)
    with fs.open(inner, "rb", compression="infer") as file:
        # Those of stores can't read a line up to a limit.
        yield io.BufferedReader(file) if isinstance(file, AbstractBufferedFile) else file


@contextmanager
def building(path: str) -> Iterator[str]:
    """Yield the name of a local file to write, which becomes `path` in one step on exit.

    Removes the file, and leaves `path` alone, if the body raises.
    """
    fs, inner = filesystem_of(path)
    local = isinstance(fs, LocalFileSystem)
    folder = os.path.dirname(inner) if local else tempfile.gettempdir()
    os.makedirs(folder, exist_ok=True)
    # In the target's folder, because a rename across file systems is not atomic.
    temporary = os.path.join(folder, f".{PurePosixPath(inner).name}-{secrets.token_hex(8)}")
    try:
        yield temporary
        if local:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, inner)
            sync_folder(folder)
        else:
            fs.put_file(temporary, inner)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


@retried
def exists(path: str) -> bool:
    """Return whether there is a file or folder at a path."""
    return info_of(*filesystem_of(path)) is not None


@retried
def read(path: str, most: int | None = None) -> bytes:
    """Return the first `most` bytes of a file; None: all. Raises FileNotFoundError."""
    fs, inner = filesystem_of(path)
    return bytes(fs.cat_file(inner, end=most))


@retried
def fetch(path: str, target: str) -> None:
    """Copy a file to a local one. Raises FileNotFoundError."""
    fs, inner = filesystem_of(path)
    fs.get_file(inner, target)


def list_names(folder: str) -> list[str]:
    """Return the names of the files in a folder, sorted; none if there is no such folder."""
    return sorted(list_times(folder))


@retried
def list_times(folder: str) -> dict[str, float]:
    """Return the names of the files in a folder with their times of modification.

    Times are in seconds since 1970; 0 where the store's listing has none.
    """
    fs, inner = filesystem_of(folder)
    try:
        return {
            PurePosixPath(entry["name"]).name: _modified(entry)
            for entry in fs.ls(inner, detail=True)
            if entry["type"] == "file"
        }
    except FileNotFoundError:
        return {}


def _modified(info: dict[str, Any]) -> float:
    """Return the time of modification in a store's information, in seconds since 1970; else 0."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        with suppress(ValueError, OverflowError):
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
            if isinstance(value, datetime):
                return value.timestamp()
            if value:
                return float(value)
    return 0.0


@retried
def commit(output: str, content: bytes | pa.Buffer, *names: str) -> None:
    """Publish finished bytes as the file `output/names...` in one step, replacing an older one."""
    path = join(output, *names)
    fs, inner = filesystem_of(path)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(inner, bytes(content))
        return
    # Stores have no folders; local ones are created when first needed.
    os.makedirs(os.path.dirname(inner), exist_ok=True)
    with temporary_file(_temporary_folder(output), content) as temporary:
        os.replace(temporary, inner)
    sync_folder(os.path.dirname(inner))


@retried
def commit_file(output: str, local: str, *names: str) -> None:
    """Commit a finished local file as `commit` does; it may be larger than memory."""
    fs, inner = filesystem_of(join(output, *names))
    if not isinstance(fs, LocalFileSystem):
        fs.put_file(local, inner)
        return
    with pa.memory_map(local) as content:
        commit(output, content.read_buffer(), *names)


@retried
def create(output: str, content: bytes, name: str) -> bool:
    """Publish finished bytes as a new file. Returns False, changing nothing, if it exists."""
    path = join(output, name)
    fs, inner = filesystem_of(path)
    if not isinstance(fs, LocalFileSystem):
        try:
            fs.pipe_file(inner, content, mode="create")
        except FileExistsError:
            return False
        return True
    with temporary_file(_temporary_folder(output), content) as temporary:
        try:
            # `link` is atomic and, unlike `replace`, fails if the name exists.
            os.link(temporary, inner)
        except FileExistsError:
            return False
    sync_folder(os.path.dirname(inner))
    return True


def _temporary_folder(output: str) -> str:
    return os.path.join(filesystem_of(output)[1], TEMPORARY)


def sweep_temporary(output: str) -> None:
    """Remove temporary files that no process needs any more (`transforms.temporary.sweep`)."""
    folder = _temporary_folder(output)
    if is_local(output) and os.path.isdir(folder):
        sweep(folder)


@retried
def remove(output: str, *names: str) -> None:
    """Remove a file or folder below the output. Does nothing if it does not exist.

    Does not use `fs.rm` of a store: it expands a name with `*`, `?` or `[` as a pattern, and would
    remove files of others.
    """
    fs, inner = filesystem_of(join(output, *names))
    try:
        if isinstance(fs, LocalFileSystem):
            fs.rm(inner, recursive=True)
        else:
            files = [path for path, _ in files_below(fs, inner)]
            with ThreadPoolExecutor(_REMOVALS_AT_ONCE) as pool:
                list(pool.map(fs.rm_file, files))
    except (FileNotFoundError, IsADirectoryError) as error:
        # Other processes may still write and remove here: what was listed has become another thing.
        # ENOTEMPTY is transient, so that the removal is retried.
        if info_of(fs, inner):
            raise OSError(errno.ENOTEMPTY, f"{inner} changed while it was being removed") from error
