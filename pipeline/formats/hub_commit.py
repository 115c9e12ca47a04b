"""A finished run as one commit of a data set on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import filter_repo_objects

from pipeline.formats.published_run import PublishedRun
from pipeline.job.options import Refused
from transforms.run_files import RunFiles
from transforms.storage import is_local

_CARD = "README.md"
_CARD_TEXT = """---
configs:
- config_name: default
  data_files: parts/*.parquet
---
"""
"""Tells `load_dataset` and the hub's viewer which files are the rows."""

_UPLOADED = [
    f"{name}/*" if name in (RunFiles.PARTS, RunFiles.REJECTIONS) else name
    for name in RunFiles.ALL
    if name not in (RunFiles.COPIES, RunFiles.BESIDE) and not name.startswith("_")
]
"""Patterns of a run's files: without copies of inputs, and without an audit alongside."""


def publish_commit(run: PublishedRun, name: str | None) -> str:
    """Upload a run to a data set in one commit, which also removes the files of an earlier run.

    name  of the data set, USER/NAME, which is created as a private one if there is none

    Return what was done. Raises Refused for an incomplete run, without a name, for an output that
    is not on this machine, and if the hub refuses.
    """
    folder = run.finished.folder
    if not name:
        raise Refused("--to=hub needs the name of a data set: --name USER/NAME")
    if not is_local(folder):
        raise Refused(f"--to=hub uploads from this machine only: copy {folder} to a folder first")
    if not run.complete:
        raise Refused(f"{folder} is incomplete: {'; '.join(run.manifest['why'])}")
    try:
        api = HfApi()
        api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        made = api.create_commit(
            name,
            _operations(Path(folder), api.list_repo_files(name, repo_type="dataset")),
            commit_message=f"{run.stage}: {run.manifest['rows']['planned']} rows",
            repo_type="dataset",
        )
    except Exception as error:  # errors of the hub, of names, and of its client for HTTP
        raise Refused(f"--to=hub: {type(error).__name__}: {error}") from error
    return f"{len(run.finished.parts)} parts in the data set {name}: commit {made.oid}"


def _operations(
    folder: Path, before: list[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Return the operations of the commit; `before` are the paths that the data set has."""
    paths = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    uploaded = sorted(filter_repo_objects(paths, allow_patterns=_UPLOADED))
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path, str(folder / path)) for path in uploaded
    ]
    earlier = filter_repo_objects(before, allow_patterns=_UPLOADED)
    operations += [CommitOperationDelete(path) for path in set(earlier) - set(uploaded)]
    if _CARD not in before:
        operations.append(CommitOperationAdd(_CARD, _CARD_TEXT.encode()))
    return operations
