"""Run the DAG in Airflow's own Python, and print JSON about it.

python airflow_dag.py DAGS YYYY-MM-DD run              the whole DAG, for that day
python airflow_dag.py DAGS YYYY-MM-DD execute LINE     only `annotate`; its error, the id in LINE
python airflow_dag.py DAGS YYYY-MM-DD poke FOLDER...   what the sensor returns for folders
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.providers.google.cloud.hooks.dataflow import (
    process_line_and_extract_dataflow_job_id_callback,
)
from airflow.sdk.exceptions import AirflowFailException


def run(dag: Any, day: datetime) -> dict[str, Any]:
    return {each.task_id: each.state for each in dag.test(logical_date=day).get_task_instances()}


def execute(dag: Any, day: datetime, line: str) -> dict[str, Any]:
    ids: list[str] = []
    process_line_and_extract_dataflow_job_id_callback(ids.append)(line)
    annotate = dag.get_task("annotate")
    annotate.render_template_fields({"ds": f"{day:%Y-%m-%d}", "ds_nodash": f"{day:%Y%m%d}"})
    try:
        annotate.execute({})
    except Exception as error:
        return {"error": str(error), "job_ids": ids}
    return {"error": "", "job_ids": ids}


def poke(dag: Any, _: datetime, *folders: str) -> list[Any]:
    found: list[Any] = []
    for folder in folders:
        try:
            said = dag.get_task("complete").python_callable(folder)
            found.append([said.is_done, said.xcom_value])
        except AirflowFailException as error:
            found.append(str(error))
    return found


if __name__ == "__main__":
    bag = DagBag(sys.argv[1])
    dag = bag.dags["spanmill_nightly"]
    day = datetime.fromisoformat(sys.argv[2]).replace(tzinfo=UTC)
    about = {
        "import_errors": bag.import_errors,
        "tasks": {
            each.task_id: [each.task_type, *sorted(each.downstream_task_ids)] for each in dag.tasks
        },
        "retries": {each.task_id: each.retries for each in dag.tasks},
    }
    done = {"run": run, "execute": execute, "poke": poke}[sys.argv[3]](dag, day, *sys.argv[4:])
    print("\n" + json.dumps({**about, sys.argv[3]: done}))
