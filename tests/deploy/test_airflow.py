"""The Airflow DAG: imported by Airflow and run for a day, where AIRFLOW_PYTHON names a Python that has Airflow."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.options import parse
from tests.runs import HOUSE, examples, read_manifest, read_parts, write_input

AIRFLOW_PYTHON = os.environ.get("AIRFLOW_PYTHON", "")

pytestmark = pytest.mark.skipif(not AIRFLOW_PYTHON, reason="AIRFLOW_PYTHON is not set: `make airflow` sets it")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one day's files."""
    folder = tmp_path_factory.mktemp("bucket")
    write_input(folder / "in" / "date=2026-11-23" / "a.parquet", examples(3))
    return folder


@pytest.fixture(scope="module")
def found(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Airflow says of the DAG, and of the run of 23 November."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(HOUSE / "deploy" / "airflow"),
        "SPANMILL_HOME": str(HOUSE),
        "SPANMILL_PYTHON": sys.executable,
        "SPANMILL_BUCKET": str(bucket),
        "PYTHONPATH": str(HOUSE),
    }
    migrate = [AIRFLOW_PYTHON, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env=environment, check=True, capture_output=True)
    command = [AIRFLOW_PYTHON, str(Path(__file__).with_name("airflow_dag.py")), str(HOUSE / "deploy" / "airflow"), "2026-11-23"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:] + done.stdout[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_it_is_imported(found: dict[str, Any]):
    assert found["errors"] == {}
    assert found["tasks"] == {"annotate": ["complete"], "complete": []}
    assert found["retries"] == 3


def test_its_options_are_real_ones(found: dict[str, Any]):
    _, _, _, *arguments = shlex.split(found["command"].replace("{{ ds }}", "2026-11-23"))
    options, rest = parse(arguments)
    assert (options.stage, str(options.date[0]), rest) == ("annotate", "2026-11-23", [])


def test_a_day_is_annotated_and_found_complete(found: dict[str, Any], bucket: Path):
    assert found["state"] == "success"
    assert [path.name for path in (bucket / "out").iterdir()] == ["date=2026-11-23"]
    output = bucket / "out" / "date=2026-11-23"
    assert read_manifest(output)["state"] == "complete"
    assert read_parts(output).column("id").to_pylist() == ["row 0", "row 1", "row 2"]
