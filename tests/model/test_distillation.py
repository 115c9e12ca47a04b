"""Distillation: the divergence is the textbook's, several teachers are their mean, and a student comes to agree with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from model.batching import assemble
from model.checkpoint import CheckpointError, LocalFolder
from model.distillation import Teachers, divergence, log_shares
from model.reader import CheckpointReader
from model.tokenizer import Tokenizer
from model.train import normalised_positions, train
from model.training_data import make_examples, read_rows
from tests.checkpoints import Checkpoint, build_bert
from tests.model.test_train import SAMPLE, options


@pytest.fixture(scope="module")
def other_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bert(tmp_path_factory.mktemp("other"), seed=9)


def test_the_divergence_is_that_of_two_softmaxes_over_the_normalised_positions() -> None:
    torch.manual_seed(0)
    logits, others = torch.randn(2, 3, 7, dtype=torch.float64) * 5
    normalised = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0, 0]], dtype=torch.bool)
    found = divergence(logits, log_shares(others, normalised).exp(), normalised)
    for row, inside in enumerate(normalised):
        expected = kl_divergence(Categorical(logits=others[row, inside]), Categorical(logits=logits[row, inside]))
        assert found[row].item() == pytest.approx(expected.item(), abs=1e-9)
    assert divergence(logits, log_shares(logits, normalised).exp(), normalised).abs().max() < 1e-12


def test_several_teachers_are_the_mean_of_their_distributions(bert_folder: Path, other_bert: Path) -> None:
    tokenizer = Tokenizer(bert_folder)
    windows = make_examples(read_rows(str(SAMPLE))[:5], tokenizer, 64, 16, 32).windows
    batch = assemble(windows, np.arange(4))
    normalised = normalised_positions(batch, null=True)
    one, other, both = (
        torch.stack(Teachers([str(folder) for folder in folders], tokenizer).probabilities(batch, normalised))
        for folders in ([bert_folder], [other_bert], [bert_folder, other_bert])
    )
    assert (one - other).abs().max() > 1e-3
    torch.testing.assert_close(both, (one + other) / 2)
    torch.testing.assert_close(both.sum(-1), torch.ones(2, 4))
    assert not both[:, ~normalised].any()


def test_a_student_comes_to_agree_with_its_teacher(bert_folder: Path, other_bert: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(bert_folder)
    batch = assemble(make_examples(read_rows(str(SAMPLE)), tokenizer, 128, 32, 64).windows, np.arange(20))
    normalised = normalised_positions(batch, null=True)
    taught = Teachers([str(other_bert)], tokenizer).probabilities(batch, normalised)

    def apart(folder: Path) -> float:
        reader = CheckpointReader(LocalFolder(str(folder)))
        with torch.inference_mode():
            logits = reader.logits(batch)
        return sum(divergence(*both, normalised).mean().item() for both in zip(logits, taught, strict=True))

    train(options(bert_folder, tmp_path / "out", epochs=3.0, teachers=str(other_bert), teachers_share=1.0))
    assert apart(tmp_path / "out") < 0.5 * apart(bert_folder)


def test_a_teacher_with_other_tokens_is_refused(bert_folder: Path, checkpoints: dict[str, Checkpoint]) -> None:
    other = next(each for name, each in checkpoints.items() if name == "roberta")
    with pytest.raises(CheckpointError, match="has another tokenizer than the base"):
        Teachers([str(other.folder)], Tokenizer(bert_folder))
