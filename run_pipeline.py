"""Extractive question answering over whole corpora: `python run_pipeline.py annotate --input ... --output ...`."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from types import FrameType
from typing import Any

for _name in (
    "model",
    "transforms",
    "pipeline",
):  # common names: another's would be run, or fail in odd ways
    _spec = find_spec(_name)
    _get_source = getattr(_spec.loader, "get_source", None) if _spec else None
    _source = _get_source(_name) if _get_source else None
    if 'DISTRIBUTION = "spanmill"' not in (_source or ""):
        _found = _spec.origin if _spec and _spec.origin else "missing"
        _hint = "docs/installing.md says what to do"
        print(
            f"refused: the package {_name!r} is not Spanmill's, but {_found}; {_hint}",
            file=sys.stderr,
        )
        raise SystemExit(2)

logging.getLogger().addHandler(
    logging.NullHandler()
)  # Beam warns of optional packages while it is imported
gc.disable()  # see _without_collections

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from model.command import say
    from pipeline import compare
    from pipeline.graph import build
    from pipeline.job import duplicates
    from pipeline.job.dates import each_day
    from pipeline.job.identity import claim, claimed_outputs
    from pipeline.job.options import BeamOptions, Refused, parse
    from pipeline.job.resolve import resolve
    from pipeline.job.runners import feed_gpu, is_local, is_template, make_runner
    from pipeline.looks.progress import progress
    from pipeline.looks.summary import (
        accounting,
        audit_figures,
        comparison_figures,
        duplicate_figures,
    )
    from pipeline.looks.terminal import printable
    from transforms.run_files import RunFiles
    from transforms.storage import read, sweep_temporary
except Exception as _error:  # Python would exit with 1, which means that the run has finished
    traceback.print_exc()
    print(
        f"refused: this installation is broken: {type(_error).__name__}: {_error}", file=sys.stderr
    )
    raise SystemExit(2) from _error

gc.enable()
gc.set_threshold(
    20_000
)  # new objects, where Python looks for garbage after 700 or 2,000: 200 times in an audit of 2,000 rows

_log = logging.getLogger("spanmill")


def run(arguments: Sequence[str]) -> int:
    """Runs the job, of several days one by one. Returns the exit code; raises Refused where nothing can be started."""
    options, rest = parse(arguments)
    if options.stage == "compare":
        return _compare(options, BeamOptions(rest))
    jobs = each_day(options)
    if len(jobs) == 1:
        return run_job(jobs[0], BeamOptions(rest))
    if is_template(BeamOptions(rest)):
        raise Refused("--date: several days are several jobs, and --template_location takes one")
    code = 0
    for job in jobs:
        _log.info("day %s", job.date[0])
        code = max(code, exit_code(run_job, job, BeamOptions(rest)))
        if code == 3:
            break  # what ended this day would end the next
    return code


def run_job(options: argparse.Namespace, beam_options: PipelineOptions) -> int:
    """Runs one job. Returns its exit code; raises Refused before any row, anything else for a run that did not finish."""
    feed_gpu(beam_options, options.device)
    with _without_collections():
        job = resolve(options, beam_options)
    if options.against:
        duplicates.audited_parts(
            options.against, own=False
        )  # refused now rather than after the run
    resumed = claim(job, options.overwrite)
    if resumed:
        _log.info("going on with the run in %s", job.output)
    pipeline = beam.Pipeline(runner=make_runner(beam_options), options=beam_options)
    build(pipeline, job)
    if is_template(beam_options):
        pipeline.run()
        return 0
    if is_local(beam_options):
        with progress(job):
            pipeline.run().wait_until_finish()
    else:
        pipeline.run().wait_until_finish()
    states, ends = [], {}
    for output in claimed_outputs(job):
        files = output.files
        manifest = json.loads(read(files.manifest))
        lines = [f"{output.stage}: {accounting(manifest, files.folder)}"]
        if output.stage == "audit":
            lines.append(audit_figures(json.loads(read(files.audit))))
            lines.append(f"report: {printable(files.report)}")
            lines.append(duplicate_figures(json.loads(read(files.duplicates))))
        ends[files.manifest] = "\n".join(lines)
        sweep_temporary(files.folder)
        states.append(manifest["state"])
    _print_ends(ends)
    return 0 if set(states) == {"complete"} else 1


def _print_ends(ends: dict[str, str]) -> None:
    """Prints what a run came to, by the files that say the same: it has finished, whether that can be printed or not."""
    unsaid = say("\n".join(ends.values()))
    if unsaid:
        files = " and ".join(ends)
        _log.warning(
            "what the run came to can't be printed on standard output (%s): read %s",
            unsaid.strerror or unsaid,
            files,
        )


def _compare(options: argparse.Namespace, beam_options: PipelineOptions) -> int:
    """Compares two audits; the exit code says whether the second passes."""
    job = compare.resolve(options)
    claim(job, options.overwrite)
    pipeline = beam.Pipeline(runner=make_runner(beam_options), options=beam_options)
    compare.build(pipeline, job)
    running = pipeline.run()
    if is_template(beam_options):
        return 0
    running.wait_until_finish()
    path = RunFiles(job.output).comparison
    comparison = json.loads(read(path))
    _print_ends({path: comparison_figures(comparison, job.output)})
    sweep_temporary(job.output)
    return 1 if comparison["why"] else 0


def _interrupted(number: int, _: FrameType | None) -> None:
    """Ends at once: every part is committed in one step, so there is nothing to tidy that a rerun would miss."""
    message = (
        f"\ninterrupted by {signal.Signals(number).name}: run the same command again to go on\n"
    )
    with suppress(OSError):  # the terminal may be gone
        os.write(
            2, message.encode()
        )  # not `print`: the signal may have come in the middle of another one
    os._exit(128 + number)


def _handle_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if (
            number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        ):  # which is what nohup asks for
            signal.signal(number, _interrupted)


def _open_closed_streams() -> None:
    """Opens the null device as each of the standard streams that is closed: the next file opened would take its place.

    What is written to the stream, such as the message of a signal, would go into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


