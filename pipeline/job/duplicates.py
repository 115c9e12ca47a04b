"""The parts in which an audit's duplicates are found: its own, and those of another audited data set."""

from __future__ import annotations

import json
from typing import Any

from pipeline.job.options import Refused
from transforms.claim import RUN
from transforms.find_duplicates import AuditedPart
from transforms.storage import exists, join, list_names, read
from transforms.write_manifest import MANIFEST


def audit_configuration(folder: str, option: str, own: bool = False) -> dict[str, Any]:
    """The configuration of the audit in a folder. Raises Refused, naming the option, unless it holds an audit, and another's
    has finished."""
    try:
        finished = exists(join(folder, RUN)) and (own or exists(join(folder, MANIFEST)))
        configuration = json.loads(read(join(folder, RUN)))["configuration"] if finished else {}
    except (ValueError, KeyError, TypeError) as error:  # a path of no known store, or a run.json of something else
        raise Refused(f"--{option}={folder} is not the output of an audit: {error}") from error
    if configuration.get("stage") != "audit":
        inside = join(folder, "audit")
        hint = f": give --{option}={inside}" if configuration and exists(join(inside, RUN)) else ""
        raise Refused(f"--{option}={folder} is not the output of a finished audit{hint}")
    return configuration


def audited_parts(folder: str, own: bool) -> list[AuditedPart]:
    """The parts of an audit's output. Raises Refused unless the folder holds an audit that has finished."""
    configuration = audit_configuration(folder, "against", own)
    columns = configuration["id_column"], configuration["output_prefix"]
    parts = join(folder, "parts")
    return [AuditedPart(join(parts, name), own, *columns) for name in list_names(parts)]


def list_parts(_: str, folder: str, against: str) -> list[AuditedPart | None]:
    """The parts of an audit that has written its own, and of the one it is compared with, if any.

    In front stands the sentinel, so that zero rows are counted too.
    """
    return [None, *audited_parts(folder, own=True), *(audited_parts(against, own=False) if against else [])]
