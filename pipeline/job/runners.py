"""What differs between runners: one place."""

from __future__ import annotations

import logging
import os
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from apache_beam.coders.coder_impl import FastPrimitivesCoderImpl
from apache_beam.coders.coders import FastPrimitivesCoder
from apache_beam.coders.typecoders import registry
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    TypeOptions,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.runner import PipelineRunner, create_runner
from apache_beam.runners.worker.statesampler import DEFAULT_SAMPLING_PERIOD_MS, StateSampler
from google.protobuf.struct_pb2 import Struct

_log = logging.getLogger("spanmill")

_IN_PROCESS = (None, "DirectRunner", "direct", "FnApiRunner")

_SAMPLING_MILLISECONDS = 5
"""How often Beam looks at which step of this process is at work."""

_THREAD_POOLS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")
"""Which variables bound the threads of torch and of tokenizers."""

_THREADS_OF_GPU = 2

_EXTRAS = {
    "DaskRunner": ("dask", "apache_beam.runners.dask.dask_runner"),
    "DataflowRunner": ("dataflow", "apache_beam.runners.dataflow.internal.apiclient"),
}
"""Runners that need an extra of ours: its name, and Beam's module that stands on it."""


def load(runner: str | None) -> None:
    """Imports what a runner needs, its own options among it. Raises ImportError, naming the extra to install."""
    if runner not in _EXTRAS:
        return
    extra, module = _EXTRAS[runner]
    try:
        import_module(module)
    except (
        ImportError,
        AttributeError,
    ) as error:  # Beam's Dask module wants to be without Dask, and is not
        raise ImportError(
            f"it needs more packages: pip install 'spanmill[{extra}]' ({error})"
        ) from error


def make_runner(options: PipelineOptions) -> PipelineRunner:
    """The runner of these options. `DirectRunner` means the in-process one: Beam's own first tries a download."""
    name = options.view_as(StandardOptions).runner
    _Unmeasured.wanted = name in _IN_PROCESS
    if (
        name == "DaskRunner"
    ):  # which passes over a Reshuffle: work spreads as the ranges of input files do
        module = import_module(_EXTRAS[name][1])
        dask = options.view_as(module.DaskOptions)
        if not (dask.npartitions or dask.partition_size):
            dask.partition_size = 1
        return module.DaskRunner()  # Beam knows it by no short name
    if (
        name == "DataflowRunner"
    ):  # tells the job's id and its messages; Airflow's operator reads the id there
        logging.getLogger("apache_beam.runners.dataflow").setLevel(logging.INFO)
    if name not in _IN_PROCESS:
        return create_runner(name)
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode == "multi_processing":
        processes = direct.direct_num_workers or os.cpu_count() or 1
        threads = max(1, (os.cpu_count() or 1) // processes)
        for pool in _THREAD_POOLS:  # inherited by the workers: no more threads than cores
            os.environ.setdefault(pool, str(threads))
        if (
            Path.cwd() != Path(__file__).parents[2]
        ):  # they put the working folder first, and with it any model.py in it
            os.environ.setdefault("PYTHONSAFEPATH", "1")
        _end_with_workers()
    _end_bundles_at_once()
    options.view_as(TypeOptions).pipeline_type_check = False  # there is none of ours to check
    return FnApiRunner(provision_info=_quiet_workers())


def feed_gpu(options: PipelineOptions, device: str) -> None:
    """Two threads for the in-process runner where a GPU computes: it is at one chunk while the next is read and cut.

    Only where neither mode nor workers were chosen. `device` is `--device`.
    """
    direct = options.view_as(DirectOptions)
    chosen = direct.direct_running_mode != "in_memory" or direct.direct_num_workers != 1
    if is_local(options) and not chosen and device != "cpu" and torch.cuda.is_available():
        direct.direct_running_mode, direct.direct_num_workers = "multi_threading", _THREADS_OF_GPU


def _end_bundles_at_once() -> None:
    """The thread that samples steps sleeps for up to 200 ms by default, and the end of every bundle waits until it wakes.

    In this process: workers that are processes of their own keep Beam's period, as all do whose Beam sets it otherwise.
    """
    if StateSampler.__init__.__defaults__ == (DEFAULT_SAMPLING_PERIOD_MS,):
        StateSampler.__init__.__defaults__ = (_SAMPLING_MILLISECONDS,)


class _UnmeasuredImpl(FastPrimitivesCoderImpl):
    def get_estimated_size_and_observables(
        self, value: Any, nested: bool = False
    ) -> tuple[int, list[Any]]:
        return 0, []


class _Unmeasured(FastPrimitivesCoder):
    """Beam's coder for what has no coder of its own, but every size is 0.

    Beam encodes a share of what goes from step to step, the first of each among it, to tell services how large it is. In
    process nobody asks, and elements are chunks: an audit would pickle some megabytes ten times over.
    """

    wanted = False
    """By the job of this process that was made last."""

    @classmethod
    def from_type_hint(cls, typehint: Any, registry: Any) -> _Unmeasured:
        if not cls.wanted:
            raise ValueError("sizes are asked for")  # Beam goes on to its own coder
        return cls()

    def _create_impl(self) -> _UnmeasuredImpl:
        return _UnmeasuredImpl(self._fallback_coder.get_impl())


registry.register_fallback_coder(_Unmeasured)


def _end_with_workers() -> None:
    """Lets this process end, with exit code 3, when a worker process dies: Beam's runner may wait for its work for ever.

    The thread in which the runner watches over a worker raises then, and nobody else listens.
    """
    others = threading.excepthook

    def end_or_tell(raised: threading.ExceptHookArgs) -> None:
        if raised.thread is None or raised.thread.name != "run_worker":
            others(raised)
            return
        _log.error(
            "the run did not finish, a worker process died; the same command goes on: %s",
            raised.exc_value,
        )
        os._exit(3)

    threading.excepthook = end_or_tell


def _quiet_workers() -> ExtendedProvisionInfo:
    """Tells worker processes to log warnings only: by default each writes a page on its channels into the terminal."""
    options = Struct()
    options["beam:option:default_sdk_harness_log_level:v1"] = "WARNING"
    return ExtendedProvisionInfo(
        beam_provision_api_pb2.ProvisionInfo(
            retrieval_token="unused-retrieval-token", pipeline_options=options
        )
    )


def is_local(options: PipelineOptions) -> bool:
    """Whether the run happens on this machine, so that footers can be read and parts counted beside it."""
    return options.view_as(StandardOptions).runner in _IN_PROCESS


def is_template(options: PipelineOptions) -> bool:
    """Whether the job is only staged, to be launched later."""
    return options.view_as(GoogleCloudOptions).template_location is not None
