"""Patches of Beam and of the process: what each does, why, and the figure that pays for it.

Figures are from `python -m benchmarks.patches`, which compares whole runs with all patches and with
all but one; benchmarks/LOG.md has its tables, and the patches that were removed because they saved
less than 0.1 s a run. None changes a result.

This module imports neither Beam nor torch: run_pipeline uses it while it imports them.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_log = logging.getLogger("spanmill")

_SAMPLING_MILLISECONDS = 5


@contextmanager
def without_collections(exempt: bool = False) -> Iterator[None]:
    """Don't collect garbage while modules or a model are loaded.

    exempt  whether all objects that exist at the end are exempt from later collections, once in a
            process: what an earlier job left may be garbage

    Loading makes a million objects, none of them garbage. Looking through them takes 0.5 s of CPU
    time during start-up, and 1.6 s later: in full collections and at the interpreter's exit
    (`--rows 2000`, of a run of 4.8 s without the network; 0.5 and 1.5 s with `--rows 3`).
    """
    gc.disable()
    try:
        yield
    finally:
        if exempt:
            _exempt()
        gc.enable()


@cache
def _exempt() -> None:
    gc.freeze()


def end_bundles_at_once() -> None:
    """Make Beam's thread that samples the running step wake every 5 ms.

    By default it sleeps for up to 200 ms, and the end of each bundle waits until it wakes. This
    saves 0.15 to 0.23 s of a run with one thread, 0.13 to 0.39 s with two, as on a GPU (`--waits`).
    Applies to this process only: worker processes keep Beam's period, and so does a Beam release
    with another default.
    """
    from apache_beam.runners.worker.statesampler import DEFAULT_SAMPLING_PERIOD_MS, StateSampler

    if StateSampler.__init__.__defaults__ == (DEFAULT_SAMPLING_PERIOD_MS,):
        StateSampler.__init__.__defaults__ = (_SAMPLING_MILLISECONDS,)


def end_with_workers() -> None:
    """End this process with exit code 3 when a worker process dies.

    Not for speed: Beam's runner could wait for a dead worker's work forever. The thread in which
    the runner watches a worker raises then, and nothing else notices.
    """
    others = threading.excepthook

    def end_or_report(raised: threading.ExceptHookArgs) -> None:
        if raised.thread is None or raised.thread.name != "run_worker":
            others(raised)
            return
        _log.error(
            "the run did not finish, a worker process died; the same command resumes it: %s",
            raised.exc_value,
        )
        os._exit(3)

    threading.excepthook = end_or_report
