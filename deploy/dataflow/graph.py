"""Write the Dataflow job of a command line without submitting it, offline and without credentials.

    python deploy/dataflow/graph.py FOLDER annotate --input ... --output ... \\
        --sdk_container_image ... [Dataflow's options]

job.json is the request to the Dataflow service (machines, disks, containers, autoscaling),
pipeline.pb is the graph. For several days, they are those of the first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, TestOptions

from pipeline.graph import build
from pipeline.job.dates import each_day
from pipeline.job.options import parse
from pipeline.job.resolve import resolve
from pipeline.job.runners import make_runner


def write_graph(folder: Path, arguments: Sequence[str]) -> None:
    """Write `job.json` and `pipeline.pb` of a job into a folder; claim and write nothing else.

    Raises Refused.
    """
    # Without a dry run, Beam looks up buckets; in a dry run, it makes no job. So the dry run ends
    # after the options are checked.
    options, rest = parse([*arguments, "--runner=DataflowRunner", "--no_auth", "--dry_run=True"])
    beam_options = PipelineOptions(rest)
    runner = make_runner(beam_options)
    pipeline = beam.Pipeline(runner=runner, options=beam_options)
    build(pipeline, resolve(each_day(options)[0], beam_options))
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.options.view_as(TestOptions).dry_run = False
    cloud = pipeline.options.view_as(GoogleCloudOptions)
    cloud.staging_location, cloud.template_location = str(folder), str(folder / "job.json")
    runner.run_pipeline(pipeline, pipeline.options)  # `pipeline.run` would check options again


if __name__ == "__main__":
    write_graph(Path(sys.argv[1]), sys.argv[2:])
