"""Claim: `run.json` makes an output belong to one run.

A run creates it before everything else, and checks it before every change of the output.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pyarrow as pa

from transforms.run_files import RunFiles
from transforms.storage import commit, exists, join, read, remove

RUN_HEAD = 100
"""Bytes of `run.json` that are read for the fingerprint: the list of inputs may be long."""


class ClaimLost(RuntimeError):
    """The output now belongs to another run. A worker may outlive its own run."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where a stage of a run writes.

    run  fingerprint of the run; `run.json` begins with it while the output belongs to the run
    """

    stage: str
    folder: str
    run: str

    @property
    def files(self) -> RunFiles:
        """Return the names of the files of the output."""
        return RunFiles(self.folder)

    def commit(self, content: bytes | pa.Buffer, *names: str) -> None:
        """Publish finished bytes as the file `folder/names...`. Raises ClaimLost.

        If another run takes the output over in the meantime, the file is removed again.
        """
        self._check()
        commit(self.folder, content, *names)
        try:
            self._check()
        except ClaimLost:
            # The other run would count the file as its own, unless it has replaced it.
            if exists(join(self.folder, *names)) and read(join(self.folder, *names)) == content:
                remove(self.folder, *names)
            raise

    def publish(self, content: bytes, *names: str) -> None:
        """Commit a file, and verify it by reading it back: no later check would notice its loss.

        Raises ClaimLost, and OSError if the file is missing or differs.
        """
        self.commit(content, *names)
        # Parts are counted by WriteManifest, but nothing would notice that other files are missing.
        if read(join(self.folder, *names)) != content:
            raise OSError(
                errno.EIO, "the file differs from what was written", join(self.folder, *names)
            )

    def remove(self, *names: str) -> None:
        """Remove a file of the output. Does nothing if it does not exist. Raises ClaimLost."""
        # Checking the claim reads from the store, so do it only if there is something to remove.
        if exists(join(self.folder, *names)):
            self._check()
            remove(self.folder, *names)

    def _check(self) -> None:
        """Raise ClaimLost unless the output still belongs to this run."""
        try:
            # Without run.json, nobody owns the output: `--overwrite` may be removing it.
            head = read(self.files.run, RUN_HEAD)
        except FileNotFoundError:
            head = b""
        if f'"{self.run}"'.encode() not in head:
            raise ClaimLost(
                f"{self.folder} now belongs to another run: this run writes no more files there"
            )
