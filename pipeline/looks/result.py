"""Print the result of a command, or why it was refused."""

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
    return print_text(printable(text)) or 0


def print_refusal(error: Exception, output: str) -> int:
    """Print why an output was refused, or that it can't be read. Return the exit code, 2."""
    refused = isinstance(error, Refused | StorageError)
    reason = str(error) if refused else f"{output} can't be read: {error}"
    print(printable(f"refused: {reason}"), file=sys.stderr)
    return 2


def print_text(text: str) -> int | None:
    """Print a text. Return None, or the exit code with which the command has to end.

    That is 0 if the reader of a pipe has closed it, and 3 if standard output can't be written.
    """
    unsaid = say(text)
    if unsaid is None or isinstance(unsaid, BrokenPipeError):
        return None if unsaid is None else 0
    print(f"standard output: {unsaid.strerror or unsaid}", file=sys.stderr)
    return 3
