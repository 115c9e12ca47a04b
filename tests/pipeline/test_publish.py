"""The command: catalogs whose packages are missing, outputs that can't be published."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.publish import main


@pytest.mark.parametrize("catalog", ["openlineage", "mlflow"])
def test_a_missing_package_is_named(
    catalog: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    # The module that imports the package is imported anew.
    modules = ("pipeline.formats.lineage_events", "pipeline.formats.mlflow_run")
    for name in list(sys.modules):
        if name.split(".")[0] == catalog or name in modules:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, catalog, None)
    assert main([str(tmp_path), f"--to={catalog}"]) == 2
    assert f"pip install 'spanmill[{catalog}]'" in capsys.readouterr().err


def test_a_folder_that_is_no_output_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path), "--to=mlflow"]) == 2
    assert "it is not an output of annotate or audit" in capsys.readouterr().err
