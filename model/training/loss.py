"""What a training minimises: the losses of a batch of windows, with the objective that the audit measures."""

from __future__ import annotations

import argparse

import numpy as np
import torch

from model.audit.objective import categorical, log_normaliser, merge_log_masses, tokenwise
from model.reading.batching import Batch
from model.training.data import NULL, Examples


def window_loss(
    start_logits: torch.Tensor, end_logits: torch.Tensor, batch: Batch, targets: torch.Tensor, options: argparse.Namespace
) -> torch.Tensor:
    """nll_start + nll_end of each window, [B]; targets int64 [2, B], batch positions (the classifier's for null)."""
    context, normalised = batch.in_context, normalised_positions(batch, options.null)
    losses = []
    for logits, target in zip((start_logits, end_logits), targets, strict=True):
        if options.objective == "tokenwise":
            losses.append(tokenwise(logits, target, context, options.link, normalised))
        else:
            losses.append(categorical(logits, target, log_normaliser(logits, normalised)))
    return losses[0] + losses[1]


def normalised_positions(batch: Batch, null: bool) -> torch.Tensor:
    """Where a window's softmax has its mass: the context's tokens and, with the null option, the classifier's; bool [B, L]."""
    if not null or batch.classifier is None:
        return batch.in_context
    return batch.in_context.scatter(1, batch.classifier[:, None], True)


def passage_loss(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    batch: Batch,
    targets: torch.Tensor,
    group: torch.Tensor,
    null: bool,
) -> torch.Tensor:
    """One loss for each group with a gold, in the order of the groups, then one for each window without; groups int64 [B].

    Shared normalisation (Clark & Gardner 2018, arXiv:1710.10723): a gold's share is that of one softmax over the tokens of
    all windows of its group, as the audit measures it over a passage, null logits from the window that is surest of an
    answer. Windows without the gold learn the null option each for itself. targets int64 [2, B], -1 for none.
    """
    place = torch.arange(start_logits.shape[1])
    owned = batch.in_context & (2 * place >= batch.owned_low[:, None]) & (2 * place < batch.owned_high[:, None])
    groups, group = torch.unique(group, return_inverse=True)
    total = start_logits.new_zeros(len(groups))
    count = start_logits.new_zeros(len(groups))
    classifier = batch.classifier if null else None
    if classifier is not None:
        surest = _surest((start_logits + end_logits).detach().gather(1, classifier[:, None]).squeeze(1), group)
    for logits, target in zip((start_logits, end_logits), targets, strict=True):
        masses, member = log_normaliser(logits, owned), group
        if classifier is not None:
            masses = torch.cat([masses, logits[surest, classifier[surest]]])
            member = torch.cat([group, group[surest]])
        normaliser = merge_log_masses(masses, member, len(groups))
        inside = categorical(logits, target.clamp(min=0), normaliser[group])
        holds = (target >= 0) & owned.gather(1, target.clamp(min=0)[:, None]).squeeze(1)
        total = total.index_add(0, group, torch.where(holds, inside, 0.0))
        count = count.index_add(0, group, holds.float())
    losses = total[count == 2]
    if classifier is None:
        return losses
    normalised = normalised_positions(batch, null)
    sides = [categorical(logits, classifier, log_normaliser(logits, normalised)) for logits in (start_logits, end_logits)]
    null_nll = sides[0] + sides[1]
    return torch.cat([losses, null_nll[targets[0] == classifier]])


def _surest(null_score: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """The window of each group with the least null score, the first of equals, int64 [groups]."""
    order = np.lexsort((null_score.numpy(), group.numpy()))
    return torch.from_numpy(order[np.unique(group.numpy()[order], return_index=True)[1]])


def targets_of(examples: Examples, chosen: np.ndarray, batch: Batch, null: bool) -> torch.Tensor:
    """Batch positions of the targets, int64 [2, B]; the classifier's for null; -1 for none."""
    shift = batch.context_start - batch.passage_start
    none = torch.full((len(chosen),), -1)
    classifier = batch.classifier if null and batch.classifier is not None else none
    both = [torch.from_numpy(side[chosen]) for side in (examples.start, examples.end)]
    return torch.stack([torch.where(side >= 0, side + shift, torch.where(side == NULL, classifier, none)) for side in both])
