"""List the parts to search for duplicates: an audit's own, and another audit's."""

from __future__ import annotations

import json
from typing import Any

from pipeline.job.options import Refused
from transforms.chunk_step import closing_failure
from transforms.find_duplicates import AuditedPart
from transforms.merge_receipts import Totals
from transforms.records import Receipt
from transforms.run_files import RunFiles
from transforms.storage import exists, read


def audit_configuration(folder: str, option: str, own: bool = False) -> dict[str, Any]:
    """Return the configuration of the audit in a folder.

    option  the option that names the folder, for messages
    own     whether the audit is this run's, which may be unfinished

    Raises Refused for a folder without an audit, and for another's unfinished audit.
    """
    files = RunFiles(folder)
    try:
        # Another audit must be finished, or overlap would be missed silently.
        finished = exists(files.run) and (own or exists(files.manifest))
        configuration = json.loads(read(files.run))["configuration"] if finished else {}
    except (ValueError, KeyError, TypeError) as error:  # an unknown store, or an odd run.json
        raise Refused(f"--{option}={folder} is not the output of an audit: {error}") from error
    if configuration.get("stage") != "audit":
        # annotate --audit writes its audit into a folder of its output.
        inside = files.beside
        hint = ""
        if configuration and exists(RunFiles(inside).run):
            hint = f": give --{option}={inside}"
        raise Refused(f"--{option}={folder} is not the output of a finished audit{hint}")
    return configuration


def audited_parts(folder: str, own: bool) -> list[AuditedPart]:
    """Return the parts of an audit's output. Raises Refused as `audit_configuration` does."""
    configuration = audit_configuration(folder, "against", own)
    columns = configuration["id_column"], configuration["output_prefix"]
    files = RunFiles(folder)
    return [AuditedPart(files.part(name), own, *columns) for name in files.part_names()]


def list_parts(
    totals: dict[str, Totals], folder: str, against: str
) -> list[AuditedPart | Receipt | dict[str, Totals]]:
    """Return the totals, an audit's own parts, and those of the audit to search against, if any.

    If they can't be listed, a failed receipt is returned in their place.

    totals   passed through, so that the list is made only after all parts are written
    against  output of another audit, "" for none
    """
    try:
        others = audited_parts(against, own=False) if against else []
        return [totals, *audited_parts(folder, own=True), *others]
    except BaseException as error:
        return [totals, closing_failure("audit", "ListParts", folder, error)]
