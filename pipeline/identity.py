"""The identity of a run, `run.json`: what it was asked to do, on which inputs. One output, one identity."""

from __future__ import annotations

import json
from typing import Any

from pipeline.job import Job
from pipeline.options import Refused
from transforms.storage import create, join, list_names, read, remove, sweep_temporary
from transforms.write_manifest import MANIFEST

RUN = "run.json"

_OWN_FOLDERS = ("parts", "rejections", "_tmp")


def identity(job: Job) -> dict[str, Any]:
    """Configuration and inputs with their sizes and versions. Not device, threads or run length: they change nothing."""
    inputs = [{"path": file.path, "size": file.size, "version": file.version} for file in job.files]
    return {"configuration": job.configuration, "inputs": inputs}


def claim(job: Job, overwrite: bool) -> bool:
    """Makes the output this run's own. Returns whether it goes on with an earlier run of the same identity.

    Raises Refused, naming what differs, if the output belongs to another run and `overwrite` is not set.
    """
    wanted = identity(job)
    content = json.dumps(wanted, indent=2, ensure_ascii=False).encode()
    sweep_temporary(job.output)
    if not create(job.output, content, RUN):
        difference = _difference(json.loads(read(join(job.output, RUN))), json.loads(content))
        if not difference:
            remove(job.output, MANIFEST)
            return True
        if not overwrite:
            raise Refused(f"--output={job.output} holds another run: {difference}. --overwrite removes that run first")
        for name in (MANIFEST, *_OWN_FOLDERS, RUN):
            remove(job.output, name)
        if not create(job.output, content, RUN):
            raise Refused(f"--output={job.output}: another run has just been started there")
    elif list_names(join(job.output, "parts")):
        if not overwrite:
            remove(job.output, RUN)
            raise Refused(f"--output={job.output} holds parts of a run without {RUN}. --overwrite removes them first")
        for name in (MANIFEST, *_OWN_FOLDERS):
            remove(job.output, name)
    return False


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first thing in which two identities differ, in words; "" if they are the same."""
    configured, asked = before["configuration"], now["configuration"]
    for name in dict.fromkeys([*asked, *configured]):
        if configured.get(name) != asked.get(name):
            return f"{name} was {configured.get(name)!r}, is {asked.get(name)!r}"
    old = {entry["path"]: entry for entry in before["inputs"]}
    new = {entry["path"]: entry for entry in now["inputs"]}
    for path in sorted(old.keys() | new.keys()):
        if path not in new or path not in old:
            return f"input {path} was {'not ' if path not in old else ''}part of it"
        if old[path] != new[path]:
            return f"input {path} has changed since (size {old[path]['size']}, now {new[path]['size']})"
    return ""
