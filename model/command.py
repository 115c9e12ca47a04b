"""Shared parts of command lines: limits of options, refusals, exit codes, and output streams.

Standard output may be closed or full; that must not change what a command does.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from model.checkpoint import CheckpointError
from model.reading.tokenizer import TokenizerError
from model.settings import Kind, SettingError, whole


def argument(kind: Kind) -> Callable[[str], Any]:
    """Return the argparse type of an option that takes values of a kind."""

    def read(text: str) -> Any:
        try:
            value = kind.read(text)
        except (ValueError, KeyError):
            value = math.nan
        if not kind.takes(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind.words}")
        return value

    return read


@contextmanager
def option(name: str, value: Any) -> Iterator[None]:
    """Turn an OSError or ValueError of the body into a SettingError that names an option."""
    try:
        yield
    except SettingError:
        raise
    except OSError as error:
        # Name the file too if it is not the option's value itself, but lies in a folder, say.
        at = f" ({error.filename})" if error.filename not in (None, str(value)) else ""
        raise SettingError(f"{name}={value}: {error.strerror or error}{at}") from error
    except ValueError as error:
        raise SettingError(f"{name}={value}: {error}") from error


def add_windows(parser: argparse._ActionsContainer) -> None:
    """Add the options that say how contexts are cut into windows."""
    parser.add_argument(
        "--max_length",
        type=argument(whole(8, 10**6)),
        default=384,
        help="tokens of a window, with its question (384)",
    )
    parser.add_argument(
        "--overlap",
        type=argument(whole(0, 10**6)),
        default=128,
        help="tokens shared by neighbouring windows (128)",
    )


def say(text: str, end: str = "\n") -> OSError | None:
    """Print on standard output; return the error, instead of raising it, if it is closed or full.

    Escapes characters that the stream's encoding lacks. Replaces a stream that failed by the null
    device, so that it does not fail again when Python exits.
    """
    stream = sys.stdout
    if stream is None:  # it was closed when Python started
        return OSError("it is closed")
    try:
        encoding = stream.encoding or "utf-8"
        print(
            text.encode(encoding, "backslashreplace").decode(encoding),
            end=end,
            file=stream,
            flush=True,
        )
    # A closed stream raises ValueError, a full disk or a broken pipe OSError.
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        return error if isinstance(error, OSError) else OSError(str(error))
    return None


def run_command(work: Callable[[], str]) -> int:
    """Run a command, print what it returns, and return its exit code.

    0 if it finished, 2 if it was refused, 3 if it failed, 130 if it was interrupted.
    """
    try:
        text = work()
    except SettingError as error:
        print(f"refused: --{error}", file=sys.stderr)
        return 2
    except (CheckpointError, TokenizerError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        return 3
    # The work is done: a closed standard output is reported, but is not a failure.
    failure = say(text)
    if failure:
        print(
            f"the result can't be printed: standard output: {failure.strerror or failure}",
            file=sys.stderr,
        )
    return 0
