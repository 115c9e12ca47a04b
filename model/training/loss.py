"""Training losses of a batch of windows, with the objective that the audit measures.

Shapes: B windows, L positions (see `model.reading.batching.Batch`). Targets are int64 [2, B], the
start and end positions in the batch: those of the gold, the classifier's for null, -1 for none.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from model.audit.objective import categorical, log_normaliser, merge_log_masses, tokenwise
from model.reading.batching import Batch
from model.training.data import NULL, TrainingWindows
from model.training.joint import OBJECTIVES, combine, passage_joint, window_joint


def window_loss(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    batch: Batch,
    targets: torch.Tensor,
    options: argparse.Namespace,
) -> torch.Tensor:
    """Return the loss of each window in nats, [B]: nll_start + nll_end, or that of the objective.

    Logits are float32 [B, L]; every window has a target.
    """
    context, normalised = batch.in_context, normalised_positions(batch, options.null)
    losses = []
    for logits, target in zip((start_logits, end_logits), targets, strict=True):
        if options.objective == "tokenwise":
            losses.append(tokenwise(logits, target, context, options.link, normalised))
        else:
            losses.append(categorical(logits, target, log_normaliser(logits, normalised)))
    nll = losses[0] + losses[1]
    if options.objective not in OBJECTIVES:
        return nll
    longest = options.max_answer_length
    parts = window_joint((start_logits, end_logits), batch, targets, options.null, longest)
    return combine(options.objective, *parts, nll, torch.ones_like(parts[1]))


def normalised_positions(batch: Batch, null: bool) -> torch.Tensor:
    """Return the positions of a window's softmax, bool [B, L].

    These are the context tokens and, with the null option, the classifier token.
    """
    if not null or batch.classifier is None:
        return batch.in_context
    return batch.in_context.scatter(1, batch.classifier[:, None], True)


def passage_loss(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    batch: Batch,
    targets: torch.Tensor,
    group: torch.Tensor,
    options: argparse.Namespace,
) -> torch.Tensor:
    """Return one loss per group with a gold, then one per window with a null target, in nats.

    Shared normalisation (Clark & Gardner 2018, arXiv:1710.10723): the gold's probability comes from
    one softmax over the tokens of all windows of its group, as the audit measures it over a
    passage. The null logits of the group are those of the window with the least null score. A
    window with a null target has a softmax of its own. Without `options.null` the null losses are
    left out.

    logits float32 [B, L], targets int64 [2, B], group int64 [B].
    """
    # A token is counted in the window that owns it, since overlapping windows repeat tokens.
    position = torch.arange(start_logits.shape[1])
    owned = (
        batch.in_context
        & (2 * position >= batch.owned_low[:, None])
        & (2 * position < batch.owned_high[:, None])
    )
    groups, group = torch.unique(group, return_inverse=True)
    total = start_logits.new_zeros(len(groups))
    count = torch.zeros(len(groups), dtype=torch.int64)
    classifier, surest = batch.classifier if options.null else None, None
    if classifier is not None:
        surest = _surest(
            (start_logits + end_logits).detach().gather(1, classifier[:, None]).squeeze(1), group
        )
    # A group has a loss if one of its windows owns the gold's start and one owns its end.
    for logits, target in zip((start_logits, end_logits), targets, strict=True):
        # The normaliser merges the windows' masses and, as one more term, the null logit.
        masses, member = log_normaliser(logits, owned), group
        if surest is not None and classifier is not None:
            masses = torch.cat([masses, logits[surest, classifier[surest]]])
            member = torch.cat([group, group[surest]])
        normaliser = merge_log_masses(masses, member, len(groups))
        # A negative target is clamped to be a valid index; `holds` excludes it from the sum.
        inside = categorical(logits, target.clamp(min=0), normaliser[group])
        holds = (target >= 0) & owned.gather(1, target.clamp(min=0)[:, None]).squeeze(1)
        total = total.index_add(0, group, torch.where(holds, inside, 0.0))
        count = count.index_add(0, group, holds.long())
    has = count == 2
    if options.objective in OBJECTIVES:
        longest = options.max_answer_length
        both = start_logits, end_logits
        parts = passage_joint(both, batch, targets, group, surest, longest)
        total, has = combine(options.objective, *parts, total, has), has | parts[1]
    losses = total[has]

    # A window with a null target has the classifier token in a softmax of its own.
    if classifier is None:
        return losses
    null_targets = torch.stack([classifier, classifier])
    null_losses = window_loss(start_logits, end_logits, batch, null_targets, options)
    return torch.cat([losses, null_losses[targets[0] == classifier]])


def _surest(null_score: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Return each group's window with the least null score, the first of equals; int64 [groups]."""
    order = np.lexsort((null_score.numpy(), group.numpy()))
    return torch.from_numpy(order[np.unique(group.numpy()[order], return_index=True)[1]])


def targets_of(
    examples: TrainingWindows, chosen: np.ndarray, batch: Batch, null: bool
) -> torch.Tensor:
    """Return the targets of the windows `chosen` (int64 [B]), which `batch` holds, int64 [2, B].

    A null target is the classifier's position with the null option, -1 without.
    """
    # Passage tokens become positions of the batch by the same shift for a whole window.
    shift = batch.context_start - batch.passage_start
    none = torch.full((len(chosen),), -1)
    classifier = batch.classifier if null and batch.classifier is not None else none
    both = [torch.from_numpy(side[chosen]) for side in (examples.start, examples.end)]
    return torch.stack(
        [
            torch.where(side >= 0, side + shift, torch.where(side == NULL, classifier, none))
            for side in both
        ]
    )
