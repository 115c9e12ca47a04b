"""Joint and compound losses of a batch of windows: a softmax over spans instead of over tokens.

Fajcik, Jon & Smrz 2021 (arXiv:2008.12804). The joint loss is -log P(gold span) under the decoder's
own posterior at T = 1, so training increases the probability by which answers are ranked. A gold
has a joint loss only if the decoder can choose it: if it has at most `max_answer_length` tokens
and begins and ends where answers may. The other golds are trained with the categorical loss alone.

Shapes: B windows, L positions. Logits are float32 (or wider) [B, L]; targets are int64 [2, B], the
positions of the gold in the batch, the classifier's for null, -1 for none.
"""

from __future__ import annotations

import torch

from model.audit.objective import joint, merge_log_masses
from model.reading.batching import Batch
from model.reading.prediction import Logits
from model.reading.spans import ValidSpans, span_log_mass
from model.reading.windows import UNBOUNDED
from model.training.data import TrainingWindows

OBJECTIVES = ("joint", "compound")
"""Objectives with a joint part."""


def combine(
    objective: str,
    joint_loss: torch.Tensor,
    has_joint: torch.Tensor,
    categorical_loss: torch.Tensor,
    has_categorical: torch.Tensor,
) -> torch.Tensor:
    """Return the losses of an objective from its two parts, all of them [N].

    `compound` is the sum of the parts, `joint` the joint part. Where a gold lacks one part, the
    other part alone is its loss; where it lacks both, the loss is 0.
    """
    wanted = has_categorical if objective == "compound" else has_categorical & ~has_joint
    return torch.where(has_joint, joint_loss, 0.0) + torch.where(wanted, categorical_loss, 0.0)


def window_joint(
    logits: Logits,
    batch: Batch,
    targets: torch.Tensor,
    null: bool,
    max_answer_length: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the joint loss of each window on its own, [B], and whether it has one, bool [B].

    The softmax covers all valid spans in the window and, with `null`, the null option, as if the
    window were the whole passage.
    """
    unbounded = torch.full_like(batch.owned_low, UNBOUNDED)
    valid = ValidSpans(batch.can_start, batch.can_end, -unbounded, unbounded, max_answer_length)
    log_mass = span_log_mass(*logits, valid)
    has = _is_valid(batch, targets, max_answer_length)
    score = _score(*logits, targets)
    if not null or batch.classifier is None:
        return torch.where(has, joint(score, log_mass), 0.0), has
    null_score = _score(*logits, torch.stack([batch.classifier] * 2))
    has = has | (targets[0] == batch.classifier)
    return torch.where(has, joint(score, log_mass, null_score), 0.0), has


def passage_joint(
    logits: Logits,
    batch: Batch,
    targets: torch.Tensor,
    group: torch.Tensor,
    surest: torch.Tensor | None,
    max_answer_length: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the joint loss of each group of windows, [G], and whether it has one, bool [G].

    One softmax covers the valid spans of all windows of a group, each span in the window that owns
    it, as in the passage's posterior. A group has a loss if one of its windows owns the gold.

    group   int64 [B], 0 to G - 1
    surest  int64 [G], the window of each group whose null score is the group's, the least one;
            None if the null option is off
    """
    groups = int(group.max()) + 1
    low, high = batch.owned_low, batch.owned_high
    valid = ValidSpans(batch.can_start, batch.can_end, low, high, max_answer_length)
    log_mass = merge_log_masses(span_log_mass(*logits, valid), group, groups)
    total = targets.sum(0)
    owned = _is_valid(batch, targets, max_answer_length)
    owned = owned & (total >= low) & (total < high)

    # At most one window of a group owns the gold: a sum over the group's windows selects its score.
    score = torch.where(owned, _score(*logits, targets), 0.0)
    score = score.new_zeros(groups).index_add(0, group, score)
    has = torch.zeros(groups, dtype=torch.int64).index_add(0, group, owned.long()) > 0
    null_score = None
    if surest is not None and batch.classifier is not None:
        classifiers = torch.stack([batch.classifier] * 2)
        null_score = _score(*logits, classifiers)[surest]
    return torch.where(has, joint(score, log_mass, null_score), 0.0), has


def golds_without_joint(examples: TrainingWindows, max_answer_length: int) -> tuple[int, int]:
    """Return how many questions have a gold that no decoder may choose, and how many have a gold.

    Only golds that some window holds whole count.
    """
    held = (examples.start >= 0) & (examples.end >= 0)
    windows, start, end = examples.windows, examples.start[held], examples.end[held]
    pair = windows.pair[held]
    base = windows.passages.bounds[windows.pair_passage[pair]]
    valid = (
        windows.passages.can_start[base + start]
        & windows.passages.can_end[base + end]
        & (end - start < max_answer_length)
    )
    return len(set(pair[~valid].tolist())), len(set(pair.tolist()))


def _is_valid(batch: Batch, targets: torch.Tensor, max_answer_length: int) -> torch.Tensor:
    """Return which windows have a gold that the decoder can choose, bool [B]."""
    start, end = targets.clamp(min=0).unsqueeze(2)
    # Answers start and end in the context only, so neither -1 nor the classifier passes.
    allowed = batch.can_start.gather(1, start) & batch.can_end.gather(1, end)
    fits = (end >= start) & (end - start < max_answer_length)
    return (allowed & fits).squeeze(1) & (targets[0] >= 0)


def _score(
    start_logits: torch.Tensor, end_logits: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Return start logit + end logit at positions, int64 [2, B], -1 counting as 0; [B]."""
    start, end = positions.clamp(min=0).unsqueeze(2)
    return (start_logits.gather(1, start) + end_logits.gather(1, end)).squeeze(1)
