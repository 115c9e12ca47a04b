"""The parts in which an audit's duplicates are found: its own, and those of another audited data set."""

from __future__ import annotations

import json
from typing import Any

from pipeline.job.options import Refused
from transforms.find_duplicates import AuditedPart
from transforms.merge_receipts import Totals
from transforms.run_files import RunFiles
from transforms.storage import exists, read


def audit_configuration(folder: str, option: str, own: bool = False) -> dict[str, Any]:
    """The configuration of the audit in a folder. Raises Refused, naming the option, unless it holds an audit, and another's
    has finished."""
    files = RunFiles(folder)
    try:
        finished = exists(files.run) and (own or exists(files.manifest))
        configuration = json.loads(read(files.run))["configuration"] if finished else {}
    except (
        ValueError,
        KeyError,
        TypeError,
    ) as error:  # a path of no known store, or a run.json of something else
        raise Refused(f"--{option}={folder} is not the output of an audit: {error}") from error
    if configuration.get("stage") != "audit":
        inside = files.beside
        hint = (
            f": give --{option}={inside}" if configuration and exists(RunFiles(inside).run) else ""
        )
        raise Refused(f"--{option}={folder} is not the output of a finished audit{hint}")
    return configuration


def audited_parts(folder: str, own: bool) -> list[AuditedPart]:
    """The parts of an audit's output. Raises Refused unless the folder holds an audit that has finished."""
    configuration = audit_configuration(folder, "against", own)
    columns = configuration["id_column"], configuration["output_prefix"]
    files = RunFiles(folder)
    return [AuditedPart(files.part(name), own, *columns) for name in files.part_names()]


def list_parts(
    totals: dict[str, Totals], folder: str, against: str
) -> list[AuditedPart | dict[str, Totals]]:
    """Return the totals, and the parts of an audit that has written them, and of the one it is compared with, if any."""
    return [
        totals,
        *audited_parts(folder, own=True),
        *(audited_parts(against, own=False) if against else []),
    ]
