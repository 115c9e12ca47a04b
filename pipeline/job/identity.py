"""The identity of a run, `run.json`: what it was asked to do, on which inputs. One output, one identity.

Workers read the list of inputs from there, by ranges, so that the graph does not grow with it.
"""

from __future__ import annotations

import hashlib
import json
from itertools import accumulate, pairwise
from typing import Any, Protocol

from pipeline.job.options import Refused
from transforms.claim import Output
from transforms.records import InputFile, InputRange
from transforms.run_files import RunFiles
from transforms.storage import (
    commit,
    create,
    described,
    exists,
    join,
    read,
    remove,
    sweep_temporary,
)

_MOST_RANGES = 1000
"""Into how many ranges inputs are listed: enough for many workers to plan, few enough for any graph."""

_BETWEEN = b",\n"
"""What stands between two inputs in `run.json`."""


class Claimant(Protocol):
    """What claims an output: a job of annotate and audit, or a comparison."""

    @property
    def output(self) -> str: ...

    @property
    def outputs(self) -> tuple[tuple[str, str], ...]:
        """(stage, folder) of each folder that it writes."""
        ...

    @property
    def files(self) -> tuple[InputFile, ...]: ...

    def configuration_of(self, stage: str) -> dict[str, Any]: ...


def identity(job: Claimant, stage: str) -> dict[str, Any]:
    """Fingerprint, configuration, inputs with their sizes and versions.

    Not device, threads or run length: they change nothing.
    """
    told = {
        "configuration": job.configuration_of(stage),
        "inputs": [_entry(file) for file in job.files],
    }
    fingerprint = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return {"run": fingerprint, **told}


def _entry(file: InputFile) -> dict[str, Any]:
    rows = {} if file.rows is None else {"rows": file.rows}
    return {
        "path": file.path,
        "size": file.size,
        "version": file.version,
        "label": file.label,
        **rows,
    }


def _write(job: Claimant, stage: str) -> tuple[bytes, list[int]]:
    """The content of `run.json`, one line per input, and the bytes at which these lines begin (and where a next would)."""
    found = identity(job, stage)
    configuration = json.dumps(found["configuration"], indent=2, ensure_ascii=False)
    head = f'{{"run": "{found["run"]}",\n"configuration": {configuration},\n"inputs": [\n'.encode()
    lines = [json.dumps(entry, ensure_ascii=False).encode() for entry in found["inputs"]]
    begins = list(accumulate((len(line) + len(_BETWEEN) for line in lines), initial=len(head)))
    return head + _BETWEEN.join(lines) + b"\n]}\n", begins


def input_ranges(job: Claimant) -> list[InputRange]:
    """The inputs, as they stand in the `run.json` of the stage that is written last; valid once that is claimed."""
    stage, folder = job.outputs[-1]
    begins = _write(job, stage)[1]
    inputs = len(begins) - 1
    count = min(inputs, _MOST_RANGES)
    bounds = [place * inputs // count for place in range(count + 1)]
    path = join(folder, RunFiles.RUN)
    return [
        InputRange(path, first, begins[first], begins[after] - len(_BETWEEN))
        for first, after in pairwise(bounds)
    ]


def claimed_outputs(job: Claimant) -> tuple[Output, ...]:
    """Where the stages of a job write, in the order of writing, with what their claims are known by."""
    return tuple(
        Output(stage, folder, identity(job, stage)["run"]) for stage, folder in job.outputs
    )


def claim(job: Claimant, overwrite: bool) -> bool:
    """Makes the output this run's own. Returns whether it goes on with an earlier run of the same identity.

    Raises Refused, naming what differs, if the output belongs to another run and `overwrite` is not set; then nothing
    is touched, in neither folder of `annotate --audit`.
    """
    wanted = {folder: _write(job, stage)[0] for stage, folder in reversed(job.outputs)}
    try:
        if not overwrite:
            for folder, content in wanted.items():
                _refuse_another(folder, content)
        resumed = [_claim(folder, content, overwrite) for folder, content in wanted.items()]
    except OSError as error:
        raise Refused(f"--output={job.output} can't be written: {error}") from error
    return any(resumed)


def _claim(output: str, content: bytes, overwrite: bool) -> bool:
    sweep_temporary(output)
    if overwrite and _obstacle(output, content):
        for name in RunFiles.ALL:
            remove(output, name)
    created = create(output, content, RunFiles.RUN)
    if not created:
        _refuse_another(output, content)  # it may have been started a moment ago
        if (
            read(join(output, RunFiles.RUN)) != content
        ):  # the same in other bytes, and workers read ranges of bytes
            commit(output, content, RunFiles.RUN)
    remove(output, RunFiles.MANIFEST)
    return not created


def _refuse_another(output: str, content: bytes) -> None:
    obstacle = _obstacle(output, content)
    if obstacle:
        raise Refused(f"--output={output} holds {obstacle}. --overwrite removes that first")


def _obstacle(output: str, content: bytes) -> str:
    """What of another run an output holds, in words; "" if it may be this run's."""
    if exists(join(output, RunFiles.RUN)):
        difference = _difference(read(join(output, RunFiles.RUN)), content)
        return f"another run: {difference}" if difference else ""
    return f"parts of a run without {RunFiles.RUN}" if RunFiles(output).part_names() else ""


def _difference(before: bytes, now: bytes) -> str:
    """The first thing in which two identities differ, in words; "" if they are the same."""
    try:
        configured, old = _parse(before)
    except (ValueError, KeyError, TypeError):
        return f"its {RunFiles.RUN} is damaged"
    asked, new = _parse(now)
    for name in dict.fromkeys([*asked, *configured]):
        if configured.get(name) != asked.get(name):
            return f"{name} was {configured.get(name)!r}, is {asked.get(name)!r}"
    for path in sorted(old.keys() | new.keys()):
        if path not in new or path not in old:
            return f"input {path} was {'not ' if path not in old else ''}part of it"
        if old[path] != new[path]:
            was, now_is = (
                described(entry["size"], entry["version"]) for entry in (old[path], new[path])
            )
            return f"input {path} has changed since: it had {was}, it has {now_is}"
    return (
        ""
        if _fingerprint(before) == _fingerprint(now)
        else f"its {RunFiles.RUN} has another fingerprint"
    )


def _fingerprint(content: bytes) -> str | None:
    return json.loads(content).get("run")


def _parse(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of an identity, and its inputs by path."""
    found = json.loads(content)
    return dict(found["configuration"]), {entry["path"]: entry for entry in found["inputs"]}
