"""Extractive question answering over whole corpora.

`python run_pipeline.py annotate --input ... --output ...`
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from types import FrameType
from typing import Any

# These names are common. A package of the same name elsewhere would be run instead, or would fail
# with an error that says nothing about the cause.
for _name in ("model", "transforms", "pipeline"):
    _spec = find_spec(_name)
    _get_source = getattr(_spec.loader, "get_source", None) if _spec else None
    _source = _get_source(_name) if _get_source else None
    if 'DISTRIBUTION = "spanmill"' not in (_source or ""):
        _origin = _spec.origin if _spec and _spec.origin else "missing"
        _hint = "docs/installing.md says what to do"
        print(
            f"refused: the package {_name!r} is not Spanmill's, but {_origin}; {_hint}",
            file=sys.stderr,
        )
        raise SystemExit(2)

# Beam logs warnings about optional packages while it is imported.
logging.getLogger().addHandler(logging.NullHandler())

try:
    from pipeline.job.patches import without_collections

    with without_collections():
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        from model.command import say
        from pipeline import compare
        from pipeline.graph import build
        from pipeline.job import duplicates
        from pipeline.job.copies import remove_unpublished
        from pipeline.job.dates import each_day
        from pipeline.job.identity import claim, claimed_outputs, refuse_removed
        from pipeline.job.options import Refused, parse
        from pipeline.job.resolve import resolve
        from pipeline.job.runners import feed_gpu, is_template, make_runner, runs_locally
        from pipeline.looks.progress import progress
        from pipeline.looks.summary import (
            accounting,
            audit_figures,
            comparison_figures,
            duplicate_figures,
        )
        from pipeline.looks.terminal import printable
        from transforms.claim import Output
        from transforms.run_files import RunFiles
        from transforms.storage import absolute, read, sweep_temporary
except Exception as _error:  # Python would exit with 1, the code of a run that has finished
    traceback.print_exc()
    print(
        f"refused: this installation is broken: {type(_error).__name__}: {_error}", file=sys.stderr
    )
    raise SystemExit(2) from _error

_log = logging.getLogger("spanmill")


def run(arguments: Sequence[str]) -> int:
    """Run the job, or the jobs of several days one after another.

    Returns the exit code, of several jobs the highest. Raises Refused if no job can be started.
    """
    options, rest = parse(arguments)
    if options.stage == "compare":
        return _compare(options, PipelineOptions(rest))
    jobs = each_day(options)
    if len(jobs) == 1:
        return run_job(jobs[0], PipelineOptions(rest))
    if is_template(PipelineOptions(rest)):
        raise Refused(
            "--date: several days are several jobs, but --template_location takes one job"
        )
    code = 0
    for job in jobs:
        _log.info("day %s", job.date[0])
        code = max(code, exit_code(run_job, job, PipelineOptions(rest)))
        if code == 3:
            break  # the cause (disk, store, device) would end the next day too
    return code


def run_job(options: argparse.Namespace, beam_options: PipelineOptions) -> int:
    """Run one job.

    Returns the exit code. Raises Refused before any row is read, and any other exception if the run
    does not finish.
    """
    # Check everything that can be checked before anything is written.
    feed_gpu(beam_options, options.device)
    with without_collections(exempt=True):
        job = resolve(options, beam_options)
    if options.against:
        duplicates.audited_parts(options.against, own=False)
        refuse_removed("against", absolute(options.against), job.output)
    # From here on the output belongs to this run.
    resumed = claim(job, options.overwrite)
    if resumed:
        _log.info("resuming the run in %s", job.output)
    job = replace(job, inputs=job.inputs.published(job.output, options.overwrite))
    pipeline = beam.Pipeline(runner=make_runner(beam_options), options=beam_options)
    build(pipeline, job)
    if is_template(beam_options):
        pipeline.run()
        return 0
    if runs_locally(beam_options):
        with progress(job):
            pipeline.run().wait_until_finish()
    else:
        pipeline.run().wait_until_finish()
    # The manifests say what the run has done; workers may have run on other machines.
    outputs = claimed_outputs(job)
    manifests = [json.loads(read(output.files.manifest)) for output in outputs]
    try:
        _print_summaries(
            {
                output.files.manifest: _summary(output, manifest)
                for output, manifest in zip(outputs, manifests, strict=True)
            }
        )
        for output in outputs:
            sweep_temporary(output.folder)
    except Exception as error:  # the run has finished, and its manifests say so
        _log.warning("after the end of the run: %s: %s", type(error).__name__, error)
    return 0 if all(manifest["state"] == "complete" for manifest in manifests) else 1


def _summary(output: Output, manifest: dict[str, Any]) -> str:
    """Return what a stage of a run has done."""
    files = output.files
    lines = [f"{output.stage}: {accounting(manifest, files.folder)}"]
    if output.stage == "audit":
        # A step that failed may have left the files of an earlier try.
        failed = {failure["step"] for failure in manifest["failures"]}
        if "WriteAudit" not in failed:
            lines.append(audit_figures(json.loads(read(files.audit))))
            lines.append(f"report: {printable(files.report)}")
        if not failed & {"ListParts", "FindDuplicates"}:
            lines.append(duplicate_figures(json.loads(read(files.duplicates))))
    return "\n".join(lines)


def _print_summaries(summaries: dict[str, str]) -> None:
    """Print the summary of each file. Only warns if standard output fails: the run has finished."""
    error = say("\n".join(summaries.values()))
    if error:
        _log.warning(
            "the summary of the run can't be printed on standard output (%s): read %s",
            error.strerror or error,
            " and ".join(summaries),
        )


def _compare(options: argparse.Namespace, beam_options: PipelineOptions) -> int:
    """Compare two audits. Returns 0 if the second keeps the limits, else 1."""
    job = compare.resolve(options)
    claim(job, options.overwrite)
    pipeline = beam.Pipeline(runner=make_runner(beam_options), options=beam_options)
    compare.build(pipeline, job)
    result = pipeline.run()
    if is_template(beam_options):
        return 0
    result.wait_until_finish()
    path = RunFiles(job.output).comparison
    comparison = json.loads(read(path))
    _print_summaries({path: comparison_figures(comparison, job.output)})
    sweep_temporary(job.output)
    return 1 if comparison["why"] else 0


def _interrupted(number: int, _: FrameType | None) -> None:
    """End the process at once. Every part is committed in one step: nothing else is unfinished."""
    name = signal.Signals(number).name
    message = f"\ninterrupted by {name}: run the same command again to resume\n"
    with suppress(OSError):  # the terminal may be closed
        os.write(2, message.encode())  # not `print`, which the signal may have interrupted
    remove_unpublished()
    os._exit(128 + number)


def _handle_signals() -> None:
    """Install `_interrupted`, but keep ignoring SIGHUP where `nohup` asks for it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupted)


