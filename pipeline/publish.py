"""Publish a finished run: describe it to a catalog, or upload it to the Hugging Face hub.

    OPENLINEAGE_URL=http://localhost:5000 python -m pipeline.publish out/ --to openlineage
    MLFLOW_TRACKING_URI=sqlite:///runs.db python -m pipeline.publish out/audit/ --to mlflow
    python -m pipeline.publish out/ --to hub --name USER/NAME

OUT is an output of annotate or audit that has its manifest. OpenLineage gets a START event and a
COMPLETE or FAIL event with the datasets, their schema and the accounting. MLflow gets a run with
the configuration as parameters, all figures as metrics, and run.json, manifest.json, audit.json and
report.html as artifacts. The hub gets the files of a complete run as one commit of a data set. The
clients' own settings say where to: OPENLINEAGE_URL or openlineage.yml, MLFLOW_TRACKING_URI,
HF_TOKEN. Nothing is changed in OUT.

Idempotent: the events of a run always have the same run id, a run that MLflow has is not logged
again, and a commit replaces the files of the one before.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

logging.getLogger().addHandler(logging.NullHandler())  # Beam warns of optional packages on import

from pipeline.formats.published_run import PublishedRun, published_run
from pipeline.job.options import Refused
from pipeline.looks.result import print_result
from transforms.storage import absolute

_CATALOGS = {
    "openlineage": ("pipeline.formats.lineage_events", "publish_events"),
    "mlflow": ("pipeline.formats.mlflow_run", "publish_run"),
    "hub": ("pipeline.formats.hub_commit", "publish_commit"),
}
"""Module and function by catalog; the first two need the extra of their name."""


def publisher(catalog: str) -> Callable[[PublishedRun, str | None], str]:
    """Return the function that publishes to a catalog. Raises Refused without its packages."""
    module, name = _CATALOGS[catalog]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise Refused(
            f"--to={catalog} needs the package {error.name}: pip install 'spanmill[{catalog}]'"
        ) from error


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("output", metavar="OUT", help="output of annotate or audit, a folder or URL")
    add("--to", choices=tuple(_CATALOGS), required=True, help="where to")
    add(
        "--name",
        metavar="NAME",
        help="name of OpenLineage's job or MLflow's experiment (default: spanmill-annotate or "
        "spanmill-audit), or of the hub's data set, USER/NAME",
    )
    return parser


def publish(options: argparse.Namespace) -> str:
    """Publish a run. Return what was done. Raises Refused."""
    publish_to = publisher(options.to)
    run = published_run(absolute(options.output))
    return publish_to(run, options.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code: 0, 2 if it was refused, 3 if it can't print."""
    options = make_parser().parse_args(arguments)
    return print_result(lambda: publish(options))


if __name__ == "__main__":
    sys.exit(main())
