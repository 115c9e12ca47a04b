"""Linear layers in int8 on a CPU, for cores that do not multiply bfloat16.

Weights have one scale per output channel, and inputs one per token, computed as they come. A few
tokens of an encoder have inputs ten times as large as the others: one scale for all of a batch
changes answers (benchmarks/LOG.md). One per token also makes a token's result independent of the
rest of the batch.

A few channels are as large. Inputs are therefore divided, and weights multiplied, by a factor per
input channel that shares the range between both (SmoothQuant: Xiao et al. 2022, arXiv:2211.10438,
equation 4 with strength 0.5).
"""

from __future__ import annotations

import torch

_MOST_INPUT, _MOST_WEIGHT = 127, 63
"""Largest absolute values of inputs and weights as integers.

Without VNNI a core adds two products of an input in 0 to 255 and a weight in 16 bits, which hold
2 * 255 * 63, but not 2 * 255 * 127.
"""

_ZERO = 128
"""The unsigned value of an input of 0: oneDNN's products take unsigned inputs."""

_SMALLEST = 1e-30
"""The least maximum that is divided by, for tokens and channels that are all zero."""

_LEAST = 1e-5
"""The least largest value of a channel, for channels that are all zero."""

EXPECTED_TOKENS = 4096
"""Tokens per product: a hint for the layout of weights."""

_EXACT = 1e-5
"""Largest difference of a product of integers from the true one, as a share of the largest."""

TRIED_TOKENS = 16
"""Tokens on which a new layer is compared with torch's."""


class Int8Linear(torch.nn.Module):
    """A linear layer whose product is computed in int8; inputs, bias and results are float32.

    largest     largest absolute input by channel, [in_features], of some typical tokens
    activation  "gelu" or "none"

    Raises RuntimeError if this torch or core has no such product, ArithmeticError if it is wrong.
    """

    def __init__(self, layer: torch.nn.Linear, largest: torch.Tensor, activation: str = "none"):
        super().__init__()
        if not hasattr(torch.ops.onednn, "qlinear_prepack"):
            raise RuntimeError("this torch has no int8 products")
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.activation = activation
        weight = layer.weight.detach()
        factors = (largest.clamp_min(_LEAST) / weight.abs().amax(0).clamp_min(_LEAST)).sqrt()
        weight = weight * factors
        self._divided = factors.reciprocal()
        self.bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        self._scales = weight.abs().amax(1).clamp_min_(_SMALLEST).div_(_MOST_WEIGHT)
        self._zero_points = torch.zeros(len(weight), dtype=torch.int32)
        whole = (weight / self._scales[:, None]).round_()
        self._weight: torch.Tensor = torch.ops.onednn.qlinear_prepack(
            whole.to(torch.int8), [EXPECTED_TOKENS, self.in_features]
        )
        self._check(whole)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return activation(inputs W^T + bias), [..., out_features]."""
        tokens = inputs.reshape(-1, self.in_features) * self._divided
        # amax and amin use vector instructions; vector_norm and aminmax do not.
        largest = torch.maximum(tokens.amax(1, True), tokens.amin(1, True).neg_())
        scales = largest.clamp_min_(_SMALLEST).div_(_MOST_INPUT)
        signed = tokens.mul_(scales.reciprocal()).round_().to(torch.int8)
        whole = signed.view(torch.uint8).add_(_ZERO)  # overflows from -1 to 127
        result = self._product(whole).mul_(scales).add_(self.bias)
        if self.activation == "gelu":
            torch.ops.aten.gelu_(result)
        return result.view(*inputs.shape[:-1], self.out_features)

    def _product(self, whole: torch.Tensor) -> torch.Tensor:
        """Return (whole - _ZERO) W^T, float32; whole is uint8 [n, in_features]."""
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            *(whole, 1.0, _ZERO),
            *(self._weight, self._scales, self._zero_points),
            *(None, 1.0, 0, torch.float32),
            *("none", [], "none"),
        )
        return product

    def _check(self, weight: torch.Tensor) -> None:
        """Raise ArithmeticError unless products are exact; weight holds the integers as float32."""
        generator = torch.Generator().manual_seed(0)
        shape = (TRIED_TOKENS, self.in_features)
        tokens = torch.randint(-_MOST_INPUT, _MOST_INPUT + 1, shape, generator=generator)
        tokens[0] = _MOST_INPUT  # the largest sums
        expected = tokens.float() @ weight.T * self._scales
        with torch.inference_mode():
            apart = (self._product((tokens + _ZERO).to(torch.uint8)) - expected).abs().max()
        if not apart <= _EXACT * expected.abs().max():
            raise ArithmeticError(f"int8 products differ from the true ones by up to {apart:.2g}")
