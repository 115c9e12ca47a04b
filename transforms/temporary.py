"""Temporary files of a local output: content is complete and on the disk before it is committed.

A name holds the host and the process that writes the file, so that `sweep` can tell whether
anybody still needs it.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import pyarrow as pa

TEMPORARY = "_tmp"
"""Folder below a local output in which files are built before they are committed."""

_HOST = re.sub(r"[^A-Za-z0-9.]+", "_", platform.node())
_LONGEST_WRITE = 24 * 3600.0
"""Seconds after which a temporary file is abandoned, whichever machine it comes from."""


@contextmanager
def temporary_file(folder: str, content: bytes | pa.Buffer) -> Iterator[str]:
    """Yield the path of a new file in `folder` with this content, written through to the disk.

    Removes the file on exit unless the body has moved it.
    """
    path = os.path.join(folder, f"{_HOST}-{os.getpid()}-{secrets.token_hex(8)}")
    try:
        with _created(folder, path) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _created(folder: str, path: str) -> IO[bytes]:
    """Open a new file for writing, and make its folder if it is missing."""
    try:
        os.makedirs(folder, exist_ok=True)
        return open(path, "xb")
    except (FileNotFoundError, FileExistsError):
        # Another process's `sweep` has removed the empty folder in between.
        os.makedirs(folder, exist_ok=True)
        return open(path, "xb")


def sync_folder(folder: str) -> None:
    """Make new names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: str) -> None:
    """Remove a folder's temporary files whose process on this machine has ended, and day-old ones.

    Removes the folder as well if it is empty then.
    """
    for name in os.listdir(folder):
        host, process, *_ = *name.rsplit("-", 2), ""
        ended = host == _HOST and process.isdigit() and not _may_write(int(process))
        with suppress(FileNotFoundError):
            path = os.path.join(folder, name)
            if ended or time.time() - os.stat(path).st_mtime > _LONGEST_WRITE:
                os.unlink(path)
    with suppress(OSError):
        os.rmdir(folder)


def _may_write(process: int) -> bool:
    """Return whether another process than this one runs with this id."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)  # signal 0 only checks that the process exists
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True
