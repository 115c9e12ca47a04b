"""A finished run as catalogs need it: what its files say, and when it started and ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.formats.finished import FinishedRun, open_run, read_manifest
from pipeline.job.options import Refused
from transforms.run_files import RunFiles
from transforms.storage import exists, list_times, read


@dataclass(frozen=True)
class PublishedRun:
    """A finished run.

    identity  content of run.json
    manifest  content of manifest.json
    started   when run.json was written
    ended     when the manifest was written
    """

    finished: FinishedRun
    identity: dict[str, Any]
    manifest: dict[str, Any]
    started: datetime
    ended: datetime

    @property
    def stage(self) -> str:
        """The stage, "annotate" or "audit"."""
        return self.finished.stage

    @property
    def default_name(self) -> str:
        """The name of the run's job or experiment, unless another is given."""
        return f"spanmill-{self.stage}"

    @property
    def key(self) -> str:
        """The run's fingerprint and the digest of its content: equal for the same answers."""
        return f"{self.identity['run']}-{self.manifest['content']}"

    @property
    def complete(self) -> bool:
        """Whether the run is complete."""
        return bool(self.manifest["state"] == "complete")


def published_run(folder: str) -> PublishedRun:
    """Open a run to publish. Raises Refused if it has no manifest yet."""
    finished = open_run(folder)
    files = finished.files
    if not exists(files.manifest):
        raise Refused(f"{folder} has no {RunFiles.MANIFEST}: the run is not finished")
    manifest = read_manifest(files)
    times = list_times(folder)
    return PublishedRun(
        finished,
        json.loads(read(files.run)),
        manifest,
        _moment(times.get(RunFiles.RUN, 0.0)),
        _moment(times.get(RunFiles.MANIFEST, 0.0)),
    )


def _moment(seconds: float) -> datetime:
    """Return a time in seconds since 1970 as a datetime."""
    return datetime.fromtimestamp(seconds, UTC)
