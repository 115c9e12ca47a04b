"""Compute start and end probabilities of every token of passages, which other rankings need.

Runs never keep the logits of whole windows, so that the network computes them again here, with
a separate observer.
"""

from __future__ import annotations

import numpy as np
import torch

from model.reading.batching import Batch, Pending
from model.reading.prediction import Logits, predict
from model.reading.reader import Reader
from model.reading.tokenizer import Ragged
from model.reading.windows import Windows


class KeepOwned:
    """An observer that keeps each token's logits in the window that owns the token.

    tokens  for each pair, the indices of its tokens in `windows.passages`
    logits  float32 [2, tokens], in the order of their values
    """

    def __init__(self, windows: Windows):
        bounds = windows.passages.bounds
        self.windows = windows
        self.tokens = Ragged.of(
            [np.arange(bounds[passage], bounds[passage + 1]) for passage in windows.pair_passage]
        )
        self.logits = torch.full((2, len(self.tokens.values)), -torch.inf)

    def take(self, batch: Batch, logits: Logits, chosen: np.ndarray) -> Pending:
        """Keep the logits of one batch; waits for the device, as no observer of a run may."""
        batch, both = batch.to(self.logits.device), torch.stack(logits).cpu()
        position = torch.arange(both.shape[-1])
        # A token near the middle of a window has the most context: that window owns it.
        owned = (
            batch.in_context
            & (2 * position >= batch.owned_low[:, None])
            & (2 * position < batch.owned_high[:, None])
        )
        first = (
            torch.from_numpy(self.tokens.bounds[self.windows.pair[chosen]])
            + batch.passage_start
            - batch.context_start
        )
        self.logits[:, (first[:, None] + position)[owned]] = both[:, owned]
        return Pending()

    def result(self) -> tuple[Ragged, np.ndarray]:
        """Return the tokens of every pair, and their probabilities, float32 [2, tokens]."""
        probabilities = np.zeros(self.logits.shape, np.float32)
        for pair in np.flatnonzero(self.windows.counts).tolist():
            held = slice(self.tokens.bounds[pair], self.tokens.bounds[pair + 1])
            probabilities[:, held] = torch.softmax(self.logits[:, held], 1).numpy()
        return self.tokens, probabilities


def token_probabilities(
    reader: Reader, windows: Windows, batch_tokens: int
) -> tuple[Ragged, np.ndarray]:
    """Return the tokens of every pair, and their probabilities as starts and ends of an answer.

    The Ragged holds, for each pair, the indices of its tokens in `windows.passages`. Probabilities
    are float32 [2, tokens], in the order of its values: one softmax over the passage, each token
    with the logits of its owner. Raises what `predict` raises, and RuntimeError if a window failed.
    """
    keep = KeepOwned(windows)
    failures = predict(reader, windows, batch_tokens, [keep]).failures
    if failures:
        raise RuntimeError(f"{len(failures)} pairs failed: {next(iter(failures.values()))}")
    return keep.result()
