"""What is read of a finished run for catalogs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.formats.published_run import published_run
from pipeline.job.options import Refused


def test_a_run_and_its_times(priced: Path):
    run = published_run(str(priced))
    assert run.stage == "audit"
    assert run.complete
    assert run.started.timestamp() == (priced / "run.json").stat().st_mtime
    assert run.started < run.ended


def test_a_run_without_a_manifest_is_refused(priced: Path, tmp_path: Path):
    shutil.copytree(priced, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(Refused, match="the run is not finished"):
        published_run(str(tmp_path / "out"))
