"""Runners: the default is the in-process one under any of its names; others are Beam's."""

from __future__ import annotations

import logging
import os
import sys
import threading
from functools import partial
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import torch
from apache_beam.coders.typecoders import registry
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, TypeOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.counters import CounterFactory

from pipeline.job.options import Refused, parse
from pipeline.job.runners import feed_gpu, is_local, is_template, make_runner
from tests.started import start_function
from tests.transforms.test_records import RECEIPT
from transforms.records import Receipt


@pytest.mark.parametrize(
    "arguments", [[], ["--runner=DirectRunner"], ["--runner=direct"], ["--runner=FnApiRunner"]]
)
def test_the_direct_runner_is_the_in_process_one(arguments: list[str]):
    """Beam's own DirectRunner tries to download another runner first, without a time-out."""
    options = PipelineOptions(arguments)
    assert type(make_runner(options)) is FnApiRunner
    assert is_local(options)


def test_in_process_beam_takes_no_time_for_what_nobody_needs():
    """Beam would wait for a sleeping sampler at the end of bundles, and check undeclared types."""
    options = PipelineOptions([])
    make_runner(options)
    assert not options.view_as(TypeOptions).pipeline_type_check
    assert StateSampler("of a bundle", CounterFactory()).sampling_period_ms == 5


class _Unpicklable:
    def __reduce__(self) -> str:
        raise AssertionError("it was encoded")


def test_in_process_what_goes_from_step_to_step_is_not_encoded_for_its_size():
    """Beam would encode whole chunks, the first of every bundle."""
    options = PipelineOptions([])
    with beam.Pipeline(runner=make_runner(options), options=options) as pipeline:
        assert_that(
            pipeline
            | beam.Create([1, 2])
            | "Make" >> beam.Map(lambda _: _Unpicklable())
            | "Use" >> beam.Map(lambda _: "used"),
            equal_to(["used", "used"]),
        )


def test_what_crosses_a_shuffle_in_process_is_as_it_was():
    options = PipelineOptions([])
    values = [{"a": [1.5, None, b"\0", "ä"]}, (2**70, frozenset({1})), np.float32(1.5), RECEIPT]
    with beam.Pipeline(runner=make_runner(options), options=options) as pipeline:
        grouped = (
            pipeline
            | beam.Create([None])
            | beam.FlatMap(lambda _: list(enumerate(values)))
            | beam.GroupByKey()
        )
        assert_that(
            grouped | beam.MapTuple(lambda k, found: (k, list(found))),
            equal_to([(k, [v]) for k, v in enumerate(values)]),
        )


def test_other_runners_are_told_sizes():
    for arguments, coder in (
        ([], "_Unmeasured"),
        (["--runner=PrismRunner"], "FastPrimitivesCoder"),
        ([], "_Unmeasured"),
    ):
        make_runner(PipelineOptions(arguments))
        assert type(registry.get_coder(Receipt)).__name__ == coder


def test_other_runners_are_beams():
    options = PipelineOptions(["--runner=PrismRunner"])
    assert isinstance(make_runner(options), PrismRunner)
    assert not is_local(options)


@pytest.mark.parametrize(
    ("arguments", "device", "wanted"),
    [
        ([], "auto", ("multi_threading", 2)),
        (["--runner=DirectRunner"], "cuda:1", ("multi_threading", 2)),
        ([], "cpu", ("in_memory", 1)),
        (["--direct_num_workers=3"], "auto", ("in_memory", 3)),
        (["--direct_running_mode=multi_processing"], "auto", ("multi_processing", 1)),
        (["--runner=FlinkRunner"], "cuda", ("in_memory", 1)),
    ],
)
def test_a_gpu_has_two_threads_of_the_in_process_runner_unless_chosen(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], device: str, wanted: tuple[str, int]
):
    """Only the devices of this machine are faked."""
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        options = PipelineOptions(arguments)
        before = (
            options.view_as(DirectOptions).direct_running_mode,
            options.view_as(DirectOptions).direct_num_workers,
        )
        feed_gpu(options, device)
        found = (
            options.view_as(DirectOptions).direct_running_mode,
            options.view_as(DirectOptions).direct_num_workers,
        )
        assert found == (wanted if there else before)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], (None, 1)),
        (["--dask_partition_size=64"], (None, 64)),
        (["--dask_npartitions=3"], (3, None)),
    ],
)
def test_to_dask_a_range_of_files_is_a_partition_unless_told_otherwise(
    arguments: list[str], wanted: tuple[int | None, ...]
):
    _, rest = parse(["annotate", "--input=a", "--output=b", "--runner=DaskRunner", *arguments])
    options = PipelineOptions(rest)
    assert type(make_runner(options)).__name__ == "DaskRunner"
    found = options.get_all_options()
    assert (found["npartitions"], found["partition_size"]) == wanted


def test_a_runner_without_its_packages_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "apache_beam.runners.dask.dask_runner", None)
    with pytest.raises(
        Refused,
        match=r"--runner=DaskRunner: it needs more packages: pip install 'spanmill\[dask\]'",
    ):
        parse(["annotate", "--input=a", "--output=b", "--runner=DaskRunner"])


def test_an_unknown_runner_is_an_error():
    with pytest.raises((ValueError, ImportError), match="NoSuchRunner"):
        make_runner(PipelineOptions(["--runner=NoSuchRunner"]))


POOLS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")


@pytest.mark.parametrize(("processes", "share"), [(1, 8), (2, 4), (3, 2), (8, 1), (16, 1), (0, 1)])
def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch, processes: int, share: int):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for pool in POOLS:
        monkeypatch.setenv(pool, "")
        monkeypatch.delenv(pool)
    make_runner(
        PipelineOptions(
            ["--direct_running_mode=multi_processing", f"--direct_num_workers={processes}"]
        )
    )
    assert [os.environ[pool] for pool in POOLS] == [str(share)] * 2


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch):
    for pool in POOLS:
        monkeypatch.setenv(pool, "3")
    make_runner(
        PipelineOptions(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
    )
    assert [os.environ[pool] for pool in POOLS] == ["3", "3"]


def test_one_process_leaves_threads_alone(monkeypatch: pytest.MonkeyPatch):
    for pool in POOLS:
        monkeypatch.setenv(pool, "")
        monkeypatch.delenv(pool)
    make_runner(PipelineOptions([]))
    assert not set(POOLS) & set(os.environ)


def die_in_a_thread(name: str) -> int:
    """Raise in a thread, as the runner's thread does when its worker has died."""

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
    """The runner itself may wait for it forever. Runs in a separate process, which ends."""
    process = start_function(partial(die_in_a_thread, name), tmp_path / "log")
    process.join()
    said = (tmp_path / "log").read_text()
    assert process.exitcode == code, said
    assert "return code 137" in said
    assert ("a worker process died; the same command goes on" in said) == (code == 3)


def test_a_template_is_told_by_its_option():
    assert is_template(PipelineOptions(["--template_location=gs://bucket/template"]))
    assert not is_template(PipelineOptions([]))
