"""A finished run as one commit of a data set on the Hugging Face hub."""

from __future__ import annotations

from huggingface_hub import HfApi

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

_UPLOADED = tuple(
    f"{name}/*" if name in (RunFiles.PARTS, RunFiles.REJECTIONS) else name
    for name in RunFiles.ALL
    if name not in (RunFiles.COPIES, RunFiles.BESIDE) and not name.startswith("_")
)
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
        made = api.upload_folder(
            repo_id=name,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=list(_UPLOADED),
            delete_patterns=list(_UPLOADED),
            commit_message=f"{run.stage}: {run.manifest['rows']['planned']} rows",
        )
        if not api.file_exists(name, _CARD, repo_type="dataset"):
            api.upload_file(
                path_or_fileobj=_CARD_TEXT.encode(),
                path_in_repo=_CARD,
                repo_id=name,
                repo_type="dataset",
            )
    except Exception as error:  # errors of the hub, of names, and of its client for HTTP
        raise Refused(f"--to=hub: {type(error).__name__}: {error}") from error
    return f"{len(run.finished.parts)} parts in the data set {name}: commit {made.oid}"
