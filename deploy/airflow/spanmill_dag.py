"""Annotate each day's files every night on Beam, then wait for a manifest with state `complete`.

Environment variables of Airflow's workers:

    SPANMILL_HOME     folder of run_pipeline.py
    SPANMILL_PYTHON   interpreter in whose environment spanmill is installed
    SPANMILL_BUCKET   gs://..., s3://... or a folder
    SPANMILL_RUNNER   DataflowRunner, or unset to run the job where the task runs
    SPANMILL_PROJECT, SPANMILL_REGION, SPANMILL_IMAGE   for Dataflow

Airflow needs the providers apache-beam and google for any runner. A day that failed, or whose files
did not exist yet, is retried and resumes where it stopped. A back-fill (`airflow backfill create`)
runs each day with its own date.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta

from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator
from airflow.sdk import DAG, ObjectStoragePath, PokeReturnValue, task
from airflow.sdk.exceptions import AirflowFailException

HOME = os.environ.get("SPANMILL_HOME", "/opt/spanmill")
PYTHON = os.environ.get("SPANMILL_PYTHON", f"{HOME}/.venv/bin/python")
BUCKET = os.environ.get("SPANMILL_BUCKET", "gs://my-bucket")
RUNNER = os.environ.get("SPANMILL_RUNNER", "DirectRunner")
DAY = "{{ ds }}"

WORKERS = {}
if RUNNER == "DataflowRunner":  # with CPUs; deploy/dataflow/README.md has the options for GPUs
    WORKERS = {
        "temp_location": f"{BUCKET}/tmp",
        "sdk_container_image": os.environ["SPANMILL_IMAGE"],
        "sdk_location": "container",
        "experiments": ["no_use_multiple_sdk_containers"],
        "machine_type": "n2-standard-8",
        "number_of_worker_harness_threads": 2,
        "disk_size_gb": 50,
        "max_num_workers": 50,
    }

with DAG(
    dag_id="spanmill_nightly",
    schedule="30 2 * * *",
    start_date=datetime(2026, 11, 1),
    catchup=False,
    max_active_runs=2,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=10)},
):
    annotate = BeamRunPythonPipelineOperator(
        task_id="annotate",
        runner=RUNNER,
        py_file=f"{HOME}/run_pipeline.py",
        py_interpreter=PYTHON,
        default_pipeline_options=WORKERS,
        pipeline_options={
            "stage": "annotate",
            "input": f"{BUCKET}/in/date={{date}}/*.parquet",
            "output": f"{BUCKET}/out/date={{date}}",
            "date": DAY,
        },
        dataflow_config={
            "job_name": "spanmill-{{ ds_nodash }}",
            "project_id": os.environ.get("SPANMILL_PROJECT"),
            "location": os.environ.get("SPANMILL_REGION", "us-central1"),
        },
    )

    @task.sensor(mode="reschedule", poke_interval=60, timeout=3600)
    def complete(folder: str) -> PokeReturnValue:
        """Wait for the manifest of a run, and return its counts of rows.

        Raises AirflowFailException, which is not retried, if the run is incomplete.
        """
        path = ObjectStoragePath(folder) / "manifest.json"
        if not path.exists():
            return PokeReturnValue(is_done=False)
        manifest = json.loads(path.read_text())
        if manifest["state"] != "complete":
            raise AirflowFailException(f"{folder}: {'; '.join(manifest['why'])}")
        return PokeReturnValue(is_done=True, xcom_value=manifest["rows"])

    annotate >> complete(f"{BUCKET}/out/date={DAY}")
