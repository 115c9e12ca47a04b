"""Start and end probability of every token of a passage: what a person wants to see of a few examples.

Runs never keep the logits of whole windows, so the windows of these examples are passed through the network again here.
"""

from __future__ import annotations

import numpy as np
import torch

from model.batching import Batch
from model.objective import log_normaliser
from model.prediction import each_batch
from model.reader import Reader
from model.tokenizer import Ragged
from model.windows import Windows


def token_probabilities(
    reader: Reader, windows: Windows, null: bool, batch_tokens: int
) -> tuple[Ragged, np.ndarray, dict[int, str]]:
    """The tokens of every pair, their probabilities under the start and the end network (float32 [2, tokens]), and failures.

    One softmax over the passage, each token with the logits of its owner, and the null option's where it is on: the
    probability of a gold's first token is exp(-nll_start). The Ragged holds, for each pair, the places of its tokens in
    `windows.passages`; probabilities are in the order of its values, and 0 for a pair without windows or with a failure, which
    is what the network said: pair -> message. Raises what `each_batch` raises.
    """
    bounds = windows.passages.bounds
    tokens = Ragged.of([np.arange(bounds[passage], bounds[passage + 1]) for passage in windows.pair_passage])
    logits = torch.full((2, len(tokens.values)), -torch.inf)
    nulls = torch.full((2, len(windows)), torch.inf)

    def keep_owned(batch: Batch, start_logits: torch.Tensor, end_logits: torch.Tensor, chosen: np.ndarray) -> None:
        both = torch.stack([start_logits, end_logits]).cpu()
        place = torch.arange(both.shape[-1])
        owned = batch.in_context & (2 * place >= batch.owned_low[:, None]) & (2 * place < batch.owned_high[:, None])
        first = torch.from_numpy(tokens.bounds[windows.pair[chosen]]) + batch.passage_start - batch.context_start
        logits[:, (first[:, None] + place)[owned]] = both[:, owned]
        if null and batch.classifier is not None:
            nulls[:, chosen] = both[:, torch.arange(len(chosen)), batch.classifier]

    failed, _ = each_batch(reader, windows, batch_tokens, keep_owned)
    failures = {int(windows.pair[window]): message for window, (_, message) in failed.items()}
    found = np.zeros(logits.shape, np.float32)
    for pair in np.setdiff1d(np.flatnonzero(windows.counts), list(failures)).tolist():
        held = slice(tokens.bounds[pair], tokens.bounds[pair + 1])
        mine = logits[:, held]
        normaliser = log_normaliser(mine, torch.isfinite(mine))
        if null:
            of_pair = nulls[:, windows.pair == pair]
            normaliser = torch.logaddexp(normaliser, of_pair[:, of_pair.sum(0).argmin()])
        found[:, held] = torch.exp(mine - normaliser[:, None]).numpy()
    return tokens, found, failures
