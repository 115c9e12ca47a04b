"""A finished run as one commit of a data set on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

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

_FOLDERS = (RunFiles.PARTS, RunFiles.REJECTIONS)
_FILES = tuple(name for name in RunFiles.ALL if name.endswith((".json", ".csv", ".html")))
"""A run's files and folders: without copies of inputs, and without an audit alongside."""


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
            _operations(run.finished.files, api.list_repo_files(name, repo_type="dataset")),
            commit_message=f"{run.stage}: {run.manifest['rows']['planned']} rows",
            repo_type="dataset",
        )
    except Exception as error:  # errors of the hub, of names, and of its client for HTTP
        raise Refused(f"--to=hub: {type(error).__name__}: {error}") from error
    return f"{len(run.finished.parts)} parts in the data set {name}: commit {made.oid}"


def _operations(
    files: RunFiles, before: list[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Return the operations of the commit; `before` are the paths that the data set has."""
    folder = Path(files.folder)
    # Other programs may have left files of their own beside the parts.
    uploaded = [
        *(name for name in _FILES if (folder / name).is_file()),
        *(f"{RunFiles.PARTS}/{name}" for name in files.part_names()),
        *(f"{RunFiles.REJECTIONS}/{name}" for name in files.rejection_names()),
    ]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path, str(folder / path)) for path in uploaded
    ]
    earlier = (path for path in before if path in _FILES or path.partition("/")[0] in _FOLDERS)
    operations += [CommitOperationDelete(path) for path in set(earlier) - set(uploaded)]
    if _CARD not in before:
        operations.append(CommitOperationAdd(_CARD, _CARD_TEXT.encode()))
    return operations
