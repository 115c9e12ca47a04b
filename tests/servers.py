"""Servers that tests start as processes, on the loopback address."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.runs import environment, wait_until


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(command: list[str], is_ready: Callable[[], bool], **more: str) -> Iterator[None]:
    """Run a process, with `more` in its environment, while the body runs; yield once it is ready.

    The process and its children end with the body.
    """
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(**more), start_new_session=True
        )
        try:
            try:
                wait_until(lambda: server.poll() is not None or is_ready())
                assert server.poll() is None, f"exit {server.returncode}"
            except AssertionError as error:
                log.seek(0)
                raise AssertionError(
                    f"{command} is not ready: {log.read()[-5000:].decode(errors='replace')}"
                ) from error
            yield
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
