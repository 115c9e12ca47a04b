"""The mean of checkpoints: its weights, its files, and what cannot be averaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.average import WEIGHTS_FILE, main
from model.checkpoint import LocalFolder, Settings, read_settings
from model.reading.reader import CheckpointReader
from tests.model.split import with_settings


def moved(source: Path, folder: Path, by: float) -> Path:
    shutil.copytree(source, folder)
    weights = {name: tensor + by for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return folder


def test_the_mean_lies_between_and_loads(bert_folder: Path, tmp_path: Path) -> None:
    one = moved(bert_folder, tmp_path / "one", 0.125)
    config = json.loads((one / "config.json").read_text())
    thresholds = {"0.9": {"min_probability": 0.5}}
    own = {"temperature": 2.0, "precision_thresholds": thresholds, "int8": True}
    (one / "config.json").write_text(json.dumps({**config, "spanmill": own}))
    two = moved(bert_folder, tmp_path / "two", -0.0625)
    assert main(["--checkpoints", f"{one},{two}", "--output", str(tmp_path / "mean")]) == 0
    first, second, mean = (
        load_file(tmp_path / name / WEIGHTS_FILE) for name in ("one", "two", "mean")
    )
    for name, tensor in mean.items():
        assert tensor.dtype == first[name].dtype
        exact = (first[name].float() + second[name].float()) / 2
        torch.testing.assert_close(tensor, exact.to(tensor.dtype), rtol=0, atol=0)
    # What was measured with some weights is not known of others.
    assert read_settings(tmp_path / "mean") == Settings(temperature=2.0)
    CheckpointReader(LocalFolder(str(tmp_path / "mean")), dtype="float32").load()


def test_weights_of_another_shape_are_refused(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = moved(bert_folder, tmp_path / "two", 0)
    weights = load_file(two / WEIGHTS_FILE)
    name = "qa_outputs.bias"
    save_file({**weights, name: torch.zeros(3)}, two / WEIGHTS_FILE, metadata={"format": "pt"})
    assert main(["--checkpoints", f"{bert_folder},{two}", "--output", str(tmp_path / "mean")]) == 2
    message = f"refused: --checkpoints={two}: it has other weights than {bert_folder}"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()


def test_a_whole_and_a_split_reader_are_not_averaged(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = with_settings(moved(bert_folder, tmp_path / "two", 0), split=1, passage_position=20)
    assert main(["--checkpoints", f"{bert_folder},{two}", "--output", str(tmp_path / "mean")]) == 2
    message = f"refused: --checkpoints={two}: its split and passage_position are (1, 20)"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()


def test_networks_of_equal_shapes_that_compute_otherwise_are_not_averaged(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads, cuts = (moved(bert_folder, tmp_path / name, 0) for name in ("heads", "cuts"))
    config = json.loads((heads / "config.json").read_text())
    config["num_attention_heads"] //= 2
    (heads / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((cuts / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = not tokenizer["normalizer"]["lowercase"]
    (cuts / "tokenizer.json").write_text(json.dumps(tokenizer))
    for folder, differs in (
        (heads, "num_attention_heads in config.json"),
        (cuts, "tokenizer.json"),
    ):
        given = ["--checkpoints", f"{bert_folder},{folder}", "--output", str(tmp_path / "mean")]
        assert main(given) == 2
        message = f"refused: --checkpoints={folder}: its {differs} differs from that of "
        assert message in capsys.readouterr().err
    given = ["--checkpoints", f"{heads},{heads}", "--output", str(heads)]
    assert main(given) == 2
    assert "it is one of the checkpoints" in capsys.readouterr().err


def test_a_folder_that_is_not_a_checkpoint_is_named(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = moved(bert_folder, tmp_path / "damaged", 0)
    (damaged / WEIGHTS_FILE).write_bytes(b"\0" * 30)
    for folder in (tmp_path / "nowhere", damaged):
        assert (
            main(["--checkpoints", f"{bert_folder},{folder}", "--output", str(tmp_path / "mean")])
            == 2
        )
        assert f"refused: --checkpoints={folder}: " in capsys.readouterr().err
    assert main(["--checkpoints", str(bert_folder), "--output", str(damaged / WEIGHTS_FILE)]) == 2
    assert f"refused: --output={damaged / WEIGHTS_FILE}: File exists" in capsys.readouterr().err
