"""Open Parquet files, local ones and those of any store, to read them in part."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import dataset

from transforms.storage import (
    StorageError,
    described,
    filesystem_of,
    is_local,
    read_range,
    state_of,
)

FOOTERS_AT_ONCE = 16
"""Number of files whose footers are read at a time, each in a thread of its own."""


@contextmanager
def open_parquet(path: str, state: tuple[int, str] | None = None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for reading and close it on exit. Pages are verified by their checksums.

    state  size and version that the file should have. Raises StorageError if they have changed
    """
    current = state_of(path)
    if state is not None and state != current:
        raise StorageError(
            f"{path} has changed since the run was started: it had {described(*state)}, "
            f"now it has {described(*current)}"
        )
    local = is_local(path)
    source: Any = pa.OSFile(filesystem_of(path)[1]) if local else _StoredFile(path, current[0])
    # Without a state, the file may have changed since its footer was read.
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
    """The footer that this thread has read last.

    Parsing the footer of a file with many row groups takes most of the time of a small chunk run.
    """

    file: tuple[str, tuple[int, str]] | None = None
    footer: pq.FileMetaData | None = None


_last_read = _LastRead()


class _StoredFile(io.RawIOBase):
    """A read-only file over an object of a store.

    Each read is one call for a range, which can be retried; an open fsspec handle can't.
    """

    def __init__(self, path: str, size: int):
        super().__init__()
        self._path, self._size, self._position = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        content = read_range(self._path, self._position, stop)
        buffer[: len(content)] = content
        self._position = stop
        return len(content)


def open_dataset(paths: Sequence[str]) -> dataset.Dataset:
    """Return Parquet files of one schema as one dataset.

    A scan reads only the columns it asks for, and skips row groups whose statistics exclude its
    filter.
    """
    fs, _ = filesystem_of(paths[0])
    return dataset.dataset(
        [filesystem_of(path)[1] for path in paths], format="parquet", filesystem=fs
    )
