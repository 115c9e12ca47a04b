"""Compute start and end probabilities of every token of passages, which other rankings need.

Runs never keep the logits of whole windows, so that the network computes them again here.
"""

from __future__ import annotations

import numpy as np
import torch

from model.reading.batching import Batch
from model.reading.prediction import each_batch
from model.reading.reader import Reader
from model.reading.tokenizer import Ragged
from model.reading.windows import Windows


def token_probabilities(
    reader: Reader, windows: Windows, batch_tokens: int
) -> tuple[Ragged, np.ndarray]:
    """Return the tokens of every pair, and their start and end probabilities, float32 [2, tokens].

    There is one softmax over each passage; each token has the logits of the window that owns it.
    The Ragged has for each pair the indices of its tokens in `windows.passages`; probabilities are
    in the order of its values. Raises what `each_batch` raises, and RuntimeError if a window
    failed.
    """
    bounds = windows.passages.bounds
    tokens = Ragged.of(
        [np.arange(bounds[passage], bounds[passage + 1]) for passage in windows.pair_passage]
    )
    logits = torch.full((2, len(tokens.values)), -torch.inf)

    def keep_owned(
        batch: Batch, start_logits: torch.Tensor, end_logits: torch.Tensor, chosen: np.ndarray
    ) -> None:
        batch, both = batch.to(logits.device), torch.stack([start_logits, end_logits]).cpu()
        index = torch.arange(both.shape[-1])
        # A token near the middle of a window has the most context: that window owns it.
        owned = (
            batch.in_context
            & (2 * index >= batch.owned_low[:, None])
            & (2 * index < batch.owned_high[:, None])
        )
        first = (
            torch.from_numpy(tokens.bounds[windows.pair[chosen]])
            + batch.passage_start
            - batch.context_start
        )
        logits[:, (first[:, None] + index)[owned]] = both[:, owned]

    failed, _ = each_batch(reader, windows, batch_tokens, keep_owned)
    if failed:
        raise RuntimeError(f"{len(failed)} windows failed: {next(iter(failed.values()))}")
    shares = np.zeros(logits.shape, np.float32)
    for pair in np.flatnonzero(windows.counts).tolist():
        inside = slice(tokens.bounds[pair], tokens.bounds[pair + 1])
        shares[:, inside] = torch.softmax(logits[:, inside], 1).numpy()
    return tokens, shares
