"""Distillation: the divergence equals torch's, a student learns to agree with its teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from model.checkpoint import CheckpointError, LocalFolder
from model.reading.batching import Batch, assemble
from model.reading.reader import CheckpointReader
from model.reading.tokenizer import Tokenizer
from model.train import train
from model.training.data import make_examples, read_rows
from model.training.distillation import Teacher, divergence, log_probabilities
from model.training.loss import normalised_positions
from tests.checkpoints import Checkpoint, build_bert
from tests.model.test_train import SAMPLE, options


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with a trained null option, from other weights than the student's."""
    folder = tmp_path_factory.mktemp("teacher")
    train(options(build_bert(folder / "base", seed=9), folder / "trained"))
    return folder / "trained"


def batch_of(folder: Path) -> Batch:
    windows = make_examples(read_rows(str(SAMPLE)), Tokenizer(folder), 128, 32, 64).windows
    return assemble(windows, np.arange(20))


def test_the_divergence_is_that_of_two_softmaxes_over_the_normalised_positions() -> None:
    torch.manual_seed(0)
    logits, others = torch.randn(2, 3, 7, dtype=torch.float64) * 5
    normalised = torch.tensor(
        [[1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0, 0]], dtype=torch.bool
    )
    found = divergence(logits, log_probabilities(others, normalised).exp(), normalised)
    for row, inside in enumerate(normalised):
        expected = kl_divergence(
            Categorical(logits=others[row, inside]), Categorical(logits=logits[row, inside])
        )
        assert found[row].item() == pytest.approx(expected.item(), abs=1e-9)
    assert (
        divergence(logits, log_probabilities(logits, normalised).exp(), normalised).abs().max()
        < 1e-12
    )


def test_tokens_outside_of_the_softmax_give_no_gradient_and_no_nan() -> None:
    logits = torch.tensor([[1.0, 2.0, -40.0, 3.0]], requires_grad=True)
    normalised = torch.tensor([[True, True, True, False]])
    divergence(logits, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), normalised).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 3] == 0
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]


@pytest.mark.parametrize("null", [True, False])
def test_a_student_comes_to_agree_with_its_teacher(
    bert_folder: Path, teacher: Path, tmp_path: Path, null: bool
) -> None:
    """Without the null option, the teacher still gives a loss to batches without a gold."""
    batch = batch_of(bert_folder)
    normalised = normalised_positions(batch, null)
    taught = Teacher(str(teacher), Tokenizer(bert_folder), 128, null).probabilities(
        batch, normalised
    )
    torch.testing.assert_close(taught.sum(-1), torch.ones(2, 20))
    assert not taught[:, ~normalised].any()

    def apart(folder: Path) -> float:
        with torch.inference_mode():
            logits = torch.stack(CheckpointReader(LocalFolder(str(folder))).logits(batch))
        return divergence(logits, taught, normalised).mean().item()

    changed = {
        "teacher": str(teacher),
        "teacher_share": 1.0,
        "null": null,
        "shared_normalisation": not null,
    }
    train(options(bert_folder, tmp_path, epochs=0.25, **changed))
    assert apart(tmp_path) < 0.5 * apart(bert_folder)


def edited(folder: Path, to: Path, **settings: Any) -> str:
    """Copy a checkpoint, change its own settings, and return the copy's folder."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(
        json.dumps({**config, "spanmill": {**config["spanmill"], **settings}})
    )
    return str(to)


def test_a_checkpoint_that_can_not_teach_the_student_is_refused(
    bert_folder: Path, teacher: Path, checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    tokenizer = Tokenizer(bert_folder)
    with pytest.raises(CheckpointError, match="has another tokenizer than the base"):
        Teacher(str(checkpoints["roberta"].folder), tokenizer, 128, null=False)
    with pytest.raises(CheckpointError, match="link sigmoid: it has no distribution"):
        Teacher(edited(teacher, tmp_path / "sigmoid", link="sigmoid"), tokenizer, 128, null=True)
    with pytest.raises(CheckpointError, match="no trained null option: train with --no-null"):
        Teacher(
            edited(teacher, tmp_path / "untrained", null_trained=False), tokenizer, 128, null=True
        )
    with pytest.raises(CheckpointError, match=r"fewer than --max_length=9999"):
        Teacher(str(teacher), tokenizer, 9999, null=True)
