"""Progress: how much of its work in the network this process has done, for displays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class WindowCount:
    """Windows to compute, and how many are done; a long window counts more than a short one."""

    windows: int
    done: float = 0.0

    def add(self, windows: float) -> None:
        """Count windows as done."""
        with _lock:  # lanes add at the same time
            self.done += windows


_lock = threading.Lock()
_works: dict[str, WindowCount] = {}
_current: ContextVar[WindowCount | None] = ContextVar("work", default=None)


@contextmanager
def working_on(name: str, windows: int) -> Iterator[None]:
    """Show under a name how many of `windows` windows the body has computed so far."""
    work = _works[name] = WindowCount(windows)
    token = _current.set(work)
    try:
        yield
    finally:
        _current.reset(token)
        _works.pop(name, None)


def current() -> WindowCount | None:
    """Return the work that this thread is doing, None if nobody wants to see it."""
    return _current.get()


def shares() -> dict[str, float]:
    """Return the share of each work in progress that is done, in [0, 1], by name."""
    return {
        name: min(1.0, work.done / work.windows)
        for name, work in list(_works.items())
        if work.windows
    }
