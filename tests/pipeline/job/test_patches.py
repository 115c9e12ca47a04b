"""Patches of Beam and of the process: they do what they say, and results are as without them."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.utils.counters import CounterFactory

from pipeline.job.runners import make_runner
from tests.runs import environment
from tests.started import start_function


def test_the_end_of_a_bundle_does_not_wait_for_a_sleeping_sampler():
    make_runner(PipelineOptions([]))
    assert StateSampler("of a bundle", CounterFactory()).sampling_period_ms == 5


def test_what_loads_is_not_collected_and_then_exempt():
    """In a process of its own, whose objects stay exempt."""
    code = (
        "import gc; from pipeline.job.patches import without_collections\n"
        "with without_collections(exempt=True): print(gc.isenabled())\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 1_000)\n"
        "gc.unfreeze()\n"
        "with without_collections(exempt=True): pass\n"
        "print(gc.get_freeze_count())"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment(), text=True)
    assert printed.split() == ["False", "True", "True", "0"]


def die_in_a_thread(name: str) -> int:
    """A thread that raises, as the runner's does when the worker that it watches over has died."""

    def fail() -> None:
        raise RuntimeError("Worker subprocess exited with return code 137")

    logging.basicConfig(force=True)
    make_runner(
        PipelineOptions(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
    )
    thread = threading.Thread(target=fail, name=name)
    thread.start()
    thread.join()
    return 0


@pytest.mark.parametrize(("name", "code"), [("run_worker", 3), ("another thread", 0)])
def test_a_worker_that_dies_ends_the_run(name: str, code: int, tmp_path: Path):
    """The runner itself may wait for it forever. (In a process of its own, since it ends.)"""
    process = start_function(partial(die_in_a_thread, name), tmp_path / "log")
    process.join()
    said = (tmp_path / "log").read_text()
    assert process.exitcode == code, said
    assert "return code 137" in said
    assert ("a worker process died; the same command resumes it" in said) == (code == 3)
