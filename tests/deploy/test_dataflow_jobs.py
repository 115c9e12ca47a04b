"""Jobs submitted to a fake of the Dataflow service, on a store, with and without a launcher."""

from __future__ import annotations

import json
import re
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.runs import ada, examples, read_manifest, run, wait_until, write_input
from tests.servers import free_port, listens, serving
from tests.started import start
from tests.stores import Store, gcs

IMAGE = "us-docker.pkg.dev/my-project/spanmill/spanmill:0.1.0"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with gcs() as running:
        yield running


@pytest.fixture(scope="module")
def service(store: Store) -> Iterator[str]:
    """Start the fake service, which records the jobs that it receives."""
    port = free_port()
    with serving(
        [sys.executable, "-m", "tests.dataflow_service", str(port)], lambda: listens(port)
    ):
        yield f"http://localhost:{port}"  # not 127.0.0.1: Beam uses plain HTTP only for this name


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the same pair twice, in two files."""
    folder = tmp_path_factory.mktemp("source")
    table = ada(examples(6))
    write_input(folder / "a.parquet", table)
    write_input(folder / "b.parquet", pa.concat_tables([ada(examples(3, 10)), table.slice(0, 1)]))
    return folder


@pytest.fixture(scope="module")
def alone(source: Path, bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of the same run in one process, on the local disk."""
    output = tmp_path_factory.mktemp("alone") / "out"
    assert (
        run(
            "annotate",
            "--audit",
            f"--input={source}",
            f"--output={output}",
            f"--model={bert_folder}",
            "--dtype=float32",  # what `auto` means for a job
        )
        == 0
    )
    return output


@pytest.fixture(scope="module")
def launched(
    store: Store,
    service: str,
    source: Path,
    bert_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[str]:
    """Return the arguments, apart from the output. One of the files has another format here."""
    mixed = tmp_path_factory.mktemp("mixed")
    shutil.copy(source / "a.parquet", mixed)
    rows = pq.read_table(source / "b.parquet").to_pylist()
    (mixed / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return [
        "annotate",
        "--audit",
        f"--input={store.put(mixed, 'in')}/*",
        f"--model={store.put(bert_folder, 'model')}",
        "--runner=DataflowRunner",
        "--project=my-project",
        "--region=us-central1",
        f"--temp_location={store.url}/tmp",
        f"--sdk_container_image={IMAGE}",
        "--sdk_location=container",
        f"--dataflow_endpoint={service}",
        "--no_auth",
    ]


def launch(arguments: list[str], log: Path) -> str:
    """Launch a job, and return the log of a launcher that ends with exit code 0."""
    process = start(arguments, log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    return log.read_text()


def assert_same(output: Path, alone: Path) -> None:
    for tree in (".", "audit"):
        manifest, wanted = read_manifest(output / tree), read_manifest(alone / tree)
        for figure in ("state", "rows", "content", "windows", "reasons"):
            assert manifest[figure] == wanted[figure], figure
    duplicates = [
        json.loads((each / "audit" / "duplicates.json").read_text("utf-8"))
        for each in (output, alone)
    ]
    assert duplicates[0] == duplicates[1]
    assert duplicates[0]["repeated_pairs"] == 1


def test_a_job_gives_the_same_and_its_id_is_told(
    launched: list[str], store: Store, alone: Path, tmp_path: Path
):
    said = launch([*launched, f"--output={store.url}/waited"], tmp_path / "log")
    assert re.search(r"Created job with id: \[2026-11-24_00_00_00-\d+\]", said)
    assert "10 rows" in said
    assert_same(store.get("waited", tmp_path / "out"), alone)


def test_a_template_makes_all_of_it_when_its_launcher_has_ended(
    launched: list[str], service: str, store: Store, alone: Path, tmp_path: Path
):
    template = f"{store.url}/templates/audit.json"
    launch(
        [*launched, f"--output={store.url}/staged", f"--template_location={template}"],
        tmp_path / "log",
    )
    assert not store.files.exists(f"{store.url}/staged/manifest.json")

    jobs = f"{service}/v1b3/projects/my-project/locations/us-central1/jobs"
    with urllib.request.urlopen(
        urllib.request.Request(jobs, store.files.cat_file(template))
    ) as answer:
        job = json.load(answer)

    def state() -> str:
        with urllib.request.urlopen(f"{jobs}/{job['id']}") as answer:
            return json.load(answer)["currentState"]

    wait_until(lambda: state() != "JOB_STATE_RUNNING")
    assert state() == "JOB_STATE_DONE"
    assert_same(store.get("staged", tmp_path / "out"), alone)


def test_a_job_that_fails_did_not_finish_and_the_next_one_goes_on(
    launched: list[str], store: Store, capfd: pytest.CaptureFixture[str]
):
    """No worker has such a device, which no launcher can know."""
    arguments = [
        *launched,
        f"--output={store.url}/failed",
        "--dtype=float32",
        "--batch_tokens=4096",
    ]
    assert run(*arguments, "--device=cuda:99") == 3
    printed, logged = capfd.readouterr()
    (told,) = [line for line in logged.splitlines() if "did not finish" in line]
    assert "Dataflow pipeline failed. State: FAILED" in told
    assert re.search(r"ValueError: device 'cuda:99': this machine has \d+ CUDA devices", told)
    assert "run the same command again to resume" in told
    assert re.search(r"Console URL: \S+/us-central1/2026-11-24_00_00_00-\d+", logged)
    assert "rows" not in printed
    assert not store.files.exists(f"{store.url}/failed/manifest.json")

    assert run(*arguments) == 0
    printed, logged = capfd.readouterr()
    assert f"resuming the run in {store.url}/failed" in logged
    assert "10 rows" in printed
