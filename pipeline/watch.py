"""Watch a run from anywhere, in the terminal or on a page in the browser:

    python -m pipeline.watch out/
    python -m pipeline.watch s3://bucket/out --serve

It shows the rows and parts that are done, the speed, the time left, the outcomes of rows, the
reasons of rejections, and some of the latest answers. OUT is an output of annotate or audit on any
store, and need not exist yet. All figures come from the files of the run; nothing is changed there.

In the terminal, the command ends when the run does, with 0 if the run is complete and 1 if it is
incomplete. The page is served until the command is interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

logging.getLogger().addHandler(logging.NullHandler())  # Beam warns of optional packages on import

import pyarrow as pa
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from model.command import argument, say
from model.settings import number, whole
from pipeline.job.options import Refused
from pipeline.looks.live_page import LivePage, serving
from pipeline.looks.result import print_refusal, print_text
from pipeline.looks.snapshot import Snapshot, Watcher
from pipeline.looks.snapshot_words import describe_state, figures, outcome_counts, share_done
from pipeline.looks.terminal import one_line, printable
from transforms.retries import is_transient
from transforms.storage import StorageError, absolute, is_local

_LOCAL, _STORE, _LOG = 2.0, 10.0, 30.0
"""Seconds between two looks at a local output, at a store, and between lines in a log."""

_LOOKS_PER_PAUSE = 4
"""A pause takes at least this many times as long as the look before it."""


def snapshots(watcher: Watcher, interval: float) -> Iterator[Snapshot]:
    """Yield snapshots, `interval` seconds apart. Raises Refused, OSError.

    A store that fails transiently is asked again; until then, the last snapshot says so.
    """
    last = Snapshot(watcher.folder)
    while True:
        started = time.monotonic()
        try:
            last = watcher.look(time.time())
        except OSError as error:
            if not is_transient(error):
                raise
            last = replace(last, trouble=f"{type(error).__name__}: {error}")
        # Many parts take long to list: don't keep a store busy.
        pause = max(interval, _LOOKS_PER_PAUSE * (time.monotonic() - started))
        yield last
        time.sleep(pause)


def line_of(snapshot: Snapshot) -> str:
    """Return a snapshot as one line, for a log."""
    parts = [": ".join(filter(None, [snapshot.stage, describe_state(snapshot)]))]
    if snapshot.stage:
        known = [f"{name} {value}" for name, value in figures(snapshot) if value != "–"]
        parts += [", ".join(known), counts_of(snapshot)]
    return one_line("; ".join(filter(None, parts)))


def counts_of(snapshot: Snapshot) -> str:
    """Return the outcomes and the reasons that have occurred, with their numbers."""
    return ", ".join(f"{name} {count:,}" for name, count in outcome_counts(snapshot) if count)


def view_of(snapshot: Snapshot) -> RenderableType:
    """Return a snapshot as a view for a terminal."""
    state = ": ".join(filter(None, [snapshot.stage, describe_state(snapshot)]))
    view: list[RenderableType] = [
        Text(one_line(snapshot.folder), "dim"),
        Text(one_line(state), "bold"),
    ]
    if snapshot.stage:
        names, values = zip(*figures(snapshot), strict=True)
        table = Table.grid(padding=(0, 3))
        table.add_row(*(Text(name, "dim") for name in names))
        table.add_row(*map(Text, values))
        bar = ProgressBar(total=1.0, completed=share_done(snapshot) or 0.0)
        view += [Padding(bar), table, Text(one_line(counts_of(snapshot)))]
    answers = Table.grid(padding=(0, 2), expand=True)
    answers.add_column(width=4)
    for _ in ("answer", "question"):
        answers.add_column(no_wrap=True, ratio=1)
    for answer in snapshot.answers:
        question = Text(one_line(answer.question or answer.id), "dim")
        answers.add_row(f"{answer.probability:.2f}", Text(one_line(answer.text), "bold"), question)
    return Group(*view, answers)


def show(watcher: Watcher, interval: float | None) -> int:
    """Show snapshots until the run has ended. Return the exit code."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        return _print_lines(watcher, interval or _LOG)
    with Live(console=console, auto_refresh=False) as live:
        for snapshot in snapshots(watcher, interval or _pause(watcher)):
            live.update(view_of(snapshot), refresh=True)
            if snapshot.finished:
                break
    return 0 if snapshot.state == "complete" else 1


def _print_lines(watcher: Watcher, interval: float) -> int:
    """Print a line for each snapshot that differs from the last. Return the exit code."""
    before = ""
    for snapshot in snapshots(watcher, interval):
        # The time since the last part always differs.
        line = line_of(replace(snapshot, since_commit=None))
        code = print_text(line_of(snapshot)) if line != before else None
        if code is not None:
            return code
        if snapshot.finished:
            break
        before = line
    return 0 if snapshot.state == "complete" else 1


def serve(watcher: Watcher, interval: float | None, port: int) -> int:
    """Serve the page until the command is interrupted. Raises Refused."""
    page = LivePage()
    page.show(Snapshot(watcher.folder))
    with serving(page, port) as url:
        say(f"{url} shows {printable(watcher.folder)}; Ctrl-C ends this")
        for snapshot in snapshots(watcher, interval or _pause(watcher)):
            page.show(snapshot)
    return 0


def _pause(watcher: Watcher) -> float:
    return _LOCAL if is_local(watcher.folder) else _STORE


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.watch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("output", metavar="OUT", help="output of annotate or audit, a folder or URL")
    add(
        "--interval",
        type=argument(number(0.1, 86400)),
        metavar="X",
        help="seconds between two looks at OUT (default: 2; 10 for a store; 30 if standard output "
        "is not a terminal)",
    )
    add(
        "--serve",
        action="store_true",
        help="serve a page on the loopback address, in place of the view in the terminal",
    )
    add(
        "--port",
        type=argument(whole(1, 65535)),
        metavar="N",
        help="port of the page (default: any free one)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code.

    0 the run is complete, 1 it is incomplete, 2 OUT or an option was refused, 3 standard output
    can't be written, 130 the command was interrupted.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.port is not None and not options.serve:
        parser.error("--port applies to --serve")
    try:
        watcher = Watcher(absolute(options.output))
        if options.serve:
            return serve(watcher, options.interval, options.port or 0)
        return show(watcher, options.interval)
    except KeyboardInterrupt:
        return 130
    except (Refused, StorageError, OSError, pa.ArrowException) as error:
        return print_refusal(error, options.output)


if __name__ == "__main__":
    sys.exit(main())
