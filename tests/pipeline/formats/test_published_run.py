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
    written = (priced / "run.json").stat().st_mtime  # finer than the microseconds of a datetime
    assert run.started.timestamp() == pytest.approx(written, abs=1e-5)
    assert run.started < run.ended


def test_a_run_without_a_manifest_is_refused(priced: Path, tmp_path: Path):
    shutil.copytree(priced, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(Refused, match="the run is not finished"):
        published_run(str(tmp_path / "out"))


@pytest.mark.parametrize("content", ["{", "[]", '{"state": "complete"}'])
def test_a_damaged_manifest_is_refused(priced: Path, tmp_path: Path, content: str):
    shutil.copytree(priced, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(content)
    with pytest.raises(Refused, match=r"manifest\.json does not end a run"):
        published_run(str(tmp_path / "out"))
