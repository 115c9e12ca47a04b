"""Run by Airflow's own Python: what the folder of DAGs holds, and one day of the DAG run for real. Prints JSON.

python airflow_dag.py FOLDER_OF_DAGS YYYY-MM-DD
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from airflow.dag_processing.dagbag import DagBag

if __name__ == "__main__":
    bag = DagBag(sys.argv[1])
    dag = bag.dags["spanmill_nightly"]
    run = dag.test(logical_date=datetime.fromisoformat(sys.argv[2]).replace(tzinfo=UTC))
    found = {
        "errors": bag.import_errors,
        "tasks": {each.task_id: sorted(each.downstream_task_ids) for each in dag.tasks},
        "command": dag.get_task("annotate").bash_command,
        "retries": dag.get_task("annotate").retries,
        "state": str(run.state.value),
    }
    print("\n" + json.dumps(found))
