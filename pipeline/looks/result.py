"""Run a command: print its result, or why it was refused."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pyarrow as pa

from model.command import say
from pipeline.job.options import Refused
from pipeline.looks.terminal import printable
from transforms.storage import StorageError


def print_result(work: Callable[[], str]) -> int:
    """Print what `work` returns. Return the exit code: 0, 2 if refused, 3 if it can't print."""
    try:
        text = work()
    except (Refused, StorageError, OSError, pa.ArrowException) as error:
        print(printable(f"refused: {error}"), file=sys.stderr)
        return 2
    unsaid = say(printable(text))
    if unsaid and not isinstance(unsaid, BrokenPipeError):  # a closed pipe has read enough
        print(f"standard output: {unsaid.strerror or unsaid}", file=sys.stderr)
        return 3
    return 0
