"""The identity of a run, `run.json`: what it was asked to do, on which inputs. One output, one identity."""

from __future__ import annotations

import json
from typing import Any

from pipeline.job import Job
from pipeline.options import Refused
from transforms.find_duplicates import DUPLICATES
from transforms.storage import create, join, list_names, read, remove, sweep_temporary
from transforms.write_manifest import AUDIT, MANIFEST

RUN = "run.json"

_OWN = (MANIFEST, AUDIT, DUPLICATES, "parts", "rejections", "_tmp", "audit")
"""What a run may leave in its output, beside run.json; `audit` is the tree of `annotate --audit`."""


def identity(job: Job, stage: str) -> dict[str, Any]:
    """Configuration and inputs with their sizes and versions. Not device, threads or run length: they change nothing."""
    inputs = [{"path": file.path, "size": file.size, "version": file.version} for file in job.files]
    return {"configuration": job.configuration_of(stage), "inputs": inputs}


def claim(job: Job, overwrite: bool) -> bool:
    """Makes the output this run's own. Returns whether it goes on with an earlier run of the same identity.

    Raises Refused, naming what differs, if the output belongs to another run and `overwrite` is not set.
    """
    resumed = [_claim(folder, identity(job, stage), overwrite) for stage, folder in reversed(job.outputs)]
    return any(resumed)


def _claim(output: str, wanted: dict[str, Any], overwrite: bool) -> bool:
    content = json.dumps(wanted, indent=2, ensure_ascii=False).encode()
    try:
        sweep_temporary(output)
        created = create(output, content, RUN)
    except OSError as error:
        raise Refused(f"--output={output} can't be written: {error}") from error
    if not created:
        difference = _difference(read(join(output, RUN)), content)
        if not difference:
            remove(output, MANIFEST)
            return True
        if not overwrite:
            raise Refused(f"--output={output} holds another run: {difference}. --overwrite removes that run first")
        for name in (*_OWN, RUN):
            remove(output, name)
        if not create(output, content, RUN):
            raise Refused(f"--output={output}: another run has just been started there")
    elif list_names(join(output, "parts")):
        if not overwrite:
            remove(output, RUN)
            raise Refused(f"--output={output} holds parts of a run without {RUN}. --overwrite removes them first")
        for name in _OWN:
            remove(output, name)
    return False


def _difference(before: bytes, now: bytes) -> str:
    """The first thing in which two identities differ, in words; "" if they are the same."""
    try:
        configured, old = _parse(before)
    except (ValueError, KeyError, TypeError):
        return f"its {RUN} is damaged"
    asked, new = _parse(now)
    for name in dict.fromkeys([*asked, *configured]):
        if configured.get(name) != asked.get(name):
            return f"{name} was {configured.get(name)!r}, is {asked.get(name)!r}"
    for path in sorted(old.keys() | new.keys()):
        if path not in new or path not in old:
            return f"input {path} was {'not ' if path not in old else ''}part of it"
        if old[path] != new[path]:
            return f"input {path} has changed since (size {old[path]['size']}, now {new[path]['size']})"
    return ""


def _parse(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of an identity, and its inputs by path."""
    found = json.loads(content)
    return dict(found["configuration"]), {entry["path"]: entry for entry in found["inputs"]}
