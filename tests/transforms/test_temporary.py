"""Temporary files: only those that no process may still write are removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from transforms import temporary
from transforms.storage import sweep_temporary


def test_only_files_of_dead_processes_are_removed(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        folder = tmp_path / temporary.TEMPORARY
        folder.mkdir()
        for owner in (dead.pid, os.getpid(), 10**30):
            (folder / f"{temporary._HOST}-{owner}-0123").touch()
        kept = {f"{temporary._HOST}-{alive.pid}-0123", f"elsewhere-{dead.pid}-0123", "unknown"}
        for name in kept:
            (folder / name).touch()
        sweep_temporary(str(tmp_path))
        assert {path.name for path in folder.iterdir()} == kept
    finally:
        alive.communicate(b"\n")
    for name in kept:
        # Older than any write, whichever machine the file comes from.
        os.utime(folder / name, (1, time.time() - temporary._LONGEST_WRITE - 60))
    sweep_temporary(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_although_another_process_sweeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A sweep removes the empty folder just after the writer has made it."""
    folder = str(tmp_path / temporary.TEMPORARY)
    make, sweeps = os.makedirs, [temporary.sweep]

    def makedirs(path: str, **more: Any) -> None:
        make(path, **more)
        if sweeps:
            sweeps.pop()(folder)

    monkeypatch.setattr(os, "makedirs", makedirs)
    with temporary.temporary_file(folder, b"content") as path:
        assert Path(path).read_bytes() == b"content"
    assert not sweeps


def test_an_output_that_has_none_is_left_alone(tmp_path: Path):
    sweep_temporary(str(tmp_path / "missing"))
    sweep_temporary("memory://missing")
    assert list(tmp_path.iterdir()) == []
