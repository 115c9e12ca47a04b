"""A network that costs almost nothing, to measure everything apart from the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from benchmarks.prepared import prepare
from model.reading.batching import Batch
from model.reading.reader import CheckpointReader
from model.reading.tokenizer import Tokenizer


@dataclass(frozen=True)
class FreeReader:
    """A reader with the tokenizer of a checkpoint, and logits from one table of random numbers."""

    checkpoint: CheckpointReader

    @property
    def folder(self) -> Path:
        """The folder of the checkpoint, whose settings the manifest reports."""
        return self.checkpoint.folder

    def load(self) -> None:
        table()

    def tokenizer(self) -> Tokenizer:
        return self.checkpoint.tokenizer()

    def lanes(self) -> int:
        return 1

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        shape = batch.input_ids.shape
        # The end logits are the same table, shifted by one.
        start, end = (table()[k : k + shape.numel()].view(shape) for k in (0, 1))
        return start, end


@cache
def table() -> torch.Tensor:
    """Return float32 [1,000,000] random numbers, seeded."""
    return torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)) * 3


def run_free(arguments: Sequence[str]) -> None:
    """Run one job as `run_pipeline` does, with a network that costs almost nothing."""
    _, run = prepare(arguments, FreeReader)
    run()
