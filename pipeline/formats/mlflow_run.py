"""Describe a finished run by a run of MLflow (https://mlflow.org/docs/latest/tracking.html)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException

from pipeline.formats.published_run import PublishedRun
from pipeline.job.options import Refused
from transforms.storage import exists, read

_KEY = "spanmill.key"
"""Tag by which a run is found again."""

_TAGS = ("state", "model", "content")
"""Entries of the manifest that become tags."""

_MEASURED = ("rows", "reasons", "windows", "tokens", "steps", "cost")
"""Entries of the manifest whose numbers become metrics."""

_LONGEST_PARAM = 6000
_AT_ONCE = 100
"""MLflow's limits: code points of a parameter, parameters of one request."""


def numbers_in(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested mappings, with names such as "rows/planned"."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from numbers_in(f"{name}/{key}", inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)


def metrics_of(run: PublishedRun) -> dict[str, float]:
    """Return the numbers of a run: of its manifest, and of an audit for all rows together."""
    metrics: dict[str, float] = {}
    for name in _MEASURED:
        metrics.update(numbers_in(name, run.manifest.get(name)))
    if exists(run.finished.files.audit):
        metrics.update(numbers_in("audit", json.loads(read(run.finished.files.audit))["all"]))
    return metrics


def publish_run(run: PublishedRun, name: str | None) -> str:
    """Log a run to MLflow's tracking server, the one that MLFLOW_TRACKING_URI names.

    name  of the experiment, which is created if there is none

    Does nothing if the experiment already has the run. Returns what was done. Raises Refused if the
    server refuses.
    """
    name = name or run.default_name
    try:
        client = MlflowClient()
        known = client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else client.create_experiment(name)
        # The same answers may end a run as incomplete, and a rerun with other limits as complete.
        same = f"tags.`{_KEY}` = '{run.key}' AND tags.state = '{run.manifest['state']}'"
        before = client.search_runs([experiment], same)
        if before:
            return f"experiment {name} has this run already: {before[0].info.run_id}"
        made = client.create_run(
            experiment,
            start_time=_milliseconds(run.started.timestamp()),
            run_name=run.finished.folder.rpartition("/")[2],
        )
        _fill(client, made, run)
    except MlflowException as error:
        raise Refused(f"--to=mlflow: {error}") from error
    return f"run {made.info.run_id} in the experiment {name}"


def _fill(client: MlflowClient, made: Run, run: PublishedRun) -> None:
    """Log the configuration, numbers, files and tags of a run; then end it."""
    run_id, ended = made.info.run_id, _milliseconds(run.ended.timestamp())
    configuration = run.finished.configuration.items()
    params = [Param(name, str(value)[:_LONGEST_PARAM]) for name, value in configuration]
    for start in range(0, len(params), _AT_ONCE):
        client.log_batch(run_id, params=params[start : start + _AT_ONCE])
    metrics = [Metric(name, value, ended, 0) for name, value in metrics_of(run).items()]
    for start in range(0, len(metrics), _AT_ONCE):
        client.log_batch(run_id, metrics=metrics[start : start + _AT_ONCE])
    files = run.finished.files
    for path in (files.run, files.manifest, files.audit, files.report):
        if exists(path):
            client.log_text(run_id, read(path).decode(), path.rpartition("/")[2])
    # The key goes last: a run without it is incomplete, and is logged anew.
    tags = [RunTag(name, str(run.manifest[name])) for name in _TAGS]
    tags += [RunTag("spanmill.output", run.finished.folder), RunTag(_KEY, run.key)]
    client.log_batch(run_id, tags=tags)
    status = RunStatus.FINISHED if run.complete else RunStatus.FAILED
    client.set_terminated(run_id, RunStatus.to_string(status), ended)


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
