"""What a CPU computes in another way comes out as torch's own, up to rounding."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForQuestionAnswering
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model.checkpoint import LocalFolder
from model.cpu_network import ATTENTION, attention, quicken
from model.reader import CheckpointReader
from tests.checkpoints import Checkpoint


class Encoder(torch.nn.Module):
    is_causal = False


def states(heads: int = 3, length: int = 45, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(heads * length)
    return torch.randn(4, heads, length, 8, generator=generator).to(dtype)


@pytest.mark.parametrize("length", [1, 31, 32, 45])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_attention_is_torchs(length: int, masked: bool, dtype: torch.dtype, tolerance: float) -> None:
    query, key, value = (states(heads=3, length=length + k, dtype=dtype)[:, :, :length] for k in range(3))
    mask = None
    if masked:
        attended = torch.tensor([length, max(1, length - 3), 1, length])
        mask = (torch.arange(length) < attended[:, None])[:, None, None].expand(4, 1, length, length)
    expected = scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask, scale=0.3)
    result, weights = attention(Encoder(), query, key, value, mask, scaling=0.3)
    assert weights is None
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected.transpose(1, 2), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", ["causal", "shared keys", "additive mask"])
def test_what_attention_is_not_made_for_is_left_to_torch(case: str) -> None:
    query, key, value = states(4), states(2 if case == "shared keys" else 4), states(2 if case == "shared keys" else 4)
    module = torch.nn.Module() if case == "causal" else Encoder()
    module.num_key_value_groups = 2 if case == "shared keys" else 1
    mask = torch.randn(4, 1, 45, 45) if case == "additive mask" else None
    result, _ = attention(module, query, key, value, mask)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask)
    torch.testing.assert_close(result, expected)


def test_every_linear_layer_but_the_heads_is_packed(checkpoint: Checkpoint) -> None:
    network = CheckpointReader(LocalFolder(str(checkpoint.folder)), device="cpu")._network.forward
    plain = [name for name, module in network.named_modules() if type(module) is torch.nn.Linear]
    assert len(plain) == 1, plain
    assert network.get_submodule(plain[0]).out_features == 2


def test_bfloat16_stays_near_float32(checkpoint: Checkpoint) -> None:
    tokens = torch.randint(5, 30, (3, 37), generator=torch.Generator().manual_seed(0))
    attended = (torch.arange(37) < torch.tensor([37, 20, 33])[:, None]).long()
    network = AutoModelForQuestionAnswering.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = network(input_ids=tokens, attention_mask=attended).start_logits
        network.to(torch.bfloat16)
        plain = network(input_ids=tokens, attention_mask=attended).start_logits.float()
        quicken(network)
        quickened = network(input_ids=tokens, attention_mask=attended).start_logits.float()
    kept = attended.bool()
    rounding = (plain - expected)[kept].abs().mean()
    assert (quickened - expected)[kept].abs().mean() < 2 * rounding + 1e-6


def test_networks_with_torchs_attention_get_the_other_one_in_bfloat16_only(checkpoint: Checkpoint) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        network = AutoModelForQuestionAnswering.from_pretrained(checkpoint.folder, dtype=dtype).eval()
        before = network.config._attn_implementation
        quicken(network)
        wanted = ATTENTION if before == "sdpa" and dtype == torch.bfloat16 else before
        assert network.config._attn_implementation == wanted
