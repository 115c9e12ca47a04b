"""Writes metadata.json, the Flex Template's parameters, from the real options: python deploy/dataflow/metadata.py"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, WorkerOptions, _BeamArgumentParser

from pipeline.job.options import STAGES, make_parser

METADATA = Path(__file__).with_name("metadata.json")

_NUMBER = r"-?[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?"
_PATTERNS = {  # by what an option takes and the ones below it in this list do not
    "true": "true|false",
    "cuda:1": r"auto|cpu|cuda(:[0-9]+)?",
    "2026-11-01..2026-11-02": r"[0-9]{4}-[0-9]{2}-[0-9]{2}(\.\.[0-9]{4}-[0-9]{2}-[0-9]{2})?",
    "0.5": _NUMBER,
    "20": "[0-9]+",
}

_BEAMS = ("sdk_container_image", "number_of_worker_harness_threads", "disk_size_gb", "dataflow_service_options")
"""Beam's options that a launch gives as parameters: one that the metadata does not name may be refused."""


def metadata() -> dict[str, Any]:
    """The content of metadata.json: every option of ours, and some of Beam's, with regular expressions for their values."""
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
    others = {"stage": "annotate or audit", **dict.fromkeys(_BEAMS, "Apache Beam's option of this name")}
    return {
        "name": action.dest,
        "label": f"--{action.dest}",
        "helpText": others.get(action.dest, str(action.help)),
        "isOptional": not (action.required or action.dest == "stage"),
        "regexes": [f"^({_pattern(action)})$"],
        "paramType": "TEXT",
    }


def _pattern(action: argparse.Action) -> str:
    if action.dest == "stage":
        return "|".join(STAGES)
    if action.choices:
        return "|".join(map(str, action.choices))
    if action.type is None:
        return ".*"
    return next(pattern for example, pattern in _PATTERNS.items() if takes(action, example))


def takes(action: argparse.Action, text: str) -> bool:
    """Whether an option takes a value."""
    try:
        action.type(text)
    except (argparse.ArgumentTypeError, ValueError):
        return False
    return True


if __name__ == "__main__":
    METADATA.write_text(json.dumps(metadata(), indent=2, ensure_ascii=False) + "\n", "utf-8")
