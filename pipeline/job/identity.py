"""The identity of a run, `run.json`: its configuration and its inputs. An output has one identity.

Workers read ranges of the list of inputs from run.json, so that the graph does not grow with it.
"""

from __future__ import annotations

import hashlib
import json
from itertools import accumulate, pairwise
from pathlib import PurePosixPath
from typing import Any, Protocol

from pipeline.job.options import Refused
from transforms.claim import Output
from transforms.records import InputFile, InputRange
from transforms.relabel import is_filled_in
from transforms.run_files import RunFiles
from transforms.storage import (
    absolute,
    commit,
    create,
    described,
    exists,
    is_on_hub,
    join,
    read,
    real_path,
    remove,
    sweep_temporary,
)

_MOST_RANGES = 1000
"""Most ranges of inputs: enough for many workers to plan, few enough for any graph."""

_SEPARATOR = b",\n"
"""Separates two inputs in `run.json`."""


class Claimant(Protocol):
    """A job that claims an output: of annotate and audit, or a comparison."""

    @property
    def output(self) -> str:
        """The folder that --output names."""
        ...

    @property
    def outputs(self) -> tuple[tuple[str, str], ...]:
        """(stage, folder) of each folder that the job writes, in the order of writing."""
        ...

    @property
    def files(self) -> tuple[InputFile, ...]:
        """The input files."""
        ...

    def configuration_of(self, stage: str) -> dict[str, Any]:
        """Return the configuration of a stage: all on which its answers or boundaries depend."""
        ...


def output_folder(path: str) -> str:
    """Return the absolute path or URL of a job's output.

    Raises Refused for a repository of the Hugging Face hub: each part would be a commit, and the
    hub limits their number per hour.
    """
    if is_on_hub(path):
        raise Refused(
            f"--output={path}: a run would need a commit for every part, and the hub limits the "
            "commits of an hour; write to a folder: `python -m pipeline.publish FOLDER --to hub "
            "--name USER/NAME` makes one commit of a finished run"
        )
    return absolute(path)


def refuse_removed(option: str, folder: str, output: str) -> None:
    """Raise Refused for a folder to read that a run which writes to `output` may remove.

    option  the option that names the folder
    """
    if real_path(folder) == real_path(output) or RunFiles(output).holds(folder):
        raise Refused(
            f"--{option}={folder} would be removed by this run, which writes --output={output}"
        )


def identity(job: Claimant, stage: str) -> dict[str, Any]:
    """Return fingerprint, configuration, and inputs with their sizes and versions.

    Device, threads and the cut into chunk runs (`ChunkSize.runs`) are not part of it, because the
    exact columns do not depend on them.
    """
    content = {
        "configuration": job.configuration_of(stage),
        "inputs": [_entry(file) for file in job.files],
    }
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"run": fingerprint, **content}


def _entry(file: InputFile) -> dict[str, Any]:
    rows = {} if file.rows is None else {"rows": file.rows}
    copy = {"copy": PurePosixPath(file.copy).name} if file.copy else {}
    table = {"table": file.table} if file.table else {}
    return {
        "path": file.path,
        "size": file.size,
        "version": file.version,
        "label": file.label,
        **rows,
        **copy,
        **table,
    }


def _write(job: Claimant, stage: str) -> tuple[bytes, list[int]]:
    """Return the content of `run.json` and the offsets in bytes of its inputs, one line each.

    The last offset is where another input would begin: inputs + 1 offsets.
    """
    content = identity(job, stage)
    configuration = json.dumps(content["configuration"], indent=2, ensure_ascii=False)
    run = content["run"]
    head = f'{{"run": "{run}",\n"configuration": {configuration},\n"inputs": [\n'.encode()
    lines = [json.dumps(entry, ensure_ascii=False).encode() for entry in content["inputs"]]
    begins = list(accumulate((len(line) + len(_SEPARATOR) for line in lines), initial=len(head)))
    return head + _SEPARATOR.join(lines) + b"\n]}\n", begins


