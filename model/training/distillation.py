"""Distillation: a span predictor learns what a teacher predicts of each window, beside the gold.

Hinton, Vinyals & Dean 2015 (arXiv:1503.02531): the student's softmax is drawn to the teacher's, which knows of tokens near the
gold, and of questions without an answer, what no gold tells.
"""

from __future__ import annotations

import torch

from model.checkpoint import CheckpointError, locate, read_settings
from model.reading.batching import Batch
from model.reading.reader import CheckpointReader, resolve_dtype
from model.reading.tokenizer import Tokenizer


class Teacher:
    """A trained checkpoint, in the dtype that is fastest on this machine."""

    def __init__(self, checkpoint: str, tokenizer: Tokenizer, max_length: int, null: bool):
        """Loads it. Raises CheckpointError or TokenizerError for one that can't be loaded.

        Raises CheckpointError too where it can't teach a student with this tokenizer, these windows and this null option.
        """
        self._reader = CheckpointReader(locate(checkpoint), dtype=resolve_dtype("auto", "auto"))
        settings = read_settings(self._reader.folder)
        if not self._reader.tokenizer().equals(tokenizer):
            raise CheckpointError(f"the teacher {checkpoint} has another tokenizer than the base: their tokens don't compare")
        if settings.link != "softmax":
            raise CheckpointError(f"the teacher {checkpoint} has link {settings.link}: it has no distribution over tokens")
        if null and not settings.null_trained:
            raise CheckpointError(f"the teacher {checkpoint} has no trained null option: train with --no-null")
        self._reader.load()
        positions = self._reader.positions()
        if positions is not None and positions < max_length:
            raise CheckpointError(f"the teacher {checkpoint} takes {positions} tokens, fewer than --max_length={max_length}")

    def probabilities(self, batch: Batch, normalised: torch.Tensor) -> torch.Tensor:
        """Start and end distributions over the `normalised` positions (bool [B, L]) of each window, [2, B, L], 0 elsewhere."""
        with torch.inference_mode():
            logits = torch.stack(self._reader.logits(batch)).cpu()
        return log_probabilities(logits, normalised).exp()


def log_probabilities(logits: torch.Tensor, normalised: torch.Tensor) -> torch.Tensor:
    """The log-softmax over the `normalised` positions (bool [B, L]) of each window, [..., B, L]; -inf elsewhere."""
    return torch.log_softmax(torch.where(normalised, logits, -torch.inf), -1)


def divergence(logits: torch.Tensor, probabilities: torch.Tensor, normalised: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence in nats of a student's softmax from the teacher's, [..., B]: 0 where they agree.

    logits         float [..., B, L], the student's
    probabilities  float [..., B, L], the teacher's, 0 outside of the `normalised` positions, bool [B, L]
    """
    student = torch.where(normalised, log_probabilities(logits, normalised), 0.0)
    return (torch.xlogy(probabilities, probabilities) - probabilities * student).sum(-1)