@contextmanager
def _without_collections() -> Iterator[None]:
    """Imports and a model make a million objects, none of them garbage: to look through them is a fifth of the start-up.

    Nor does any later collection look at them: that would be half a second of a run, whenever it comes.
    """
    gc.disable()
    try:
        yield
    finally:
        _freeze()
        gc.enable()


@cache
def _freeze() -> None:
    """Once: what an earlier job of this process left may be garbage."""
    gc.freeze()


class _PrintableFormatter(logging.Formatter):
    """Messages hold names and texts of files: no control characters of theirs may reach the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    _open_closed_streams()
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _log.setLevel(logging.INFO)
    _handle_signals()
    return exit_code(run, sys.argv[1:] if arguments is None else arguments)


def exit_code(function: Callable[..., int], *arguments: Any) -> int:
    """The exit code of what runs one job or several; what they raise is printed."""
    try:
        return function(*arguments)
    except Refused as error:
        print(printable(f"refused: {error}"), file=sys.stderr)
        return 2
    except SystemExit:  # argparse has said what is wrong
        raise
    except BaseException as error:  # Rust's panics are no Exception; a crash must never look like a run that has finished
        _log.exception(
            "the run did not finish: %s; the same command goes on where it stopped",
            _in_short(error),
        )
        return 3


def _in_short(error: BaseException) -> str:
    """What failed, and why: the first and the last line of an error, between which a service puts a worker's traceback."""
    lines = [
        line
        for line in "".join(traceback.format_exception_only(error)).splitlines()
        if line.strip()
    ]
    return " ".join(dict.fromkeys([lines[0], lines[-1]]))


if __name__ == "__main__":
    sys.exit(main())
