"""Tokenize in processes of their own, so that Python's lock stays free for the network.

What a Hugging Face tokenizer returns has Python objects for every token. Creating and freeing them
is half of the work that holds Python's lock (benchmarks/LOG.md), during which no other thread can
feed a GPU. Here other processes do it, and hand over the finished arrays.

A process is this module, run as a program with one end of a pair of sockets.
"""

from __future__ import annotations

import os
import pickle
import queue
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.reading.tokenizer import Passages, Ragged, Tokenizer

_ROOT = str(Path(__file__).parents[2])
"""Where `model` is imported from."""

_SIZE = struct.Struct("<Q")
"""The number of bytes of a message, which goes before it."""


class ProcessLost(RuntimeError):
    """A process of the tokenizer ended in the middle of its work."""


class TokenizerProcesses(Tokenizer):
    """A tokenizer of which other processes tokenize the texts; everything else is as in its base.

    processes  how many at most, each started when all others are busy

    Any number of threads may use it at once; they wait for a free process. A process that ends in
    the middle of its work raises ProcessLost, and the next text finds a new one. All of them end
    with this process.
    """

    def __init__(self, folder: str | Path, passage_position: int | None, processes: int):
        super().__init__(folder, passage_position)
        self._arguments = (str(folder), passage_position)
        self._most = processes
        self._lock = threading.Lock()
        self._owner, self._places = -1, queue.LifoQueue[_Process | None]()

    def questions(self, texts: Sequence[str]) -> Ragged:
        return self._call("questions", texts)

    def passages(self, contexts: Sequence[str]) -> Passages:
        return self._call("passages", contexts)

    def _call(self, method: str, texts: Sequence[str]) -> Any:
        """Call a method of the tokenizer in one of the processes, and return or raise its result.

        Raises ProcessLost if the process ends, OSError if none can be started.
        """
        places = self._places_of_this_process()
        # The last one first: a place without a process is taken only when all others are busy.
        process = places.get()
        try:
            process = process or _Process(*self._arguments)
            succeeded, result = process.call(method, list(texts))
        except BaseException:
            # An interrupted call leaves an answer in the socket, which must not be the next one's.
            if process:
                process.close()
            process = None
            raise
        finally:
            places.put(process)
        if succeeded:
            return result
        raise result

    def _places_of_this_process(self) -> queue.LifoQueue[_Process | None]:
        """Return the places for processes: one that is running and free, or None."""
        with self._lock:
            # A forked process must not use the sockets of the one that it is a copy of.
            if self._owner != os.getpid():
                self._owner, self._places = os.getpid(), queue.LifoQueue()
                for _ in range(self._most):
                    self._places.put(None)
            return self._places


class _Process:
    """A running process."""

    def __init__(self, folder: str, passage_position: int | None):
        self._socket, other = socket.socketpair()
        position = [] if passage_position is None else [str(passage_position)]
        paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        with other:
            self._process = subprocess.Popen(
                # -P: a model.py in the working folder must not be taken for `model`.
                [sys.executable, "-P", "-m", __name__, str(other.fileno()), folder, *position],
                pass_fds=[other.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # Ctrl-C is for this process, which finishes or resumes
            )

    def call(self, *request: Any) -> tuple[bool, Any]:
        """Return whether a method succeeded, and its result or its error."""
        try:
            _send(self._socket, request)
            return _receive(self._socket)
        except (EOFError, ConnectionError) as error:
            raise ProcessLost(
                f"the process that tokenizes ended with exit code {self._process.wait()}"
            ) from error

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _send(connection: socket.socket, message: Any) -> None:
    """Send a message. Large ones go to the kernel in one call, which does not hold the lock."""
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    connection.sendall(_SIZE.pack(len(content)))
    connection.sendall(content)


def _receive(connection: socket.socket) -> Any:
    """Return the next message. Raises EOFError if the other side has gone."""
    (size,) = _SIZE.unpack(_bytes(connection, _SIZE.size))
    return pickle.loads(_bytes(connection, size))


def _bytes(connection: socket.socket, size: int) -> bytearray:
    """Return the next bytes. Waiting for the last of them takes the lock once, not per piece."""
    content = bytearray(size)
    view = memoryview(content)
    while view:
        got = connection.recv_into(view, len(view), socket.MSG_WAITALL)
        if not got:
            raise EOFError
        view = view[got:]
    return content


def _serve(connection: socket.socket, tokenizer: Tokenizer) -> None:
    """Answer requests until the other side has gone."""
    while True:
        try:
            method, texts = _receive(connection)
        except (EOFError, ConnectionError):
            return
        try:
            answer = True, getattr(tokenizer, method)(texts)
        except BaseException as error:
            answer = False, _portable(error)
        _send(connection, answer)


def _portable(error: BaseException) -> Exception:
    """Return an error that can be sent: itself, or one with its message, as for a Rust panic."""
    try:
        if isinstance(error, Exception) and type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    _descriptor, _folder, *_position = sys.argv[1:]
    with socket.socket(fileno=int(_descriptor)) as _connection:
        _serve(_connection, Tokenizer(_folder, *map(int, _position)))
