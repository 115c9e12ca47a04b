"""A network's products and attention as a CPU does them fastest: the same results up to rounding.

What this machine's core, oneDNN or C library does not have, or computes differently, stays torch's own; one line of the log
says so.

torch leaves float32 products to MKL, which is slow on other makers' cores, and lays weights out anew for every product in
bfloat16. Its attention goes over all scores for their maximum, their sum and their share of it. benchmarks/LOG.md has the
figures.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger("spanmill")

ATTENTION = "spanmill_cpu"
_MORE_COLUMNS = 8
"""That values get beside their own: the first of ones, the others of zeros, for products of a whole number of vectors."""
_FAR = 2.0**60
"""Sums of exponentials up to here, and down to its inverse, are well within the range of float32 and bfloat16."""
_MALLOC = {-1: 2**29, -2: 2**26, -3: 2**25}
"""malloc.h's M_TRIM_THRESHOLD, above what a batch takes; M_TOP_PAD, the size of a thread's heap, below which glibc gives none
back; M_MMAP_THRESHOLD, the highest that it takes."""
_EXPECTED_TOKENS = 4096
"""How many tokens a product will have: a hint for the layout of weights."""
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""How far two ways to compute the same may be apart, as a share of the largest result."""
_TRIED_TOKENS = 16


def multiplies_bfloat16() -> bool:
    """Whether oneDNN is there, and computes products in bfloat16 with this core's instructions."""
    return _has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _has_onednn() -> bool:
    switched_on = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return switched_on and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def quicken(network: PreTrainedModel) -> None:
    """Changes a loaded network in place, for inference on a CPU in float32 or bfloat16.

    Every layer is tried when it is changed. A layer of another kind, or one whose faster product fails or differs on this
    machine, remains as it is.
    """
    if network.dtype not in (torch.float32, torch.bfloat16):
        return
    _keep_memory()
    _pack(network)
    if (
        network.dtype == torch.bfloat16
        and network.config._attn_implementation == "sdpa"
        and _attention_is_torchs()
    ):
        from transformers import AttentionInterface, AttentionMaskInterface

        AttentionInterface.register(ATTENTION, attention)
        AttentionMaskInterface.register(ATTENTION, key_mask)
        network.set_attn_implementation(ATTENTION)


def _pack(network: PreTrainedModel) -> None:
    """Replaces linear layers by packed ones, and makes GELU a part of the product before it."""
    from transformers.activations import GELUActivation

    unpacked: list[str] = []
    for module in list(network.modules()):
        # how transformers' encoders name a feed-forward layer and what follows it
        gelu = isinstance(getattr(module, "intermediate_act_fn", None), GELUActivation)
        for name, layer in module.named_children():
            # by its exact class: a subclass may compute something else; heads have hooks, and next to no work
            if (
                type(layer) is not torch.nn.Linear
                or layer.weight.dtype != network.dtype
                or layer._forward_pre_hooks
            ):
                continue
            activation = "gelu" if gelu and name == "dense" else "none"
            try:
                setattr(module, name, _PackedLinear(layer, activation))
            except (RuntimeError, ArithmeticError) as error:
                unpacked.append(str(error))
                continue
            if activation == "gelu":
                module.intermediate_act_fn = torch.nn.Identity()
    if unpacked:
        of_bfloat16 = network.dtype == torch.bfloat16
        dtype, hint = ("bfloat16", " (float32 may be faster)") if of_bfloat16 else ("float32", "")
        _log.info(
            "%s on this CPU: %d products remain torch's own%s: %s",
            dtype,
            len(unpacked),
            hint,
            unpacked[0],
        )


@cache
def _attention_is_torchs() -> bool:
    """Whether `attention` gives what torch's own does, on a few random heads in bfloat16, some of their keys masked."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 24, 16, generator=generator).to(torch.bfloat16)
    mask = (torch.arange(24) < torch.tensor([24, 9])[:, None])[:, None, None]
    try:
        with torch.inference_mode():
            result, _ = attention(torch.nn.Identity(), query, key, value, mask)
            expected = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask
            )
            _check_near(result, expected.transpose(1, 2))
    except (RuntimeError, ArithmeticError) as error:
        _log.info("bfloat16 on this CPU: attention remains torch's own: %s", error)
        return False
    return True


def _check_near(result: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises ArithmeticError if two results in one dtype differ by more than that dtype's rounding."""
    most = _ROUNDING[expected.dtype] * expected.abs().max().item()
    if not torch.allclose(result.float(), expected.float(), rtol=0, atol=most, equal_nan=True):
        raise ArithmeticError(
            f"results differ from torch's own by up to {(result - expected).abs().max().item():.2g}"
        )


