"""Checkpoints that a reader refuses to load."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

from model.checkpoint import CheckpointError, LocalFolder, digest
from model.reading.reader import CheckpointReader


@pytest.fixture
def copied(bert_folder: Path, tmp_path: Path) -> Path:
    """Copy a BERT checkpoint, for tests that damage it."""
    return shutil.copytree(bert_folder, tmp_path / "copied")


def load(folder: Path) -> None:
    CheckpointReader(LocalFolder(str(folder)), device="cpu").load()


@pytest.mark.parametrize("network", [BertModel, BertForMaskedLM])
def test_a_checkpoint_without_a_trained_head_is_refused(
    bert_folder: Path, copied: Path, network: type
) -> None:
    network(BertConfig.from_pretrained(bert_folder)).save_pretrained(copied)
    with pytest.raises(
        CheckpointError, match=r"lacks trained weights for qa_outputs\.bias, qa_outputs\.weight"
    ):
        load(copied)


def test_a_checkpoint_that_lacks_one_weight_of_the_encoder_is_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layer\.1\.output\.dense\.weight"):
        load(copied)


def test_weights_of_another_shape_are_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["qa_outputs.weight"] = torch.zeros(3, 32)
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"qa_outputs\.weight|size mismatch|mismatch"):
        load(copied)


def test_pickled_weights_are_refused(copied: Path) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError,
        match=r"has only pytorch_model\.bin, which is a pickle: weights must be safetensors",
    ):
        load(copied)


def test_pickled_weights_beside_safetensors_are_never_opened(copied: Path) -> None:
    (copied / "pytorch_model.bin").write_bytes(b"no pickle at all")
    load(copied)


def test_a_checkpoint_with_code_of_its_own_is_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text("utf-8"))
    config["auto_map"] = {"AutoModelForQuestionAnswering": "modeling.Mine"}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "modeling.py").write_text("raise SystemExit('remote code was run')")
    with pytest.raises(CheckpointError, match="remote code is never run"):
        load(copied)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights_are_refused(copied: Path, kept: float) -> None:
    path = copied / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(CheckpointError, match=f"the network in {copied} can't be loaded"):
        load(copied)


def test_a_model_that_answers_no_questions_is_refused(copied: Path) -> None:
    (copied / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match="can't be loaded"):
        load(copied)


def test_a_checkpoint_that_changed_since_the_run_was_started_is_refused(copied: Path) -> None:
    reader = CheckpointReader(LocalFolder(str(copied)), digest(copied), device="cpu")
    reader.load()
    (copied / "config.json").write_text((copied / "config.json").read_text("utf-8") + "\n")
    with pytest.raises(CheckpointError, match="is not the one that this run was started with"):
        pickle.loads(pickle.dumps(reader)).load()
