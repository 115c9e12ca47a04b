"""Faster products and attention on a CPU, with the same results up to rounding.

What this machine's core, oneDNN or C library does not have, or computes differently, is left to
torch, and one line of the log says so.

torch computes float32 products with MKL, which is slow on cores of other vendors than Intel, and
converts the layout of the weights again for every product in bfloat16. Its attention reads all
scores three times: for their maximum, their sum and the division. benchmarks/LOG.md has the
figures.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from model.backends.int8_layers import EXPECTED_TOKENS, TRIED_TOKENS, Int8Linear
from model.backends.memory import keep_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger("spanmill")

ATTENTION = "spanmill_cpu"

_MORE_COLUMNS = 8
"""Columns added to the values in attention: one of ones, and zeros that fill a SIMD vector."""

_FAR = 2.0**60
"""Sums of exponentials from 1 / _FAR to _FAR are far inside the range of float32 and bfloat16."""

_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest difference between two equivalent results, as a share of the largest value."""

_NO_ONEDNN = "oneDNN is switched off or not in this torch"

_SEEN_TOKENS = (16, 32)
"""Random tokens, [B, L], from which the sizes of the inputs of linear layers are taken."""

_TIMED_TOKENS, _TIMED_TURNS = 1024, 5
"""How many tokens timed layers get, and how often. Fewer would stay in the cache."""

_WORTHWHILE = 1.3
"""How many times as fast layers must be in int8, which changes some answers."""


def multiplies_bfloat16() -> bool:
    """Return whether oneDNN is available and multiplies bfloat16 with this core's instructions."""
    return _has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _has_onednn() -> bool:
    switched_on = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return switched_on and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def int8_is_faster() -> bool:
    """Return whether this CPU computes linear layers in int8 much faster than in float32.

    Times the two layers of a feed-forward network of width 384, with the quantisation of their
    inputs, which takes 0.2 seconds. On a busy machine two calls in different processes may
    disagree.
    """
    tokens = torch.ones(_TIMED_TOKENS, 384)
    seconds: dict[str, list[float]] = {"float32": [], "int8": []}
    # On one thread, whose CPU time does not depend on what else the machine does.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain = [_plain_layer(384, 1536), _plain_layer(1536, 384)]
        networks = {
            "float32": torch.nn.Sequential(*(_PackedLinear(layer) for layer in plain)),
            "int8": torch.nn.Sequential(
                *(Int8Linear(layer, torch.ones(layer.in_features)) for layer in plain)
            ),
        }
        with torch.inference_mode():
            for _ in range(_TIMED_TURNS):
                for dtype, network in networks.items():
                    started = time.thread_time()
                    network(tokens)
                    seconds[dtype].append(time.thread_time() - started)
    except Exception as error:
        _log.info("int8 on this CPU: %s", error)
        return False
    finally:
        torch.set_num_threads(threads)
    return median(seconds["float32"]) > _WORTHWHILE * median(seconds["int8"])


def _plain_layer(inputs: int, outputs: int) -> torch.nn.Linear:
    """Return a layer of ones, without drawing random numbers, which are the caller's."""
    layer = torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs).requires_grad_(False)
    torch.nn.init.ones_(layer.weight)
    torch.nn.init.ones_(layer.bias)
    return layer


def quicken(network: PreTrainedModel) -> None:
    """Make a loaded network faster, in place, for inference on a CPU in float32 or bfloat16.

    Every replacement is tried first. A layer of another kind, or one whose replacement fails or
    gives other results on this machine, is left unchanged.
    """
    if network.dtype not in (torch.float32, torch.bfloat16):
        return
    keep_memory()
    _pack(network)
    in_bfloat16 = network.dtype == torch.bfloat16
    if in_bfloat16 and network.config._attn_implementation == "sdpa" and _attention_is_torchs():
        from transformers import AttentionInterface, AttentionMaskInterface

        AttentionInterface.register(ATTENTION, attention)
        AttentionMaskInterface.register(ATTENTION, key_mask)
        network.set_attn_implementation(ATTENTION)


