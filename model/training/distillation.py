"""Distillation: a span predictor learns from a teacher's predictions, in addition to the golds.

Hinton, Vinyals & Dean 2015 (arXiv:1503.02531): the loss pulls the student's softmax towards the
teacher's. The teacher's distribution carries information that golds lack: how plausible the tokens
near the gold are, and how surely a question has no answer.
"""

from __future__ import annotations

import torch

from model.checkpoint import CheckpointError, locate, read_settings
from model.reading.batching import Batch
from model.reading.reader import CheckpointReader, resolve_dtype
from model.reading.tokenizer import Tokenizer


class Teacher:
    """A trained checkpoint, loaded in the dtype that is fastest on this machine."""

    def __init__(self, checkpoint: str, tokenizer: Tokenizer, max_length: int, null: bool):
        """Load the teacher of a student with this tokenizer, window length and null option.

        Raises CheckpointError or TokenizerError if it can't be loaded, CheckpointError if it can't
        teach this student: another tokenizer, no softmax, no null option, or too few positions.
        """
        self._reader = CheckpointReader(locate(checkpoint), dtype=resolve_dtype("auto", "auto"))
        settings = read_settings(self._reader.folder)
        if not self._reader.tokenizer().equals(tokenizer):
            raise CheckpointError(
                f"the teacher {checkpoint} has another tokenizer than the base: their tokens don't "
                "match"
            )
        if settings.link != "softmax":
            raise CheckpointError(
                f"the teacher {checkpoint} has link {settings.link}: it has no distribution over "
                "tokens"
            )
        if null and not settings.null_trained:
            raise CheckpointError(
                f"the teacher {checkpoint} has no trained null option: train with --no-null"
            )
        # The cheap refusals come before the network is loaded.
        self._reader.load()
        positions = self._reader.positions()
        if positions is not None and positions < max_length:
            raise CheckpointError(
                f"the teacher {checkpoint} takes {positions} tokens, fewer than "
                f"--max_length={max_length}"
            )

    def probabilities(self, batch: Batch, normalised: torch.Tensor) -> torch.Tensor:
        """Return start and end probabilities, float32 [2, B, L], on the host.

        For each window both sum to 1 over the positions in `normalised`, bool [B, L], and are 0
        elsewhere.
        """
        with torch.inference_mode():
            logits = torch.stack(self._reader.logits(batch)).cpu()
        return log_probabilities(logits, normalised).exp()


def log_probabilities(logits: torch.Tensor, normalised: torch.Tensor) -> torch.Tensor:
    """Return the log-softmax over the positions in `normalised`, [..., B, L]; -inf elsewhere.

    logits float [..., B, L], normalised bool [B, L].
    """
    return torch.log_softmax(torch.where(normalised, logits, -torch.inf), -1)


def divergence(
    logits: torch.Tensor, probabilities: torch.Tensor, normalised: torch.Tensor
) -> torch.Tensor:
    """Return the divergence KL(teacher || student) of each window in nats, [..., B].

    logits         float [..., B, L], the student's
    probabilities  float [..., B, L], the teacher's; 0 outside of `normalised`
    normalised     bool [B, L], the positions of both softmaxes
    """
    # Outside the softmax log p is -inf, and its product with 0 would be nan.
    student = torch.where(normalised, log_probabilities(logits, normalised), 0.0)
    return (torch.xlogy(probabilities, probabilities) - probabilities * student).sum(-1)