def _open_closed_streams() -> None:
    """Open the null device as each standard stream that is closed.

    Otherwise the next file that is opened would get the stream's number, and whatever is written to
    the stream, such as the message of a signal, would go into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


class _PrintableFormatter(logging.Formatter):
    """Escapes control characters in messages: names and texts of files may contain them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    _open_closed_streams()
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _log.setLevel(logging.INFO)
    _handle_signals()
    return exit_code(run, sys.argv[1:] if arguments is None else arguments)


def exit_code(function: Callable[..., int], *arguments: Any) -> int:
    """Call a function that runs jobs, and print what it raises. Returns the exit code."""
    try:
        return function(*arguments)
    except Refused as error:
        print(printable(f"refused: {error}"), file=sys.stderr)
        return 2
    except SystemExit:  # argparse has printed what is wrong
        raise
    # Rust's panics are not Exceptions, and a crash must never look like a finished run.
    except BaseException as error:
        _log.exception(
            "the run did not finish: %s; run the same command again to resume",
            _in_short(error),
        )
        return 3


def _in_short(error: BaseException) -> str:
    """Return the first and the last line of an error, which say what failed and why.

    Services put a worker's traceback in between.
    """
    text = "".join(traceback.format_exception_only(error))
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(dict.fromkeys([lines[0], lines[-1]]))


if __name__ == "__main__":
    sys.exit(main())
