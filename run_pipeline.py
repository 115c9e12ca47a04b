"""Extractive question answering over whole corpora: `python run_pipeline.py annotate --input ... --output ...`."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import FrameType

for _name in ("model", "transforms", "pipeline"):  # common names: another's would be run, or fail in odd ways
    _spec = find_spec(_name)
    _get_source = getattr(_spec.loader, "get_source", None) if _spec else None
    _source = _get_source(_name) if _get_source else None
    if 'DISTRIBUTION = "spanmill"' not in (_source or ""):
        _found = _spec.origin if _spec and _spec.origin else "missing"
        _hint = "docs/installing.md says what to do"
        print(f"refused: the package {_name!r} is not Spanmill's, but {_found}; {_hint}", file=sys.stderr)
        raise SystemExit(2)

logging.getLogger().addHandler(logging.NullHandler())  # Beam warns of optional packages while it is imported

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import duplicates
from pipeline.graph import build
from pipeline.identity import claim
from pipeline.job import resolve
from pipeline.options import Refused, parse
from pipeline.progress import progress
from pipeline.report import accounting, audit_figures, duplicate_figures
from pipeline.runners import is_local, is_template, make_runner
from transforms.find_duplicates import DUPLICATES
from transforms.storage import join, read, remove, sweep_temporary
from transforms.write_manifest import AUDIT, MANIFEST

_log = logging.getLogger("spanmill")


def run(arguments: Sequence[str]) -> int:
    """Runs one job. Returns its exit code; raises Refused before any row, anything else for a run that did not finish."""
    options, rest = parse(arguments)
    beam_options = PipelineOptions(rest)
    job = resolve(options, beam_options)
    if options.against:
        duplicates.audited_parts(options.against, own=False)  # refused now rather than after the run
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
    complete = True
    for stage, folder in job.outputs:
        manifest = json.loads(read(join(folder, MANIFEST)))
        print(f"{stage}: {accounting(manifest, folder)}")
        if stage == "audit":
            print(audit_figures(json.loads(read(join(folder, AUDIT)))))
            _find_duplicates(folder, options.against, beam_options)
        sweep_temporary(folder)
        complete = complete and manifest["state"] == "complete"
    return 0 if complete else 1


def _find_duplicates(folder: str, against: str, beam_options: PipelineOptions) -> None:
    """The audit's second graph. If it does not finish, the audit is not complete: its manifest goes."""
    try:
        pipeline = beam.Pipeline(runner=make_runner(beam_options), options=beam_options)
        duplicates.build(pipeline, folder, against)
        pipeline.run().wait_until_finish()
    except Exception:
        remove(folder, MANIFEST)
        raise
    print(duplicate_figures(json.loads(read(join(folder, DUPLICATES)))))


def _interrupted(number: int, _: FrameType | None) -> None:
    """Ends at once: every part is committed in one step, so there is nothing to tidy that a rerun would miss."""
    message = f"\ninterrupted by {signal.Signals(number).name}: run the same command again to go on\n"
    os.write(2, message.encode())  # not `print`: the signal may have come in the middle of another one
    os._exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", force=True)
    _log.setLevel(logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except Exception:
        _log.exception("the run did not finish; the same command goes on where it stopped")
        return 3


if __name__ == "__main__":
    sys.exit(main())
