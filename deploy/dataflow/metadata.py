"""Write metadata.json, the Flex Template's parameters, from the declared settings.

python deploy/dataflow/metadata.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    WorkerOptions,
    _BeamArgumentParser,
)

from model.settings import declared
from pipeline.job.options import make_parser
from pipeline.job.settings import ALL, GROUPS

METADATA = Path(__file__).with_name("metadata.json")

_BEAMS = (
    "sdk_container_image",
    "number_of_worker_harness_threads",
    "disk_size_gb",
    "dataflow_service_options",
)
"""Options of Beam that a launch passes as parameters, which may be refused without metadata."""


def metadata() -> dict[str, Any]:
    """Return the content of metadata.json: all options of Spanmill and some of Beam's."""
    # Beam's groups define the options, so that their types come from Beam too.
    beams = _BeamArgumentParser(allow_abbrev=False, add_help=False)
    for group in (DebugOptions, GoogleCloudOptions, WorkerOptions):
        group._add_argparse_args(beams)
    actions = [action for action in make_parser()._actions if action.dest != "help"]
    actions += [action for action in beams._actions if action.dest in _BEAMS]
    return {
        "name": "Spanmill",
        "description": "Extractive question answering over whole corpora, Parquet to Parquet",
        "streaming": False,
        "parameters": [_parameter(action) for action in actions],
    }


def _parameter(action: argparse.Action) -> dict[str, Any]:
    others = {
        "stage": f"one of {', '.join(ALL)}",
        **dict.fromkeys(_BEAMS, "Apache Beam's option of this name"),
    }
    return {
        "name": action.dest,
        "label": f"--{action.dest}",
        "helpText": others.get(action.dest, str(action.help)),
        "isOptional": not (action.required or action.dest == "stage"),
        "regexes": [f"^({_pattern(action)})$"],
        "paramType": "TEXT",
    }


def _pattern(action: argparse.Action) -> str:
    """Return the regular expression that every valid value of an option matches."""
    if action.dest == "stage":
        return "|".join(ALL)
    kinds = {
        name: declaration.kind
        for group in GROUPS.values()
        for name, _, declaration in declared(group)
    }
    return kinds[action.dest].pattern if action.dest in kinds else _pattern_of_beams(action)


def _pattern_of_beams(action: argparse.Action) -> str:
    return "[0-9]+" if action.type is int else ".*"


if __name__ == "__main__":
    METADATA.write_text(json.dumps(metadata(), indent=2, ensure_ascii=False) + "\n", "utf-8")
