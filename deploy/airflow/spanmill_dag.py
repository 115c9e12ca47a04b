"""Every night: annotate the day's files, then wait for the manifest that says `complete`.

Set for Airflow's workers: SPANMILL_HOME (where run_pipeline.py is), SPANMILL_PYTHON (the interpreter that has spanmill) and
SPANMILL_BUCKET (gs://..., s3://... or a folder). A day that failed, or whose files were not there yet, is tried again and
goes on where it stopped; a back-fill (`airflow backfill create`) runs each day with its own date.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, ObjectStoragePath, task

HOME = os.environ.get("SPANMILL_HOME", "/opt/spanmill")
PYTHON = os.environ.get("SPANMILL_PYTHON", f"{HOME}/.venv/bin/python")
BUCKET = os.environ.get("SPANMILL_BUCKET", "gs://my-bucket")
DAY = "{{ ds }}"

with DAG(
    dag_id="spanmill_nightly",
    schedule="30 2 * * *",
    start_date=datetime(2026, 11, 1),
    catchup=False,
    max_active_runs=2,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=10)},
):
    annotate = BashOperator(  # with more options, on Dataflow too: deploy/dataflow/README.md
        task_id="annotate",
        bash_command=f"exec {PYTHON} {HOME}/run_pipeline.py annotate --input='{BUCKET}/in/date={{date}}/*.parquet' "
        f"--output='{BUCKET}/out/date={{date}}' --date={DAY}",
    )

    @task
    def complete(folder: str) -> dict[str, Any]:
        """The rows of the day by what became of them. Fails unless the run is complete."""
        manifest = json.loads((ObjectStoragePath(folder) / "manifest.json").read_text())
        if manifest["state"] != "complete":
            raise ValueError(f"{folder}: {'; '.join(manifest['why'])}")
        return manifest["rows"]

    annotate >> complete(f"{BUCKET}/out/date={DAY}")
