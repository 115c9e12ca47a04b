"""Everything that differs between runners."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from pathlib import Path

import torch
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.runner import PipelineRunner, create_runner
from google.protobuf.struct_pb2 import Struct

from pipeline.job import patches

_IN_PROCESS = (None, "DirectRunner", "direct", "FnApiRunner")

_THREAD_POOLS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")
"""The environment variables that limit the threads of torch and of tokenizers."""

_THREADS_OF_GPU = 2

_EXTRAS = {
    "DaskRunner": ("dask", "apache_beam.runners.dask.dask_runner"),
    "DataflowRunner": ("dataflow", "apache_beam.runners.dataflow.internal.apiclient"),
}
"""Runners that need more packages: the extra to install, and Beam's module that imports them."""


def load_runner(runner: str | None) -> None:
    """Import what a runner needs, including its options.

    Raises ImportError, which names the extra to install.
    """
    if runner not in _EXTRAS:
        return
    extra, module = _EXTRAS[runner]
    try:
        import_module(module)
    except (ImportError, AttributeError) as error:
        # AttributeError: Beam's Dask module tries to do without Dask, and fails
        raise ImportError(
            f"it needs more packages: pip install 'spanmill[{extra}]' ({error})"
        ) from error


def make_runner(options: PipelineOptions) -> PipelineRunner:
    """Return the runner that the options name, and prepare this process for it.

    `DirectRunner` means the in-process runner, since Beam's own first tries a download.
    """
    name = options.view_as(StandardOptions).runner
    if name == "DaskRunner":
        # It ignores Reshuffle: work spreads over workers as the ranges of input files do.
        module = import_module(_EXTRAS[name][1])
        dask = options.view_as(module.DaskOptions)
        if not (dask.npartitions or dask.partition_size):
            dask.partition_size = 1
        return module.DaskRunner()  # Beam has no short name for it
    if name == "DataflowRunner":
        # It logs the job's id, which Airflow's operator reads there, and its messages.
        logging.getLogger("apache_beam.runners.dataflow").setLevel(logging.INFO)
    if name not in _IN_PROCESS:
        return create_runner(name)
    direct = options.view_as(DirectOptions)
    if has_processes(options):
        processes = direct.direct_num_workers or os.cpu_count() or 1
        threads = max(1, (os.cpu_count() or 1) // processes)
        # Workers inherit the environment: no more threads than cores in all of them together.
        for pool in _THREAD_POOLS:
            os.environ.setdefault(pool, str(threads))
        # They put the working folder first on their path, and with it any model.py in it.
        if Path.cwd() != Path(__file__).parents[2]:
            os.environ.setdefault("PYTHONSAFEPATH", "1")
        patches.end_with_workers()
    patches.end_bundles_at_once()
    return FnApiRunner(provision_info=_quiet_workers())


def feed_gpu(options: PipelineOptions, device: str) -> None:
    """Give the in-process runner two threads on a GPU: it computes a chunk while the next is read.

    Does nothing if the options choose a mode or workers. `device` is `--device`.
    """
    direct = options.view_as(DirectOptions)
    chosen = direct.direct_running_mode != "in_memory" or direct.direct_num_workers != 1
    if runs_locally(options) and not chosen and device != "cpu" and torch.cuda.is_available():
        direct.direct_running_mode, direct.direct_num_workers = "multi_threading", _THREADS_OF_GPU


def _quiet_workers() -> ExtendedProvisionInfo:
    """Make worker processes log warnings only; by default, each logs a page about its channels."""
    options = Struct()
    options["beam:option:default_sdk_harness_log_level:v1"] = "WARNING"
    return ExtendedProvisionInfo(
        beam_provision_api_pb2.ProvisionInfo(
            retrieval_token="unused-retrieval-token", pipeline_options=options
        )
    )


def runs_locally(options: PipelineOptions) -> bool:
    """Return whether the job runs on this machine, where its files and devices can be looked at."""
    return options.view_as(StandardOptions).runner in _IN_PROCESS


def has_processes(options: PipelineOptions) -> bool:
    """Return whether the in-process runner starts several processes that work in parallel."""
    return options.view_as(DirectOptions).direct_running_mode == "multi_processing"


def is_template(options: PipelineOptions) -> bool:
    """Return whether the job is only staged, to be launched later."""
    return options.view_as(GoogleCloudOptions).template_location is not None
