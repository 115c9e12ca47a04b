"""StoredFolder: a checkpoint in an object store, from which models are loaded."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from model.checkpoint import CheckpointError, digest
from transforms.storage import fetch, join, list_names

_FETCHING = "fetching-"


@dataclass(frozen=True)
class StoredFolder:
    """A checkpoint in an object store, downloaded once per machine.

    The download is verified by its digest and published by one rename.

    url     of the folder
    digest  that the checkpoint must have; "" accepts any
    """

    url: str
    digest: str = ""

    def pinned(self, folder: Path, digest: str) -> StoredFolder:
        """Return the location that accepts only this digest."""
        return replace(self, digest=digest)

    def folder(self) -> Path:
        """Return the local copy, downloading it if needed. Raises CheckpointError."""
        cache = Path(tempfile.gettempdir()) / f"spanmill-models-{os.getuid()}"
        cache.mkdir(mode=0o700, exist_ok=True)
        # Another user could have made the folder first, and could replace models in it.
        info = cache.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o022:
            raise CheckpointError(
                f"{cache} is not a folder that only this user can write: it must not hold models"
            )
        # A folder of this name is complete: it appears by a rename.
        if self.digest and (cache / self.digest).is_dir():
            return cache / self.digest
        with _alone(cache):
            # Another process may have downloaded it while this one waited.
            if self.digest and (cache / self.digest).is_dir():
                return cache / self.digest
            return self._fetch_into(cache)

    def _fetch_into(self, cache: Path) -> Path:
        """Download the checkpoint into its folder in the cache. The caller holds the lock."""
        # Nobody else downloads now: these are remains of killed processes.
        for unfinished in cache.glob(f"{_FETCHING}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        fetched = Path(tempfile.mkdtemp(prefix=_FETCHING, dir=cache))
        try:
            for name in list_names(self.url):
                # Only files that loading needs: no optimizer state, no weights in pickle.
                if name.endswith((".json", ".safetensors", ".txt", ".model")):
                    fetch(join(self.url, name), str(fetched / name))
            if not (fetched / "config.json").is_file():
                raise CheckpointError(
                    f"{self.url} has no config.json: it is not a Hugging Face checkpoint folder"
                )
            fetched_digest = digest(fetched)
            if self.digest and fetched_digest != self.digest:
                raise CheckpointError(
                    f"the checkpoint at {self.url} is not the one that this run was started with"
                )
            with suppress(OSError):  # the target exists, with the same digest
                fetched.rename(cache / fetched_digest)
            return cache / fetched_digest
        finally:
            shutil.rmtree(fetched, ignore_errors=True)


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Hold the lock on downloads of this machine, across processes and threads.

    The system releases the lock if the process dies.
    """
    descriptor = os.open(cache, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
