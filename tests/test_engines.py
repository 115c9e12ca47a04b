"""The same job on each engine with real worker processes has the same output and figures."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dask.distributed import Client

from tests.figures import same_figures
from tests.pipeline.audits import gold_examples, report
from tests.runs import (
    HOUSE,
    part_files,
    read_manifest,
    read_parts,
    read_rejections,
    run,
    write_input,
)
from tests.servers import free_port, listens, serving
from transforms.records import RECEIPT_KEY

FIGURES = (
    "rows",
    "content",
    "windows",
    "tokens",
    "chunks",
    "distinct_pairs",
    "reasons",
    "configuration",
    "state",
)
ROWS = 48


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write six files of two row groups, with all kinds of golds, some rows without question."""
    folder = tmp_path_factory.mktemp("source")
    table = gold_examples(ROWS)
    for place in range(6):
        write_input(folder / f"{place}.parquet", table.slice(8 * place, 8), row_group_size=4)
    return folder


Job = Callable[..., int]


@pytest.fixture(scope="module")
def job(source: Path, bert_folder: Path) -> Job:
    """Run `annotate --audit` into a folder with the options of an engine. Returns the exit code."""

    def run_job(output: Path, *options: str) -> int:
        arguments = (
            f"--input={source}",
            f"--output={output}",
            f"--model={bert_folder}",
            "--chunk_rows=2",
            "--audit",
        )
        # `auto` may choose another device elsewhere.
        return run("annotate", *arguments, "--dtype=float32", *options)

    return run_job


@pytest.fixture(scope="module")
def alone(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of the run in one process."""
    output = tmp_path_factory.mktemp("alone") / "out"
    assert job(output) == 0
    assert workers(output).keys() == {os.getpid()}
    return output


def workers(output: Path) -> dict[int, int]:
    """Return the number of parts by the process that wrote them, from the receipts."""
    found: dict[int, int] = {}
    for path in part_files(output):
        receipt: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[RECEIPT_KEY])
        process = int(receipt["worker"].rsplit(":", 1)[1])
        found[process] = found.get(process, 0) + 1
    return found


def assert_same(output: Path, alone: Path) -> None:
    for tree in (".", "audit"):
        manifest, wanted = read_manifest(output / tree), read_manifest(alone / tree)
        for figure in FIGURES:
            assert manifest[figure] == wanted[figure], figure
        parts, same = read_parts(output / tree), read_parts(alone / tree)
        exact = [
            f.name for f in parts.schema if not pa.types.is_floating(f.type) and f.name != "n_best"
        ]
        assert parts.select(exact).equals(same.select(exact))
        assert read_rejections(output / tree) == read_rejections(alone / tree)
    same_figures(report(output / "audit"), report(alone / "audit"))
    duplicates = [
        json.loads((each / "audit" / "duplicates.json").read_text("utf-8"))
        for each in (output, alone)
    ]
    assert duplicates[0] == duplicates[1]


@pytest.fixture(scope="module")
def processes() -> Iterator[list[str]]:
    yield ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.fixture(scope="module")
def portable() -> Iterator[list[str]]:
    """Run a job service and a pool of SDK workers as processes that talk over gRPC."""
    port = free_port()
    command = [sys.executable, str(HOUSE / "tests" / "job_service.py"), str(port)]
    with serving(command, lambda: listens(port)), _worker_pool() as options:
        yield [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{port}",
            "--direct_num_workers=2",
            *options,
        ]


@contextmanager
def _worker_pool() -> Iterator[list[str]]:
    """Start an SDK worker process whenever a runner requests one; yield the options for it."""
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it runs `python`
    command = [
        sys.executable,
        "-m",
        "apache_beam.runners.worker.worker_pool_main",
        f"--service_port={port}",
    ]
    with serving(command, lambda: listens(port), PATH=path):
        yield ["--environment_type=EXTERNAL", f"--environment_config=localhost:{port}"]


@pytest.fixture(scope="module")
def dask() -> Iterator[list[str]]:
    """Run a Dask scheduler and two workers as processes."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host=127.0.0.1",
        f"--port={port}",
    ]
    two = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        address,
        "--nworkers=2",
        "--nthreads=1",
    ]

    def both_are_there() -> bool:
        with Client(address) as client:
            return len(client.scheduler_info()["workers"]) == 2

    with (
        serving([*scheduler, "--no-dashboard"], lambda: listens(port)),
        serving([*two, "--no-dashboard"], both_are_there),
    ):
        yield ["--runner=DaskRunner", f"--dask_client_address={address}"]
        for client in list(Client._instances):  # Beam's runner leaves its client open
            client.close()


@pytest.fixture(scope="module")
def flink() -> Iterator[list[str]]:
    """Run Flink's local cluster with two slots in the job server, and a pool of SDK workers."""
    jar = os.environ.get("FLINK_JOB_SERVER_JAR")
    if not jar:
        pytest.skip(
            "FLINK_JOB_SERVER_JAR is not set: the path of "
            "beam-runners-flink-*-job-server.jar (deploy/flink)"
        )
    flink_options = ["--flink_master=[local]", f"--flink_job_server_jar={jar}", "--parallelism=2"]
    with _worker_pool() as options:
        yield ["--runner=FlinkRunner", *flink_options, "--sdk_worker_parallelism=2", *options]


@pytest.fixture(scope="module")
def prism() -> Iterator[list[str]]:
    """Run Prism and a pool of SDK workers."""
    binary = os.environ.get("PRISM_BINARY")
    if not binary:
        pytest.skip(
            "PRISM_BINARY is not set: the path of Beam's prism, built with Go or from "
            "Beam's releases"
        )
    with _worker_pool() as options:
        yield ["--runner=PrismRunner", f"--prism_location={binary}", *options]


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        ("processes", 2),
        ("portable", 2),
        ("dask", 2),
        pytest.param("flink", 2, marks=pytest.mark.flink),
        pytest.param("prism", 1, marks=pytest.mark.prism),  # starts one worker per environment
    ],
)
def test_workers_share_the_work_and_give_the_same(
    engine: str, number: int, job: Job, alone: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    assert job(tmp_path / "out", *request.getfixturevalue(engine)) == 0
    assert_same(tmp_path / "out", alone)
    by_worker = workers(tmp_path / "out")
    assert len(by_worker) == number
    assert os.getpid() not in by_worker
    assert min(by_worker.values()) >= len(part_files(alone)) / 6


@pytest.mark.parametrize("engine", ["portable", "dask"])
def test_a_job_that_fails_there_did_not_finish(
    engine: str,
    job: Job,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
):
    """No worker has such a device, and a launcher cannot know that."""
    assert job(tmp_path / "out", *request.getfixturevalue(engine), "--device=cuda:99") == 3
    told = [
        line for line in capfd.readouterr().err.splitlines() if "the run did not finish" in line
    ]
    assert re.search(r"device 'cuda:99': this machine has \d+ CUDA devices", told[0])
    assert not (tmp_path / "out" / "manifest.json").exists()
