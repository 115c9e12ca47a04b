"""A run in MLflow's own database, read by its own client."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.formats.mlflow_run import numbers_in
from pipeline.publish import main
from tests.runs import read_manifest


def test_numbers_have_the_names_of_their_places():
    value = {"b": {"c": 2, "d": [3], "e": True, "f": "4"}, "g": 0.5}
    assert dict(numbers_in("a", value)) == {"a/b/c": 2.0, "a/g": 0.5}
    assert dict(numbers_in("a", None)) == {}


def test_mlflow(
    priced: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/runs.db")
    experiment = client.create_experiment("readers", f"file://{tmp_path}/artifacts")
    assert main([str(priced), "--to=mlflow", "--name=readers"]) == 0
    assert "in the experiment readers" in capsys.readouterr().out
    assert main([str(priced), "--to=mlflow", "--name=readers"]) == 0
    assert "has this run already" in capsys.readouterr().out

    [made] = client.search_runs([experiment])
    manifest = read_manifest(priced)
    assert made.info.status == "FINISHED"
    assert made.data.params["chunk_rows"] == "11"
    assert made.data.tags["content"] == manifest["content"]
    assert made.data.metrics["rows/planned"] == 22.0
    assert made.data.metrics["cost/total"] == manifest["cost"]["total"] > 0.0
    report = json.loads((priced / "audit.json").read_text())
    assert made.data.metrics["audit/f1/percent"] == pytest.approx(report["all"]["f1"]["percent"])
    names = {file.path for file in client.list_artifacts(made.info.run_id)}
    assert names == {"run.json", "manifest.json", "audit.json", "report.html"}

    # Another state of the same answers, as after a rerun with another --max_failed_fraction.
    shutil.copytree(priced, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest | {"state": "incomplete"}))
    assert main([str(tmp_path / "out"), "--to=mlflow", "--name=readers"]) == 0
    assert {made.info.status for made in client.search_runs([experiment])} == {"FINISHED", "FAILED"}
