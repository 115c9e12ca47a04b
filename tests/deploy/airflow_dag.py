"""Run by Airflow's own Python: what the folder of DAGs holds, and a day of it. Prints JSON.

python airflow_dag.py FOLDER_OF_DAGS YYYY-MM-DD [LINE]

With a line that a launcher prints, the day's `annotate` alone is executed, and its error and the job id in the line are told;
without, the whole DAG is run.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.providers.google.cloud.hooks.dataflow import process_line_and_extract_dataflow_job_id_callback


def run(dag: Any, day: datetime) -> dict[str, Any]:
    return {each.task_id: each.state for each in dag.test(logical_date=day).get_task_instances()}


def execute(annotate: Any, day: datetime, line: str) -> dict[str, Any]:
    ids: list[str] = []
    process_line_and_extract_dataflow_job_id_callback(ids.append)(line)
    annotate.render_template_fields({"ds": f"{day:%Y-%m-%d}", "ds_nodash": f"{day:%Y%m%d}"})
    try:
        annotate.execute({})
    except Exception as error:
        return {"error": str(error), "job_ids": ids}
    return {"error": "", "job_ids": ids}


if __name__ == "__main__":
    bag = DagBag(sys.argv[1])
    dag = bag.dags["spanmill_nightly"]
    day = datetime.fromisoformat(sys.argv[2]).replace(tzinfo=UTC)
    about = {
        "import_errors": bag.import_errors,
        "tasks": {each.task_id: [each.task_type, *sorted(each.downstream_task_ids)] for each in dag.tasks},
        "retries": {each.task_id: each.retries for each in dag.tasks},
    }
    done = execute(dag.get_task("annotate"), day, sys.argv[3]) if sys.argv[3:] else {"states": run(dag, day)}
    print("\n" + json.dumps({**about, **done}))
