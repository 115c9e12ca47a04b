"""A store whose Nth operation fails: fsspec's memory file system as `faulty://`."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

_DELAY = 0.05


def _reset() -> OSError:
    return ConnectionResetError(errno.ECONNRESET, "the store hung up")


@dataclass
class Fault:
    """The fault at the operation of this number, counted from 1, and the operations so far.

    kind  "fail": the operation raises and has no effect
          "gone": it raises, and so do all operations after it
          "delay": it is slow
          "tear": a write stores half of its object and raises, the read of a range returns half;
                  other operations fail
          "tear and gone": like "tear", and all operations after it raise: a store without atomic
                  writes, and a crash
          "answer lost": it succeeds, but raises
          "write lost": a write has no effect, and does not raise
          "full": writes raise ENOSPC from here on
    """

    kind: str
    at: int
    done: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def apply(
        self, name: str, operation: Callable[..., Any], path: str, *rest: Any, **options: Any
    ) -> Any:
        with self.lock:
            self.done.append(f"{name} {path}")
            number = len(self.done)
        if self.kind in ("gone", "tear and gone") and number > self.at:
            raise _reset()
        if self.kind == "full" and number >= self.at and name == "pipe_file":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if number != self.at:
            return operation(path, *rest, **options)
        if self.kind == "delay":
            time.sleep(_DELAY)
        if self.kind == "write lost" and name == "pipe_file":
            return None
        if self.kind in ("tear", "tear and gone") and name == "pipe_file":
            operation(path, rest[0][: len(rest[0]) // 2], *rest[1:], **options)
            raise _reset()
        half = self.kind == "tear" and "start" in options
        if self.kind in ("fail", "gone", "tear", "tear and gone") and not half:
            raise _reset()
        result = operation(path, *rest, **options)
        if self.kind == "answer lost":
            raise _reset()
        return result[: len(result) // 2] if half else result


KINDS = ("fail", "gone", "delay", "tear", "tear and gone", "answer lost", "write lost", "full")

_inside = threading.local()


def _counted(name: str) -> Callable[..., Any]:
    """Return a method that applies the fault, except in calls by other operations of the store."""
    original = getattr(MemoryFileSystem, name)

    def method(self: FaultyFileSystem, path: str, *rest: Any, **options: Any) -> Any:
        if getattr(_inside, "depth", 0) or self.fault is None:
            return original(self, path, *rest, **options)

        def operation(*arguments: Any, **more: Any) -> Any:
            _inside.depth = 1
            try:
                return original(self, *arguments, **more)
            finally:
                _inside.depth = 0

        return self.fault.apply(name, operation, path, *rest, **options)

    return method


class FaultyFileSystem(MemoryFileSystem):
    """The store. `fault` applies to all instances."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fault: ClassVar[Fault | None] = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("faulty://"))

    @classmethod
    def empty(cls) -> None:
        """Reset the store to its initial state."""
        cls.fault = None
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]


for _name in ("info", "ls", "cat_file", "pipe_file", "rm", "get_file"):
    setattr(FaultyFileSystem, _name, _counted(_name))

fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