def quantise(network: PreTrainedModel) -> None:
    """Make the linear layers of a loaded float32 network compute in int8, in place.

    Raises RuntimeError if this machine has no such products, ArithmeticError if they are wrong, and
    what the network raises for random tokens.
    """
    if not _has_onednn():
        raise RuntimeError(_NO_ONEDNN)
    keep_memory()
    layers = list(_linear_layers(network))
    largest = _largest_inputs(network, [layer for _, _, layer, _ in layers])
    for module, name, layer, activation in layers:
        setattr(module, name, Int8Linear(layer, largest[layer], activation))
        if activation == "gelu":
            module.intermediate_act_fn = torch.nn.Identity()


def _largest_inputs(
    network: PreTrainedModel, layers: list[torch.nn.Linear]
) -> dict[torch.nn.Module, torch.Tensor]:
    """Return the largest absolute input of each layer by channel, [in_features], of random tokens.

    Random tokens show which channels are large: less well than text, but none is needed.
    """
    largest: dict[torch.nn.Module, torch.Tensor] = {
        layer: torch.zeros(layer.in_features) for layer in layers
    }

    def see(layer: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        found = inputs[0].reshape(-1, inputs[0].shape[-1]).abs().amax(0)
        largest[layer] = torch.maximum(largest[layer], found)

    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    generator = torch.Generator().manual_seed(0)
    vocabulary = len(network.get_input_embeddings().weight)
    with torch.inference_mode():
        network.base_model(torch.randint(vocabulary, _SEEN_TOKENS, generator=generator))
    for hook in hooks:
        hook.remove()
    return largest


def _linear_layers(
    network: PreTrainedModel,
) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Linear, str]]:
    """Yield the module, name and layer of all but the heads, and the activation to fuse into it."""
    from transformers.activations import GELUActivation

    for module in list(network.modules()):
        # transformers' encoders use these names for a feed-forward layer and its activation.
        gelu = isinstance(getattr(module, "intermediate_act_fn", None), GELUActivation)
        for name, layer in list(module.named_children()):
            # A subclass may compute something else. The heads, which have hooks, cost next to
            # nothing.
            plain = type(layer) is torch.nn.Linear and not layer._forward_pre_hooks
            if plain and layer.weight.dtype == network.dtype:
                yield module, name, layer, "gelu" if gelu and name == "dense" else "none"


def _pack(network: PreTrainedModel) -> None:
    """Replace linear layers by packed ones, and fuse a GELU into the product before it."""
    unpacked: list[str] = []
    for module, name, layer, activation in _linear_layers(network):
        try:
            setattr(module, name, _PackedLinear(layer, activation))
        except (RuntimeError, ArithmeticError) as error:
            unpacked.append(str(error))
            continue
        if activation == "gelu":
            module.intermediate_act_fn = torch.nn.Identity()
    if unpacked:
        level, dtype, hint = logging.INFO, "float32", ""
        if network.dtype == torch.bfloat16:
            level, dtype = logging.WARNING, "bfloat16"
            hint = ", several times slower than in float32 (give --dtype float32 or auto)"
        _log.log(
            level,
            "%s on this CPU: torch computes %d products%s: %s",
            dtype,
            len(unpacked),
            hint,
            unpacked[0],
        )


@cache
def _attention_is_torchs() -> bool:
    """Return whether `attention` agrees with torch's in bfloat16, on a few random masked heads."""
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
        _log.info("bfloat16 on this CPU: torch computes attention: %s", error)
        return False
    return True


def _check_near(result: torch.Tensor, expected: torch.Tensor) -> None:
    """Raise ArithmeticError if two results in one dtype differ by more than its rounding."""
    most = _ROUNDING[expected.dtype] * expected.abs().max().item()
    if not torch.allclose(result.float(), expected.float(), rtol=0, atol=most, equal_nan=True):
        apart = (result - expected).abs().max().item()
        raise ArithmeticError(f"results differ from torch's own by up to {apart:.2g}")