def _keep_memory() -> None:
    """Lets glibc keep what a batch gives back for the next one, instead of getting it from the system again page by page.

    Without, the same few megabytes come and go with every layer. What the user has set is kept, and other C libraries have no
    such setting.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        _log.info(
            "memory: this C library has no mallopt, batches get theirs from the system every time"
        )
        return
    for setting, size in _MALLOC.items():
        mallopt(setting, size)


class _PackedLinear(torch.nn.Module):
    """A linear layer whose weights were laid out for oneDNN's product once.

    activation  "gelu" or "none"; part of the product

    Raises RuntimeError where oneDNN has no such product, ArithmeticError where its results on a few tokens are not the layer's.
    """

    def __init__(self, layer: torch.nn.Linear, activation: str = "none"):
        super().__init__()
        if not _has_onednn():
            raise RuntimeError("oneDNN is switched off or not in this torch")
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias, self.activation = layer.bias, activation
        self.weight: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(
            layer.weight.detach(), _EXPECTED_TOKENS
        )
        tokens = torch.randn(
            _TRIED_TOKENS, layer.in_features, generator=torch.Generator().manual_seed(0)
        ).to(layer.weight.dtype)
        with torch.inference_mode():
            expected = layer(tokens)
            _check_near(
                self(tokens),
                torch.nn.functional.gelu(expected) if activation == "gelu" else expected,
            )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(
            inputs, self.weight, self.bias, self.activation, [], "none"
        )


def key_mask(mask_function: Callable[..., Any], **of: Any) -> torch.Tensor | None:
    """The mask that `attention` takes: bool [B, 1, 1, K] where all queries attend to the same keys, else [B, 1, L, K]."""
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    mask = sdpa_mask(mask_function=mask_function, **of)
    return (
        mask if mask is None or mask_function is not bidirectional_mask_function else mask[:, :, :1]
    )


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Softmax attention, one example after the other so that its scores stay in the cache.

    Exponentials are neither shifted by a row's maximum nor divided by its sum: values have a column of ones, so that the
    product with them gives the sums too, and what is divided is the result. Masked keys have values of zero.

    query [B, heads, L, D], key and value [B, heads, K, D], attention_mask bool [B, 1, 1, K], True where to attend, or None.
    Returns [B, L, heads, D]. Heads whose sums are too large or too small for that get the usual softmax, of scores in float32.
    What it isn't made for goes to torch's own: other masks, biases, heads that share keys.
    """
    causal = attention_mask is None and query.shape[2] > 1 and getattr(module, "is_causal", True)
    other_mask = attention_mask is not None and (
        attention_mask.dtype != torch.bool or attention_mask.shape[2] > 1
    )
    biased = more.get("position_bias") is not None
    if causal or other_mask or biased or query.shape[1] != key.shape[1]:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    result, sums = _attention(query, key, value, attention_mask, scaling)
    far = ~((sums >= 1 / _FAR) & (sums <= _FAR)).all(2).squeeze(2)  # [B, heads]; nan is far too
    for example, head in far.nonzero().tolist():
        scores = torch.matmul(query[example, head].float() * scaling, key[example, head].float().T)
        if attention_mask is not None:
            scores.masked_fill_(~attention_mask[example, 0], -torch.inf)
        result[example, head] = torch.matmul(
            torch.softmax(scores, -1).to(value.dtype), value[example, head]
        )
    return result.transpose(1, 2).contiguous(), None


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The result [B, heads, L, D], and the sums of the exponentials [B, heads, L, 1]."""
    size, keys = value.shape[3], key.shape[2]
    query, key = (query * (scaling * math.log2(math.e))).contiguous(), key.contiguous()
    attended = value.new_ones(1, 1, 1, 1) if mask is None else mask.to(value.dtype).transpose(2, 3)
    values = value.new_zeros(*value.shape[:3], size + _MORE_COLUMNS)
    values[..., :size] = value * attended
    values[..., size : size + 1] = attended
    weights = query.new_empty(*query.shape[1:3], keys)
    result = query.new_empty(*query.shape[:3], size + _MORE_COLUMNS)
    for k in range(len(query)):
        torch.bmm(query[k], key[k].transpose(1, 2), out=weights)
        torch.bmm(weights.exp2_(), values[k], out=result[k])
    sums = result[..., size : size + 1]
    return result[..., :size] / sums, sums
