"""Show the progress of a run: a thread counts committed parts, whose names hold their rows.

Of the chunks that this process computes, it counts the share of windows that the network has read.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

from model.reading.progress import shares
from pipeline.job.resolve import Job
from pipeline.looks.count_inputs import count_inputs, rows_of
from transforms.records import rows_of_part
from transforms.run_files import RunFiles
from transforms.storage import is_local

_log = logging.getLogger("spanmill")

_LOG_SECONDS = 30.0


@contextmanager
def progress(job: Job) -> Iterator[None]:
    """Show rows done and planned while the body runs: a bar in a terminal, else log lines.

    With a question list, every row counts as many times as there are questions.
    """
    stopped = threading.Event()
    watcher = threading.Thread(target=_watch, args=(job, stopped), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join(timeout=30)


def _watch(job: Job, stopped: threading.Event) -> None:
    try:
        _show(job, stopped)
    except Exception:  # a failure to show progress must never end a run
        _log.warning("progress can't be shown", exc_info=True)


def _show(job: Job, stopped: threading.Event) -> None:
    files = RunFiles(job.output)
    questions = job.inputs.questions
    each, unit = (len(questions), "question") if questions else (1, "row")
    # A resumed run begins with the rows that are there.
    before = done = each * round(_rows_done(files, {}))
    (rows,), exact = count_inputs(job.files, rows_of)
    planned = each * rows
    terminal = sys.stderr.isatty()
    # Listing a store costs requests; a bar should move at least twice a second.
    pause = (0.5 if terminal else 2.0) if is_local(job.output) else 10.0
    started = logged = time.monotonic()
    with tqdm(
        total=planned,
        initial=before,
        unit=unit,
        desc=" and ".join(job.stages),
        disable=not terminal,
        file=sys.stderr,
    ) as bar:
        finished = False
        while not finished:
            finished = stopped.wait(pause)
            listing = time.monotonic()
            # Between the last window of a chunk and its part, neither counts: never go back.
            done = max(done, round(each * _rows_done(files, computing=shares())))
            # Listing takes at most a twentieth of the time, however many parts there are.
            pause = max(pause, 20 * (time.monotonic() - listing))
            bar.update(done - bar.n)
            now = time.monotonic()
            if not terminal and (finished or now - logged >= _LOG_SECONDS):
                # Rates count only the rows of this run.
                rate = (done - before) / max(now - started, 1e-9)
                left = f", {(planned - done) / rate:.0f} s left" if rate and done < planned else ""
                total = f"{planned}" if exact else f"about {planned}"
                _log.info("%d of %s %ss done, %.1f %ss/s%s", done, total, unit, rate, unit, left)
                logged = now


def _rows_done(files: RunFiles, computing: Mapping[str, float]) -> float:
    """Return the rows of committed parts, and of the parts in `computing` the given shares."""
    committed = files.part_names()
    rows = float(sum(map(rows_of_part, committed)))
    for part in computing.keys() - set(committed):
        rows += computing[part] * rows_of_part(part)
    return rows