class _PackedLinear(torch.nn.Module):
    """A linear layer whose weights are converted to oneDNN's layout once.

    activation  "gelu" or "none"; fused into the product

    Raises RuntimeError if oneDNN has no such product, ArithmeticError if its results on a few
    tokens are not those of the layer.
    """

    def __init__(self, layer: torch.nn.Linear, activation: str = "none"):
        super().__init__()
        if not _has_onednn():
            raise RuntimeError(_NO_ONEDNN)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias, self.activation = layer.bias, activation
        self.weight: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(
            layer.weight.detach(), EXPECTED_TOKENS
        )
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randn(TRIED_TOKENS, layer.in_features, generator=generator)
        tokens = tokens.to(layer.weight.dtype)
        with torch.inference_mode():
            expected = layer(tokens)
            if activation == "gelu":
                expected = torch.nn.functional.gelu(expected)
            _check_near(self(tokens), expected)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return activation(inputs W^T + bias), [..., out_features]."""
        return torch.ops.mkldnn._linear_pointwise(
            inputs, self.weight, self.bias, self.activation, [], "none"
        )


def key_mask(mask_function: Callable[..., Any], **of: Any) -> torch.Tensor | None:
    """Return the mask that `attention` takes, True where to attend; None if nothing is masked.

    bool [B, 1, 1, K] if all queries attend to the same keys, else [B, 1, L, K].
    """
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    mask = sdpa_mask(mask_function=mask_function, **of)
    if mask is not None and mask_function is bidirectional_mask_function:
        return mask[:, :, :1]
    return mask


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Compute softmax attention, one example after the other so that its scores stay in the cache.

    query           [B, heads, L, D]
    key, value      [B, heads, K, D]
    attention_mask  bool [B, 1, 1, K] or [B, 1, L, K], True where to attend, or None

    Returns [B, L, heads, D], and None for the weights. The signature is that of transformers'
    attention functions, so that `AttentionInterface` can call it.

    Exponentials are not shifted by the maximum of their row, and the result is divided by their sum
    instead of the weights: the values get a column of ones, so that the product with them yields
    the sums too. The values of masked keys are 0, or the exponentials if the mask differs between
    queries. Heads whose sums are too large or too small for that get the usual softmax, in float32.
    Other cases are left to torch: masks by which some token does not attend to itself, biases,
    heads that share keys.
    """
    # Leave to torch what this does not compute.
    causal = attention_mask is None and query.shape[2] > 1 and getattr(module, "is_causal", True)
    other_mask = attention_mask is not None and (
        attention_mask.dtype != torch.bool
        or (attention_mask.shape[2] > 1 and not attention_mask.diagonal(dim1=2, dim2=3).all())
    )
    biased = more.get("position_bias") is not None
    if causal or other_mask or biased or query.shape[1] != key.shape[1]:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    result, sums = _attention(query, key, value, attention_mask, scaling)

    # Recompute the heads whose sums, [B, heads], are too large, too small or nan.
    far = ~((sums >= 1 / _FAR) & (sums <= _FAR)).all(2).squeeze(2)
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
    """Return the result, [B, heads, L, D], and the sums of exponentials, [B, heads, L, 1]."""
    size, keys = value.shape[3], key.shape[2]
    # exp(x) = exp2(x log2 e): the query takes that factor too.
    query, key = (query * (scaling * math.log2(math.e))).contiguous(), key.contiguous()
    attended = value.new_ones(1, 1, 1, 1)
    if mask is not None and mask.shape[2] == 1:  # the same keys for all queries
        attended, mask = mask.to(value.dtype).transpose(2, 3), None
    values = value.new_zeros(*value.shape[:3], size + _MORE_COLUMNS)
    values[..., :size] = value * attended
    values[..., size : size + 1] = attended
    # All examples share one buffer for the scores, which thus stays in the cache.
    weights = query.new_empty(*query.shape[1:3], keys)
    result = query.new_empty(*query.shape[:3], size + _MORE_COLUMNS)
    for k in range(len(query)):
        torch.bmm(query[k], key[k].transpose(1, 2), out=weights)
        weights.exp2_()
        if mask is not None:
            weights *= mask[k]
        torch.bmm(weights, values[k], out=result[k])
    sums = result[..., size : size + 1]
    return result[..., :size] / sums, sums
