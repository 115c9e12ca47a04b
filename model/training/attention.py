"""Attention for training on a CPU in bfloat16.

There, the gradient of torch's fused attention takes several times as long as that of plain
products (benchmarks/LOG.md, "A step of training").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from model.backends.cpu_network import key_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "spanmill_training"


def use_plain_products(network: PreTrainedModel) -> None:
    """Make a network compute attention with `attention`; no-op unless it uses torch's."""
    if network.config._attn_implementation != "sdpa":
        return
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, key_mask)
    network.set_attn_implementation(ATTENTION)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """Compute softmax attention, one example after the other so that its scores stay in the cache.

    query           [B, heads, L, D]
    key, value      [B, heads, K, D]
    attention_mask  bool [B, 1, 1, K] or [B, 1, L, K], True where to attend, or None

    Returns [B, L, heads, D], and None for the weights. The signature is that of transformers'
    attention functions, so that `AttentionInterface` can call it. Causal attention, biases, other
    masks and heads that share keys are left to torch.
    """
    # Leave to torch what this does not compute.
    causal = attention_mask is None and query.shape[2] > 1 and getattr(module, "is_causal", True)
    other_mask = attention_mask is not None and attention_mask.dtype != torch.bool
    biased = more.get("position_bias") is not None
    if causal or other_mask or biased or query.shape[1] != key.shape[1]:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **more
        )

    # `far` is added to the scores: 0, or the lowest number for a masked key.
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    query, key, value = (query * scaling).contiguous(), key.contiguous(), value.contiguous()
    far = query.new_zeros(len(query), 1, 1, 1)
    if attention_mask is not None:
        lowest = torch.finfo(query.dtype).min
        far = far.expand_as(attention_mask).masked_fill(~attention_mask, lowest)
    results = []
    # `unbind`, because the gradient of an index is a tensor of zeros as large as the batch.
    for far_k, query_k, key_k, value_k in zip(
        *(tensor.unbind() for tensor in (far, query, key, value)), strict=True
    ):
        scores = torch.baddbmm(far_k, query_k, key_k.transpose(1, 2))
        weights = torch.nn.functional.dropout(torch.softmax(scores, -1), dropout)
        results.append(torch.bmm(weights, value_k))
    return torch.stack(results).transpose(1, 2).contiguous(), None
