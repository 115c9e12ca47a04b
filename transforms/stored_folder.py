"""StoredFolder: a checkpoint in an object store, as a location that models are loaded from."""

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
    """A checkpoint in an object store: fetched once per machine, checked by digest, published by one rename."""

    url: str
    digest: str = ""

    def pinned(self, folder: Path, digest: str) -> StoredFolder:
        return replace(self, digest=digest)

    def folder(self) -> Path:
        cache = Path(tempfile.gettempdir()) / f"spanmill-models-{os.getuid()}"
        cache.mkdir(mode=0o700, exist_ok=True)
        found = cache.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise CheckpointError(
                f"{cache} is not a folder that only this user can write: models can't be kept there"
            )
        if self.digest and (cache / self.digest).is_dir():
            return cache / self.digest
        with _alone(cache):
            if (
                self.digest and (cache / self.digest).is_dir()
            ):  # another process has fetched it meanwhile
                return cache / self.digest
            return self._fetch_into(cache)

    def _fetch_into(self, cache: Path) -> Path:
        for unfinished in cache.glob(
            f"{_FETCHING}*"
        ):  # of processes that were killed: nobody else fetches now
            shutil.rmtree(unfinished, ignore_errors=True)
        fetched = Path(tempfile.mkdtemp(prefix=_FETCHING, dir=cache))
        try:
            for name in list_names(self.url):
                if name.endswith((".json", ".safetensors", ".txt", ".model")):
                    fetch(join(self.url, name), str(fetched / name))
            if not (fetched / "config.json").is_file():
                raise CheckpointError(
                    f"{self.url} has no config.json: it is no Hugging Face checkpoint folder"
                )
            fetched_digest = digest(fetched)
            if self.digest and fetched_digest != self.digest:
                raise CheckpointError(
                    f"the checkpoint at {self.url} is not the one that this run was started with"
                )
            with suppress(OSError):  # it was there: its folder has the same digest
                fetched.rename(cache / fetched_digest)
            return cache / fetched_digest
        finally:
            shutil.rmtree(fetched, ignore_errors=True)


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Waits until no other process or thread of this machine fetches; the lock goes with its holder, however that ends."""
    descriptor = os.open(cache, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
