"""Distillation: a span predictor learns what its teachers predict of each window, beside the gold.

Hinton, Vinyals & Dean 2015 (arXiv:1503.02531): the student's softmax is drawn to the teacher's. Several teachers are one: the
mean of their distributions, whose knowledge of the tokens near the gold, and of questions without an answer, no gold carries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.batching import Batch
from model.checkpoint import CheckpointError, locate
from model.objective import log_normaliser
from model.reader import CheckpointReader, resolve_dtype
from model.tokenizer import Tokenizer


class Teachers:
    """Checkpoints that predict together, each in the dtype that is fastest on this machine."""

    def __init__(self, checkpoints: Sequence[str], tokenizer: Tokenizer):
        """Loads them. Raises CheckpointError for one that can't be loaded, or whose tokenizer is not the student's."""
        self._readers = [CheckpointReader(locate(name), dtype=resolve_dtype("auto", "auto")) for name in checkpoints]
        for name, reader in zip(checkpoints, self._readers, strict=True):
            reader.load()
            if not reader.tokenizer().equals(tokenizer):
                raise CheckpointError(f"the teacher {name} has another tokenizer than the base: their tokens don't compare")

    def probabilities(self, batch: Batch, normalised: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean start and end distributions over the `normalised` positions of each window, float [B, L] each, 0 elsewhere."""
        with torch.inference_mode():
            logits = [torch.stack(reader.logits(batch)).cpu() for reader in self._readers]
        start, end = torch.stack([log_shares(both, normalised).exp() for both in logits]).mean(0)
        return start, end


def log_shares(logits: torch.Tensor, normalised: torch.Tensor) -> torch.Tensor:
    """The log of a softmax over the `normalised` positions of each window, [..., B, L]; -inf elsewhere."""
    shares = logits - log_normaliser(logits, normalised).unsqueeze(-1)
    return torch.where(normalised, shares, -torch.inf)


def divergence(logits: torch.Tensor, probabilities: torch.Tensor, normalised: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence in nats of a student's softmax from the teachers', [B]: 0 where they agree.

    logits         float [B, L], the student's
    probabilities  float [B, L], the teachers', 0 outside of the `normalised` positions, bool [B, L]
    """
    student = torch.where(normalised, log_shares(logits, normalised), 0.0)
    return (torch.xlogy(probabilities, probabilities) - probabilities * student).sum(-1)
