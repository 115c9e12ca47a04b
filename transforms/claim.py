"""The claim of a run on its output: `run.json`, made before anything else and looked at before every change there."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pyarrow as pa

from transforms.run_files import RunFiles
from transforms.storage import commit, exists, join, read, remove

_HEAD = 100
"""Bytes of `run.json` that hold the fingerprint: the list of inputs after it may be long."""


class ClaimLost(RuntimeError):
    """The output belongs to another run now: a worker may outlive the run that it worked for."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where a stage of a run writes.

    run  the fingerprint at the head of the run.json that stands there while the output is this run's
    """

    stage: str
    folder: str
    run: str

    @property
    def files(self) -> RunFiles:
        """The files of the output."""
        return RunFiles(self.folder)

    def commit(self, content: bytes | pa.Buffer, *names: str) -> None:
        """Publishes finished bytes as the file `folder/names...`. Raises ClaimLost."""
        self._check()
        commit(self.folder, content, *names)

    def publish(self, content: bytes, *names: str) -> None:
        """`commit` for a file that nobody counts later: it is read again. Raises ClaimLost, OSError if it was lost."""
        self.commit(content, *names)
        if read(join(self.folder, *names)) != content:
            raise OSError(
                errno.EIO, "it was written, but is not what is read", join(self.folder, *names)
            )

    def remove(self, *names: str) -> None:
        """Removes a file of the output, if it is there. Raises ClaimLost."""
        if exists(join(self.folder, *names)):
            self._check()
            remove(self.folder, *names)

    def _check(self) -> None:
        try:
            head = read(self.files.run, _HEAD)
        except FileNotFoundError:
            head = b""
        if f'"{self.run}"'.encode() not in head:
            raise ClaimLost(
                f"{self.folder} belongs to another run now: nothing more is written there"
            )
