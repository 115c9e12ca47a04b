"""The verdict on int8: by answers in both dtypes, written to config.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import read_settings
from model.try_int8 import DtypeDifference, GradedAnswers, compare, main
from pipeline.bundled import SAMPLE
from tests.model.split import with_settings

REFERENCE = GradedAnswers(
    [(0, 3), (5, 9), (None, None), (7, 8)],
    [[4.0, 3.5], [4.0, 3.75], [], [1.0]],
    [1.0, 0.5, 0.0, 1.0],
)


def test_near_ties_do_not_count() -> None:
    """The second row is a near-tie, the third is rejected, the last has only one span."""
    same = compare(REFERENCE, REFERENCE)
    assert same == DtypeDifference(4, 62.5, 0.0, 100.0, 2, 100.0)
    assert same.passes
    spans = [(0, 3), (5, 8), (None, None), (7, 8)]
    tie = compare(GradedAnswers(spans, [[9.0, 1.0]] * 4, [1.0, 0.6, 0.0, 1.0]), REFERENCE)
    assert (tie.equal, tie.clear_equal) == (75.0, 100.0)
    assert tie.f1_change == pytest.approx(2.5)
    assert tie.passes
    spans[0] = (0, 4)
    other = compare(GradedAnswers(spans, [[9.0, 1.0]] * 4, REFERENCE.f1), REFERENCE)
    assert (other.equal, other.clear_equal) == (50.0, 50.0)
    assert not other.passes


@pytest.mark.parametrize(("changed", "passes"), [(2, True), (3, False)])
@pytest.mark.parametrize("lost", [0.0, 0.5])
def test_the_limits_of_both(changed: int, passes: bool, lost: float) -> None:
    """Of 200 answers two may change; half a point lost by one costs 0.25."""
    spans, scores = [(0, 3)] * 200, [[4.0, 2.0]] * 200
    reference = GradedAnswers(spans, scores, [1.0] * 200)
    answered = GradedAnswers(
        [(0, 4)] * changed + spans[changed:], scores, [1.0 - lost] + [1.0] * 199
    )
    assert compare(answered, reference).passes == (passes and not lost)


def test_without_a_clear_row_nothing_passes() -> None:
    reference = GradedAnswers([(0, 3), (None, None)], [[1.0, 1.0], []], [1.0, 0.0])
    assert not compare(reference, reference).passes


def write_sharp(bert_folder: Path, folder: Path, scale: float) -> Path:
    """Copy the tiny checkpoint with large logits, so that rows are clear, and scaled layers."""
    shutil.copytree(bert_folder, folder)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if name.startswith("qa_outputs"):
            tensor *= 1000
        elif ".encoder." in name and tensor.dim() == 2:
            tensor *= scale
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return with_settings(folder, temperature=2.0)


@pytest.mark.parametrize(("scale", "passes"), [(0.0, True), (20.0, False)])
def test_the_verdict_is_written(
    bert_folder: Path,
    tmp_path: Path,
    scale: float,
    passes: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Layers of zeros are exact in int8, but large ones round."""
    folder = write_sharp(bert_folder, tmp_path / "model", scale)
    assert main([f"--model={folder}", f"--data={SAMPLE}", "--rows=20"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["int8"] == passes
    assert (figures["rows"], figures["f1_change"] == 0) == (20, passes)
    assert figures["clear_rows"] > 10
    settings = read_settings(folder)
    assert (settings.int8, settings.temperature) == (passes, 2.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": "none.parquet"}, "--data=none.parquet: no question has an answer"),
        ({"data": "nowhere.parquet"}, "--data=nowhere.parquet: "),
        ({"model": "nowhere"}, "--model=nowhere: nowhere has no config.json"),
        ({}, "--model=model: the network in model can't compute in int8 on this machine: oneDNN"),
    ],
)
def test_refusals_write_nothing(
    given: dict[str, Any],
    said: str,
    bert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = (Path(shutil.copytree(bert_folder, "model")) / "config.json").read_bytes()
    sample = pq.read_table(SAMPLE)
    unanswerable = [not row["text"] for row in sample["answers"].to_pylist()]
    pq.write_table(sample.filter(unanswerable), "none.parquet")
    options = {"model": "model", "data": SAMPLE, "rows": 5, **given}
    with torch.backends.mkldnn.flags(enabled=False):
        assert main([f"--{name}={value}" for name, value in options.items()]) == 2
    assert f"refused: {said}" in capsys.readouterr().err
    assert Path("model/config.json").read_bytes() == before
