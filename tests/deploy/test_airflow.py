"""The Airflow DAG, imported by Airflow and run for a day.

Needs AIRFLOW_PYTHON, a Python that has Airflow.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.job.options import parse
from tests.runs import HOUSE, examples, read_manifest, read_parts, write_input

AIRFLOW_PYTHON = os.environ.get("AIRFLOW_PYTHON", "")
DAY = "2026-11-23"
DAGS = HOUSE / "deploy" / "airflow"

pytestmark = pytest.mark.skipif(
    not AIRFLOW_PYTHON, reason="AIRFLOW_PYTHON is not set: `make airflow` sets it"
)

Airflow = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """Return `airflow(*arguments, **environment)`, which runs tests/deploy/airflow_dag.py."""
    settings = {
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "SPANMILL_HOME": str(HOUSE),
    }
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | settings
    subprocess.run(
        [AIRFLOW_PYTHON, "-m", "airflow", "db", "migrate"], env=own, check=True, capture_output=True
    )

    def ask(*arguments: str, **environment: str) -> dict[str, Any]:
        command = [
            AIRFLOW_PYTHON,
            str(Path(__file__).with_name("airflow_dag.py")),
            str(DAGS),
            DAY,
            *arguments,
        ]
        done = subprocess.run(command, env=own | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-5000:] + done.stdout[-5000:]
        return json.loads(done.stdout.splitlines()[-1])

    return ask


class TestADay:
    @pytest.fixture(scope="class")
    def bucket(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Make a folder with the files of one day."""
        folder = tmp_path_factory.mktemp("bucket")
        write_input(folder / "in" / f"date={DAY}" / "a.parquet", examples(3))
        return folder

    @pytest.fixture(scope="class")
    def found(self, airflow: Airflow, bucket: Path) -> dict[str, Any]:
        return airflow("run", SPANMILL_PYTHON=sys.executable, SPANMILL_BUCKET=str(bucket))

    def test_the_dag_is_imported(self, found: dict[str, Any]):
        assert found["import_errors"] == {}
        assert found["tasks"] == {
            "annotate": ["BeamRunPythonPipelineOperator", "complete"],
            "complete": ["DecoratedSensorOperator"],
        }
        assert found["retries"] == {"annotate": 3, "complete": 3}

    def test_it_is_annotated_and_found_complete(self, found: dict[str, Any], bucket: Path):
        assert found["run"] == {"annotate": "success", "complete": "success"}
        assert [path.name for path in (bucket / "out").iterdir()] == [f"date={DAY}"]
        output = bucket / "out" / f"date={DAY}"
        assert read_manifest(output)["state"] == "complete"
        assert read_parts(output).column("id").to_pylist() == ["row 0", "row 1", "row 2"]


class TestOnDataflow:
    @pytest.fixture(scope="class")
    def recorded(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return the file in which the interpreter given to Airflow records its command line."""
        return tmp_path_factory.mktemp("recorded") / "arguments"

    @pytest.fixture(scope="class")
    def found(self, airflow: Airflow, recorded: Path) -> dict[str, Any]:
        """Execute the operator up to the launch, which ends with exit code 3."""
        interpreter = recorded.with_name("python")
        interpreter.write_text(
            f'#!/bin/sh\nif [ "$1" = -c ]; then exec {sys.executable} "$@"; fi\n'
            f'printf "%s\\n" "$@" > {recorded}\nexit 3\n'
        )
        interpreter.chmod(0o755)
        return airflow(
            "execute",
            "2026-11-23 02:31:00,000 INFO Created job with id: [2026-11-23_02_31_00-1]",
            AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT="google-cloud-platform://",
            SPANMILL_PYTHON=str(interpreter),
            SPANMILL_RUNNER="DataflowRunner",
            SPANMILL_BUCKET="gs://my-bucket",
            SPANMILL_PROJECT="my-project",
            SPANMILL_REGION="europe-west1",
            SPANMILL_IMAGE="europe-docker.pkg.dev/my-project/spanmill/spanmill:0.1.0",
        )

    def test_the_exit_code_is_the_tasks(self, found: dict[str, Any]):
        assert found["execute"]["error"] == "Apache Beam process failed with return code 3"

    def test_the_id_of_the_job_is_found_in_what_the_launcher_prints(self, found: dict[str, Any]):
        """`test_dataflow_jobs.py` tests that the launcher prints this line."""
        assert found["execute"]["job_ids"] == ["2026-11-23_02_31_00-1"]

    def test_the_command_is_one_that_we_take(
        self, found: dict[str, Any], recorded: Path, tmp_path: Path
    ):
        program, *arguments = recorded.read_text("utf-8").splitlines()
        assert program == str(HOUSE / "run_pipeline.py")
        options, rest = parse(arguments)
        assert (options.stage, str(options.date[0])) == ("annotate", DAY)
        assert options.input == "gs://my-bucket/in/date={date}/*.parquet"
        assert "--runner=DataflowRunner" in rest

        # The same job on local files.
        write_input(tmp_path / f"date={DAY}" / "a.parquet", examples(3))
        arguments += [
            f"--input={tmp_path}/date={{date}}/*.parquet",
            f"--output={tmp_path}/out/date={{date}}",
        ]
        runpy.run_path(str(HOUSE / "deploy" / "dataflow" / "graph.py"))["write_graph"](
            tmp_path / "job", arguments
        )
        job = json.loads((tmp_path / "job" / "job.json").read_text("utf-8"))
        assert job["name"].startswith("spanmill-20261123-")
        assert list(job["labels"]) == ["airflow-version"]
        assert job["environment"]["workerPools"][0]["machineType"] == "n2-standard-8"


def test_the_sensor_waits_for_a_manifest_and_fails_for_good_on_an_incomplete_one(
    airflow: Airflow, tmp_path: Path
):
    for name, content in (
        ("complete", {"state": "complete", "why": [], "rows": {"planned": 3}}),
        ("incomplete", {"state": "incomplete", "why": ["2 chunks failed", "1 files were refused"]}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(content))
    folders = [str(tmp_path / name) for name in ("missing", "complete", "incomplete")]
    said = airflow("poke", *folders)["poke"]
    assert said == [
        [False, None],
        [True, {"planned": 3}],
        f"{folders[2]}: 2 chunks failed; 1 files were refused",
    ]
