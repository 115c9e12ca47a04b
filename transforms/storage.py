"""All files: local ones and any fsspec URL. The only place that knows fsspec.

A commit publishes finished bytes in one step. Local: a temporary file with a name nobody guesses, fsync, `os.replace`.
Object stores: one `pipe` of the whole object. An open write handle is never used: it would publish a torn object.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from model.checkpoint import CheckpointError, digest
from transforms.records import InputFile

TEMPORARY = "_tmp"
"""Folder below a local output in which files are built before they are committed."""


class StorageError(ValueError):
    """A path that can't be used; the message names it."""


def _locate(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if not path:
        raise StorageError("an empty path names no file")  # fsspec would take the working folder
    try:
        return fsspec.core.url_to_fs(path, use_listings_cache=False)  # other processes write too
    except (ImportError, ValueError) as error:
        raise StorageError(f"{path}: {error}") from error


def is_local(path: str) -> bool:
    """Whether a path is on this machine's own file system."""
    return isinstance(_locate(path)[0], LocalFileSystem)


def absolute(path: str) -> str:
    """The path as it is the same from any working folder: absolute if local, the full URL else."""
    fs, inner = _locate(path)
    return inner.rstrip("/") if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(inner).rstrip("/")


def join(folder: str, *names: str) -> str:
    """A path below a folder. Raises StorageError for a name that would leave it."""
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise StorageError(f"{name!r} is no name of a file below {folder}")
    return "/".join([folder.rstrip("/"), *names])


def find_inputs(patterns: str) -> list[InputFile]:
    """The files of comma-separated paths, globs, folders (every .parquet below) and URLs, sorted by path, each once.

    Raises StorageError for a pattern that matches nothing.
    """
    found: dict[str, dict[str, Any]] = {}
    for pattern in filter(None, (pattern.strip() for pattern in patterns.split(","))):
        fs, inner = _locate(pattern)
        if fs.isdir(inner):
            matches = {p: info for p, info in fs.find(inner, detail=True).items() if p.endswith(".parquet")}
        elif fs.exists(inner):
            matches = {inner: fs.info(inner)}
        elif any(sign in pattern for sign in "*?["):
            found_by_glob = fs.glob(inner, detail=True).items()
            matches = {p: info for p, info in found_by_glob if info["type"] == "file" or fs.isfile(p)}  # or a link to one
        else:
            matches = {}
        if not matches:
            raise StorageError(f"{pattern!r} matches no {'.parquet file' if fs.isdir(inner) else 'file'}")
        for path, info in matches.items():
            found[path if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path)] = info
    if not found:
        raise StorageError(f"{patterns!r} names no file")
    return [
        InputFile(index, path, int(found[path]["size"] or 0), _version(found[path])) for index, path in enumerate(sorted(found))
    ]


def _version(info: dict[str, Any]) -> str:
    """What a store offers to tell a changed object: etag or generation, else its time of modification."""
    for name in ("ETag", "etag", "generation", "mtime", "updated", "LastModified", "last_modified"):
        if info.get(name):
            return str(info[name])
    return ""


@contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file opened for reading, closed on exit."""
    fs, inner = _locate(path)
    local = isinstance(fs, LocalFileSystem)
    source: Any = pa.OSFile(inner) if local else fs.open(inner, "rb")
    with source, pq.ParquetFile(source, pre_buffer=not local) as file:
        yield file


def exists(path: str) -> bool:
    fs, inner = _locate(path)
    return bool(fs.exists(inner))


def read(path: str, begin: int | None = None, end: int | None = None) -> bytes:
    """The bytes of a file, all or those from `begin` to before `end`. Raises FileNotFoundError."""
    fs, inner = _locate(path)
    return fs.cat_file(inner, begin, end)


def list_names(folder: str) -> list[str]:
    """Names of the files in a folder, sorted; none if there is no such folder."""
    fs, inner = _locate(folder)
    try:
        return sorted(PurePosixPath(entry["name"]).name for entry in fs.ls(inner, detail=True) if entry["type"] == "file")
    except FileNotFoundError:
        return []


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
            os.link(temporary, inner)  # fails if the name exists, and never shows a file that is half written
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
    path = os.path.join(folder, f"{os.getpid()}-{secrets.token_hex(8)}")
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
    """Removes the temporary files of processes of this machine that are gone."""
    fs, inner = _locate(output)
    folder = os.path.join(inner, TEMPORARY)
    if not isinstance(fs, LocalFileSystem) or not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        owner = name.split("-")[0]
        if not owner.isdigit() or int(owner) == os.getpid() or not _is_running(int(owner)):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
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


def remove(output: str, *names: str) -> None:
    """Removes a file or folder below the output, if it is there."""
    fs, inner = _locate(join(output, *names))
    with suppress(FileNotFoundError):
        fs.rm(inner, recursive=True)


@dataclass(frozen=True)
class StoredFolder:
    """A checkpoint in an object store: fetched once per machine, checked by digest, published by one rename."""

    url: str
    digest: str = ""

    def folder(self) -> Path:
        cache = Path(tempfile.gettempdir()) / f"spanmill-models-{os.getuid()}"
        cache.mkdir(mode=0o700, exist_ok=True)
        if self.digest and (cache / self.digest).is_dir():
            return cache / self.digest
        fs, inner = _locate(self.url)
        fetched = Path(tempfile.mkdtemp(dir=cache))
        try:
            for name in list_names(self.url):
                if name.endswith((".json", ".safetensors", ".txt", ".model")):
                    fs.get_file(f"{inner.rstrip('/')}/{name}", str(fetched / name))
            if not (fetched / "config.json").is_file():
                raise CheckpointError(f"{self.url} has no config.json: it is no Hugging Face checkpoint folder")
            found = digest(fetched)
            if self.digest and found != self.digest:
                raise CheckpointError(f"the checkpoint at {self.url} is not the one that this run was started with")
            with suppress(OSError):  # another process was first: its folder has the same digest
                fetched.rename(cache / found)
            return cache / found
        finally:
            shutil.rmtree(fetched, ignore_errors=True)
