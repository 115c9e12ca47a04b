"""Runners: the default is the in-process one under any of its names; others are Beam's."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.prism_runner import PrismRunner

from pipeline.job.options import Refused, parse
from pipeline.job.runners import feed_gpu, has_processes, is_template, make_runner, runs_locally


@pytest.mark.parametrize(
    "arguments", [[], ["--runner=DirectRunner"], ["--runner=direct"], ["--runner=FnApiRunner"]]
)
def test_the_direct_runner_is_the_in_process_one(arguments: list[str]):
    """Beam's own DirectRunner tries to download another runner first, without a time-out."""
    options = PipelineOptions(arguments)
    assert type(make_runner(options)) is FnApiRunner
    assert runs_locally(options)


def test_other_runners_are_beams():
    options = PipelineOptions(["--runner=PrismRunner"])
    assert isinstance(make_runner(options), PrismRunner)
    assert not runs_locally(options)


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


def test_only_one_mode_has_processes():
    assert has_processes(PipelineOptions(["--direct_running_mode=multi_processing"]))
    assert not has_processes(PipelineOptions(["--direct_running_mode=multi_threading"]))
    assert not has_processes(PipelineOptions([]))


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


def test_a_template_is_told_by_its_option():
    assert is_template(PipelineOptions(["--template_location=gs://bucket/template"]))
    assert not is_template(PipelineOptions([]))
