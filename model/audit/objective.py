"""The objective of a span predictor: the one loss that training minimises and the audit measures.

Xiao & Zhu, "Foundations of Large Language Models" (arXiv:2501.09223), section 1.4, Eq. 1.24: with
labels u_j (start) and v_j (end) over the n tokens of the context passage,

    Loss = -(1/n) sum_j (log p_j^beg + log p_j^end),

summed: "the negative log-likelihoods of both networks".

The equation has two consistent readings:

`categorical`  (BERT: softmax over positions)  -sum_j (u_j log p_j^beg + v_j log p_j^end)
               = (lse(a) - a_{j1}) + (lse(b) - b_{j2})
`tokenwise`    (sequence labelling) binary cross-entropy of start and of end over the same n tokens

Two more objectives model the span as a whole (Fajcik, Jon & Smrz 2021, arXiv:2008.12804). S is the
set of valid spans that the decoder chooses from:

`joint`        -log P(gold span) = lse_{(i, j) in S}(a_i + b_j) - (a_{j1} + b_{j2})
`compound`     joint + categorical

Shapes: B examples (or windows), L positions. Logits are float [..., L]; every function computes in
float32 or wider, in log space. `support` is bool [B, L] and marks the context's tokens. A `null`
position (the classifier token) may enter a softmax's normaliser, but neither n nor a tokenwise sum.
`where` excludes positions; a product with zero would turn their infinities into nan.
"""

from __future__ import annotations

import torch
from torch.nn.functional import softplus


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """Return the logits in float64 if they are, else in float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def log_normaliser(logits: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Return the logsumexp over the support, [B]; -inf where it is empty.

    Logits [B, L], support bool [B, L].
    """
    logits = _wide(logits)
    return torch.logsumexp(torch.where(support, logits, -torch.inf), -1)


def categorical(
    logits: torch.Tensor, target: torch.Tensor, normaliser: torch.Tensor
) -> torch.Tensor:
    """Return -log p of the target under a softmax, in nats: lse(a) - a_target, [B].

    logits      [B, L]
    target      int64 [B], the position of the gold token, or of the classifier token for a null
                target
    normaliser  [B], from `log_normaliser` over a window, or over a whole passage (shared
                normalisation)
    """
    return normaliser - _wide(logits).gather(-1, target.unsqueeze(-1)).squeeze(-1)


def joint(
    span_score: torch.Tensor, log_mass: torch.Tensor, null_score: torch.Tensor | None = None
) -> torch.Tensor:
    """Return -log P of a span under the softmax over all valid spans, in nats, [B].

    This is the decoder's posterior at T = 1. For a null target the null score is also the span
    score.

    span_score  [B], start logit + end logit of the gold
    log_mass    [B], logsumexp of the scores of all valid spans, from
                `model.reading.spans.span_log_mass`
    null_score  [B], start logit + end logit of the null option; None if it is off
    """
    log_mass, span_score = _wide(log_mass), _wide(span_score)
    if null_score is not None:
        log_mass = torch.logaddexp(log_mass, _wide(null_score))
    return log_mass - span_score


def log_one_minus(logits: torch.Tensor, normalised: torch.Tensor) -> torch.Tensor:
    """Return log(1 - p_j) under the softmax over the `normalised` positions, [B, L]; 0 elsewhere.

    log1p(-p) loses all digits as p approaches 1, which only the p of the largest logit can do. For
    that position the value is the logsumexp of all others minus the logsumexp of all: log 2 - 40 at
    logits (40, 0, 0), where log1p(-p) would be -inf.
    """
    logits = torch.where(normalised, _wide(logits), -torch.inf)
    whole = torch.logsumexp(logits, -1, keepdim=True)
    is_top = torch.zeros_like(normalised).scatter(-1, logits.argmax(-1, keepdim=True), True)
    others = normalised & ~is_top
    share = torch.exp(torch.where(others, logits - whole, -torch.inf))
    left_out = torch.logsumexp(torch.where(others, logits, -torch.inf), -1, keepdim=True)
    return torch.where(is_top & normalised, left_out - whole, torch.log1p(-share))


def tokenwise(
    logits: torch.Tensor,
    target: torch.Tensor,
    support: torch.Tensor,
    link: str,
    normalised: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return binary cross-entropy in nats, summed over the support, [B].

    The target's label is 1, that of every other token 0.

    target      int64 [B]; one outside the support (negative, or the classifier token) labels every
                token 0
    link        "sigmoid": p_j = sigmoid(a_j), terms logsigmoid(+-a_j)
                "softmax": p_j is the softmax over the `normalised` positions (the support, plus
                null where it is on)
    """
    logits = _wide(logits)
    labelled = torch.zeros_like(support).scatter(-1, target.clamp(min=0).unsqueeze(-1), True)
    labelled = labelled & support & (target >= 0).unsqueeze(-1)
    if link == "sigmoid":
        terms = softplus(torch.where(labelled, -logits, logits))
    else:
        normalised = support if normalised is None else normalised
        positive = log_normaliser(logits, normalised).unsqueeze(-1) - torch.where(
            labelled, logits, 0.0
        )
        terms = torch.where(labelled, positive, -log_one_minus(logits, normalised))
    return torch.where(support, terms, 0.0).sum(-1)


def merge_log_masses(values: torch.Tensor, group: torch.Tensor, groups: int) -> torch.Tensor:
    """Return the logsumexp of the values of each group, [groups]; -inf for an empty group.

    This merges window normalisers to passage normalisers: shared normalisation, Clark & Gardner
    2018 (arXiv:1710.10723), section 3. values float [W], group int64 [W].
    """
    values = _wide(values)
    # Subtracting each group's largest value, if it is finite, keeps `exp` from overflowing.
    highest = values.new_full((groups,), -torch.inf).scatter_reduce(
        0, group, values.detach(), "amax"
    )
    base = torch.where(torch.isfinite(highest), highest, 0.0)
    total = values.new_zeros(groups).index_add(0, group, torch.exp(values - base[group]))
    return torch.where(total > 0, torch.log(torch.where(total > 0, total, 1.0)) + base, -torch.inf)
