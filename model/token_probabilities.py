"""Start and end probability of every token of a passage: what a person wants to see of a few examples.

Runs never keep the logits of whole windows, so a few windows are passed through the network again here, one at a time.
"""

from __future__ import annotations

import numpy as np
import torch

from model.batching import assemble
from model.objective import log_normaliser
from model.reader import Reader
from model.tokenizer import Ragged
from model.windows import Windows


def token_probabilities(reader: Reader, windows: Windows, null: bool) -> tuple[Ragged, np.ndarray]:
    """The tokens of every pair, and their probabilities under the start and the end network, float32 [2, tokens].

    One softmax over the passage, each token with the logits of its owner, and the null option's where it is on: the
    probability of a gold's first token is exp(-nll_start). The Ragged holds, for each pair, the places of its tokens in
    `windows.passages`; probabilities are in the order of its values, and 0 for a pair without windows.
    """
    bounds = windows.passages.bounds
    tokens = Ragged.of([np.arange(bounds[passage], bounds[passage + 1]) for passage in windows.pair_passage])
    logits = torch.full((2, len(tokens.values)), -torch.inf)
    nulls = torch.full((2, len(windows.pair_passage)), torch.inf)
    for window in range(len(windows)):
        batch = assemble(windows, np.array([window]))
        with torch.inference_mode():
            both = torch.stack(reader.logits(batch)).cpu()[:, 0]
        place = torch.arange(both.shape[1])
        owned = batch.in_context[0] & (2 * place >= batch.owned_low) & (2 * place < batch.owned_high)
        pair = windows.pair[window]
        first = int(tokens.bounds[pair]) + int(batch.passage_start - batch.context_start)
        logits[:, first + place[owned]] = both[:, owned]
        if null and batch.classifier is not None:
            null_logits = both[:, batch.classifier[0]]
            if null_logits.sum() < nulls[:, pair].sum():
                nulls[:, pair] = null_logits
    found = np.zeros(logits.shape, np.float32)
    for pair in np.flatnonzero(windows.counts).tolist():
        held = slice(tokens.bounds[pair], tokens.bounds[pair + 1])
        mine = logits[:, held]
        normaliser = log_normaliser(mine, torch.isfinite(mine))
        if null:
            normaliser = torch.logaddexp(normaliser, nulls[:, pair])
        found[:, held] = torch.exp(mine - normaliser[:, None]).numpy()
    return tokens, found
