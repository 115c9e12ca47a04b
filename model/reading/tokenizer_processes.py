"""Tokenize in processes of their own, so that Python's lock stays free for the network.

What a Hugging Face tokenizer returns has Python objects for every token. Creating and freeing them
is nearly half of the work that holds Python's lock (benchmarks/LOG.md), during which no other
thread can feed a GPU. Here other processes do it, and hand over the finished arrays.

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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.reading.tokenizer import Passages, Ragged, Tokenizer

_SIZE = struct.Struct("<Q")
"""The number of bytes of a message, which goes before it."""


class ProcessLost(RuntimeError):
    """Two processes in a row ended while they tokenized the same texts."""


class TokenizerProcesses(Tokenizer):
    """A tokenizer of which other processes tokenize the texts; everything else is as in its base.

    processes  how many at most, each started when it is needed

    Any number of threads may use it at once; they wait for a free process. Texts on which a process
    ends are tried once more in a new one. All processes end with this one and its forks.
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

        Raises ProcessLost, or OSError if a process can't be started.
        """
        places = self._places_of_this_process()
        process = places.get()
        try:
            process = process or _Process(*self._arguments)
            try:
                result = process.call(method, list(texts))
            except _Ended:
                # It may have ended for a reason of its own: the texts get another chance.
                process.close()
                process = _Process(*self._arguments)
                result = process.call(method, list(texts))
        except BaseException as error:
            # An interrupted call leaves an answer in the socket, which must not be the next one's.
            if process:
                process.close()
            process = None
            if isinstance(error, _Ended):
                raise ProcessLost(f"the process that tokenizes {error}") from error
            raise
        finally:
            places.put(process)
        if isinstance(result, _Failure):
            raise result.error()
        return result

    def _places_of_this_process(self) -> queue.LifoQueue[_Process | None]:
        """Return the places for processes: one that is running and free, or None."""
        with self._lock:
            # A forked process must not use the sockets of the one that it is a copy of.
            if self._owner != os.getpid():
                self._owner, self._places = os.getpid(), queue.LifoQueue()
                for _ in range(self._most):
                    self._places.put(None)
            return self._places


class _Ended(Exception):
    """A process has ended; the message says how."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error of a process, in a form that can be sent.

    sent   the error itself if it can be pickled, else None
    kind   the name of its class
    """

    sent: Exception | None
    kind: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> _Failure:
        sent = None
        try:
            if isinstance(error, Exception) and type(_copied(error)) is type(error):
                sent = error
        except Exception:
            pass  # some classes can't be pickled or rebuilt
        return cls(sent, type(error).__name__, str(error))

    def error(self) -> Exception:
        """Return the error, or one of a class of the same name: a Rust panic is known by it."""
        return self.sent or type(self.kind, (RuntimeError,), {})(self.message)


def _copied(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


class _Process:
    """A running process."""

    def __init__(self, folder: str, passage_position: int | None):
        """Start it. Raises OSError if it can't be started, or does not get as far as waiting."""
        self._socket, other = socket.socketpair()
        self._socket.setblocking(True)  # whatever the default time-out of sockets is
        other.setblocking(True)
        position = [] if passage_position is None else [str(passage_position)]
        try:
            with other:
                self._process = subprocess.Popen(
                    # -P: a model.py in the working folder must not be taken for `model`.
                    [sys.executable, "-P", "-m", __name__, str(other.fileno()), folder, *position],
                    pass_fds=[other.fileno()],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    start_new_session=True,  # Ctrl-C is for this process, which finishes or resumes
                )
            self._receive()
        except OSError:
            self._socket.close()
            raise
        except _Ended as error:
            self._socket.close()
            raise OSError(f"a process to tokenize in {error} before its first text") from error

    def call(self, method: str, texts: list[str]) -> Any:
        """Return the result of a method, or its `_Failure`. Raises _Ended."""
        with suppress(ConnectionError):  # receiving says how it ended
            _send(self._socket, (method, texts))
        return self._receive()

    def _receive(self) -> Any:
        try:
            return _receive(self._socket)
        except (EOFError, ConnectionError):
            raise _Ended(f"ended with exit code {self._process.wait()}") from None

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
    """Say that the tokenizer is ready, then answer requests until the other side has gone."""
    result: Any = None
    try:
        while True:
            _send(connection, result)
            method, texts = _receive(connection)
            try:
                result = getattr(tokenizer, method)(texts)
            except BaseException as error:
                result = _Failure.of(error)
    except (EOFError, ConnectionError):
        return


if __name__ == "__main__":
    # As the module that the other side imports, so that both have the same classes.
    from model.reading import tokenizer_processes

    _descriptor, _folder, *_position = sys.argv[1:]
    with socket.socket(fileno=int(_descriptor)) as _connection:
        tokenizer_processes._serve(_connection, Tokenizer(_folder, *map(int, _position)))
