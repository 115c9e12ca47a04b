"""Describe a finished run by OpenLineage events (https://openlineage.io/docs/spec/object-model).

A run is two events with one run id, START and COMPLETE (FAIL if it is incomplete). Its datasets are
folders: those of the input files, and the folder of the parts.
"""

from __future__ import annotations

import os
from collections import defaultdict
from importlib.metadata import version

import pyarrow as pa
from openlineage.client import OpenLineageClient, event_v2
from openlineage.client.facet_v2 import (
    RunFacet,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    processing_engine_run,
    schema_dataset,
    tags_run,
)
from openlineage.client.transport.console import ConsoleTransport
from openlineage.client.transport.noop import NoopTransport
from openlineage.client.uuid import generate_static_uuid

from pipeline.formats.published_run import PublishedRun
from pipeline.job.options import Refused
from transforms.run_files import RunFiles
from transforms.storage import join

_SUMMARY = ("state", "model", "content", "windows", "distinct_pairs")
"""Entries of the manifest that become tags of the run, in addition to the accounting of rows."""


def events_of(run: PublishedRun, namespace: str, name: str) -> list[event_v2.RunEvent]:
    """Return the events of a run; the same run always has the same run id.

    namespace, name  of the job
    """
    event_v2.set_producer(f"urn:spanmill:{version('spanmill')}")
    key = f"{run.finished.folder} {run.key}".encode()
    run_id = str(generate_static_uuid(run.started, key))
    facets = _run_facets(run)
    job = event_v2.Job(
        namespace,
        name,
        {"jobType": job_type_job.JobTypeJobFacet("BATCH", "SPANMILL", run.stage.upper())},
    )
    inputs, output = _inputs(run), _output(run)
    end = event_v2.RunState.COMPLETE if run.complete else event_v2.RunState.FAIL
    moments = ((event_v2.RunState.START, run.started), (end, run.ended))
    return [
        event_v2.RunEvent(
            eventType=kind,
            eventTime=moment.isoformat(),
            run=event_v2.Run(run_id, facets),
            job=job,
            inputs=inputs,
            outputs=[output],
        )
        for kind, moment in moments
    ]


def _run_facets(run: PublishedRun) -> dict[str, RunFacet]:
    """Return the engine, the accounting as tags, and why the run is incomplete."""
    manifest = run.manifest
    entries = {name: manifest[name] for name in _SUMMARY}
    entries |= {f"rows.{status}": count for status, count in manifest["rows"].items()}
    entries |= {f"reasons.{reason}": count for reason, count in manifest["reasons"].items()}
    tags = [tags_run.TagsRunFacetFields(key, str(value)) for key, value in entries.items()]
    beam = manifest["versions"]["apache-beam"]
    facets: dict[str, RunFacet] = {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(beam, "Apache Beam"),
        "tags": tags_run.TagsRunFacet(tags),
    }
    if not run.complete:
        why = "; ".join(manifest["why"])
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(why, "Python")
    return facets


def _inputs(run: PublishedRun) -> list[event_v2.InputDataset]:
    """Return the folders of the input files, with the number and the bytes of these files."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for entry in run.identity["inputs"]:
        sizes[entry["path"].rpartition("/")[0]].append(entry["size"])
    datasets = []
    for folder, of_folder in sorted(sizes.items()):
        statistics = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            size=sum(of_folder), fileCount=len(of_folder)
        )
        datasets.append(event_v2.InputDataset(*_named(folder), {"inputStatistics": statistics}))
    return datasets


def _output(run: PublishedRun) -> event_v2.OutputDataset:
    """Return the folder of the parts, with their number, their rows and their columns."""
    counted = run.manifest["rows"]
    # With a question list, the accounting counts the answers that a row has in place of rows.
    rows = (counted["planned"] - counted["in_failed_chunks"]) // run.manifest.get("questions", 1)
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=rows, fileCount=len(run.finished.parts)
    )
    fields = [_field(each) for each in run.finished.schema]
    return event_v2.OutputDataset(
        *_named(join(run.finished.folder, RunFiles.PARTS)),
        {"outputStatistics": statistics},
        facets={"schema": schema_dataset.SchemaDatasetFacet(fields)},
    )


def _field(field: pa.Field) -> schema_dataset.SchemaDatasetFacetFields:
    return schema_dataset.SchemaDatasetFacetFields(field.name, str(field.type))


def _named(path: str) -> tuple[str, str]:
    """Return the namespace and the name of a folder, by OpenLineage's rules for datasets."""
    if "://" not in path:
        return "file", path
    scheme, _, inside = path.partition("://")  # names in stores may contain `#` and `?`
    store, _, inner = inside.partition("/")
    return f"{scheme}://{store}", inner.strip("/")


def publish_events(run: PublishedRun, name: str | None) -> str:
    """Send the events of a run by the client that OpenLineage's own settings describe.

    The namespace of the job is that of OPENLINEAGE_NAMESPACE, or "default".

    Returns what was done. Raises Refused if the settings name no receiver, or it refuses an event.
    """
    name = name or run.default_name
    try:
        client = OpenLineageClient()
    except Exception as error:  # of settings that it can't use
        raise Refused(f"--to=openlineage: {type(error).__name__}: {error}") from error
    if isinstance(client.transport, NoopTransport):
        return "no events: OpenLineage is disabled by its own settings"
    if isinstance(client.transport, ConsoleTransport):
        raise Refused(
            "--to=openlineage: no receiver of events is configured: set OPENLINEAGE_URL, or a "
            "transport in openlineage.yml"
        )
    events = events_of(run, os.environ.get("OPENLINEAGE_NAMESPACE", "default"), name)
    try:
        for event in events:
            client.emit(event)
    except Exception as error:  # each transport raises errors of its own
        raise Refused(f"--to=openlineage: {type(error).__name__}: {error}") from error
    return f"{len(events)} events of the run {events[0].run.runId}: job {name}"
