"""A network's products and attention as a CPU does them fastest: the same results up to rounding.

torch leaves float32 products to MKL, which is slow on other makers' cores, and lays weights out anew for every product in
bfloat16. Its fused attention spends most of the time in exponentials of short rows. docs/performance.md has the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "spanmill_cpu"
_VECTOR = 32
"""torch's softmax in bfloat16 is three times as fast on rows of whole vectors of so many numbers."""
_EXPECTED_TOKENS = 4096
"""How many tokens a product will have: a hint for the layout of weights."""


def quicken(network: PreTrainedModel) -> None:
    """Changes a loaded network in place, for inference on a CPU in float32 or bfloat16; leaves what it doesn't know."""
    if not torch.backends.mkldnn.is_available() or network.dtype not in (torch.float32, torch.bfloat16):
        return
    for module in list(network.modules()):
        for name, layer in module.named_children():
            # by its exact class: a subclass may compute something else; heads have hooks, and next to no work
            if type(layer) is torch.nn.Linear and layer.weight.dtype == network.dtype and not layer._forward_pre_hooks:
                setattr(module, name, _PackedLinear(layer))
    if network.dtype == torch.bfloat16 and network.config._attn_implementation == "sdpa":
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        AttentionInterface.register(ATTENTION, attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        network.set_attn_implementation(ATTENTION)


class _PackedLinear(torch.nn.Module):
    """A linear layer whose weights were laid out for oneDNN's product once."""

    def __init__(self, layer: torch.nn.Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.weight: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _EXPECTED_TOKENS)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], "")


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Softmax attention, one example after the other so that its scores stay in the cache; float32 inside of the softmax.

    query [B, heads, L, D], key and value [B, heads, K, D], attention_mask bool [B, 1, L, K], True where to attend, or None.
    Returns [B, L, heads, D]. What it isn't made for (causal masks that go without saying, heads that share keys) goes to
    torch's own.
    """
    causal = attention_mask is None and query.shape[2] > 1 and getattr(module, "is_causal", True)
    if causal or query.shape[1] != key.shape[1] or (attention_mask is not None and attention_mask.dtype != torch.bool):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    missing = -key.shape[2] % _VECTOR
    bias = query.new_zeros(len(query), 1, 1, key.shape[2])
    if attention_mask is not None:
        bias = torch.where(attention_mask, bias, -torch.inf)
    bias = pad(bias, (0, missing), value=-torch.inf)
    key, value = pad(key, (0, 0, 0, missing)), pad(value, (0, 0, 0, missing))
    query = query * (query.shape[3] ** -0.5 if scaling is None else scaling)
    result = query.new_empty(len(query), query.shape[2], query.shape[1], value.shape[3])
    for k in range(len(query)):
        scores = torch.matmul(query[k], key[k].transpose(1, 2)).add_(bias[k])
        result[k] = torch.matmul(torch.softmax(scores, -1), value[k]).transpose(0, 1)
    return result, None