def input_ranges(job: Claimant) -> list[InputRange]:
    """Return ranges of inputs in the `run.json` of the stage that is written last.

    They are valid once the job has claimed its outputs.
    """
    stage, folder = job.outputs[-1]
    begins = _write(job, stage)[1]
    inputs = len(begins) - 1
    count = min(inputs, _MOST_RANGES)
    bounds = [number * inputs // count for number in range(count + 1)]
    path = join(folder, RunFiles.RUN)
    return [
        InputRange(path, first, begins[first], begins[after] - len(_SEPARATOR))
        for first, after in pairwise(bounds)
    ]


def claimed_outputs(job: Claimant) -> tuple[Output, ...]:
    """Return the outputs of a job's stages in the order of writing, with their fingerprints."""
    return tuple(
        Output(stage, folder, identity(job, stage)["run"]) for stage, folder in job.outputs
    )


def claim(job: Claimant, overwrite: bool) -> bool:
    """Claim the outputs for this run. Return whether it resumes an earlier run of this identity.

    Raises Refused, naming the difference, if an output belongs to another run and `overwrite` is
    false, and naming the file, if it would remove decisions of people. Nothing is changed then, in
    either folder of `annotate --audit`.
    """
    # All outputs are checked before any is changed.
    wanted = {folder: _write(job, stage)[0] for stage, folder in reversed(job.outputs)}
    try:
        for folder, content in wanted.items():
            if not overwrite:
                _refuse_another(folder, content)
            elif _obstacle(folder, content):
                _refuse_filled_in(folder)
        resumed = [_claim(folder, content, overwrite) for folder, content in wanted.items()]
    except OSError as error:
        raise Refused(f"--output={job.output} can't be written: {error}") from error
    return any(resumed)


def _claim(output: str, content: bytes, overwrite: bool) -> bool:
    """Claim one output. Return whether it had the same identity already. Raises Refused."""
    # Remove the temporary files of interrupted attempts.
    sweep_temporary(output)
    if overwrite and _obstacle(output, content):
        for name in RunFiles.ALL:
            remove(output, name)
    created = create(output, content, RunFiles.RUN)
    if not created:
        _refuse_another(output, content)  # another run may have started a moment ago
        if read(join(output, RunFiles.RUN)) != content:
            # The same identity in other bytes would shift the ranges that workers read.
            commit(output, content, RunFiles.RUN)
    # Jobs downstream wait for the manifest: it must not exist while the run is unfinished.
    remove(output, RunFiles.MANIFEST)
    return not created


def _refuse_another(output: str, content: bytes) -> None:
    """Raise Refused if an output belongs to another run."""
    obstacle = _obstacle(output, content)
    if obstacle:
        raise Refused(f"--output={output} has {obstacle}. --overwrite removes that first")


def _refuse_filled_in(output: str) -> None:
    """Raise Refused if people have filled in a file that `--overwrite` would remove."""
    for folder in (output, RunFiles(output).beside):
        for name in (RunFiles.RELABEL_CSV, RunFiles.RELABEL_JSON):
            if is_filled_in(join(folder, name)):
                raise Refused(
                    f"--overwrite: {join(folder, name)} is filled in: move it away, or give "
                    "another --output"
                )


def _obstacle(output: str, content: bytes) -> str:
    """Return in words what an output has of another run; "" if this run may claim it."""
    if exists(join(output, RunFiles.RUN)):
        difference = _difference(read(join(output, RunFiles.RUN)), content)
        return f"another run: {difference}" if difference else ""
    return f"parts of a run without {RunFiles.RUN}" if RunFiles(output).part_names() else ""


def _difference(before: bytes, now: bytes) -> str:
    """Return in words the first difference of two identities; "" if they are the same."""
    try:
        old_configuration, old_inputs = _parse(before)
    except (ValueError, KeyError, TypeError):
        return f"its {RunFiles.RUN} is damaged"
    # The configuration is compared first, because a changed option is the usual reason.
    configuration, inputs = _parse(now)
    # The default of chunk_rows follows from the questions.
    for name in dict.fromkeys(["questions", *configuration, *old_configuration]):
        old, new = old_configuration.get(name), configuration.get(name)
        if old != new:
            return f"{name} was {old!r}, is {new!r}"
    # Another snapshot is another run, even if it has the same files.
    old_tables, tables = _tables(old_inputs), _tables(inputs)
    if old_tables != tables:
        return f"tables of --input were {old_tables}, are {tables}"
    for path in sorted(old_inputs.keys() | inputs.keys()):
        if path not in inputs or path not in old_inputs:
            return f"input {path} was {'not ' if path not in old_inputs else ''}part of it"
        old, new = old_inputs[path], inputs[path]
        # The copy's name depends on the file's state and on the names of its columns.
        if old != new and old == {**new, "copy": old.get("copy")}:
            return f"input {path} was read with another --answers_column"
        if old != new:
            was, is_now = (described(entry["size"], entry["version"]) for entry in (old, new))
            return f"input {path} has changed since: it had {was}, it has {is_now}"
    if _fingerprint(before) != _fingerprint(now):
        return f"its {RunFiles.RUN} has another fingerprint"
    return ""


def _tables(inputs: dict[str, Any]) -> list[str]:
    """Return the Iceberg tables of inputs, each with its snapshot."""
    return sorted({entry["table"] for entry in inputs.values() if "table" in entry})


def _fingerprint(content: bytes) -> str | None:
    return json.loads(content).get("run")


def _parse(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration of an identity, and its inputs by path."""
    parsed = json.loads(content)
    return dict(parsed["configuration"]), {entry["path"]: entry for entry in parsed["inputs"]}
