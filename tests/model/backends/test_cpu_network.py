"""The fast paths on a CPU give torch's own results, up to rounding."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from itertools import accumulate, cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
    ModernBertConfig,
    ModernBertForQuestionAnswering,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model.backends import cpu_network
from model.backends.cpu_network import (
    ATTENTION,
    _attention_is_torchs,
    _PackedLinear,
    attention,
    int8_is_faster,
    multiplies_bfloat16,
    quicken,
)
from model.checkpoint import LocalFolder
from model.reading.reader import CheckpointReader
from tests.checkpoints import Checkpoint


class Encoder(torch.nn.Module):
    is_causal = False


def states(heads: int = 3, length: int = 45, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(heads * length)
    return torch.randn(4, heads, length, 8, generator=generator).to(dtype)


def mask_of(attended: torch.Tensor, length: int, apart: bool) -> torch.Tensor:
    """Return a mask of padding, or one that also keeps the first 9 tokens and the others apart.

    attended  int64 [B], tokens of each example before its padding
    """
    position = torch.arange(length)
    real = position < attended[:, None]
    if not apart:
        return real[:, None, None]
    part = torch.where(real, position < 9, 2)
    return (part[:, :, None] == part[:, None, :])[:, None]


@pytest.mark.parametrize("length", [1, 31, 32, 45])
@pytest.mark.parametrize("masked", ["", "padding", "apart"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_attention_is_torchs(
    length: int, masked: str, dtype: torch.dtype, tolerance: float
) -> None:
    query, key, value = (
        states(heads=3, length=length + k, dtype=dtype)[:, :, :length] for k in range(3)
    )
    mask = None
    if masked:
        attended = torch.tensor([length, max(1, length - 3), 1, length])
        mask = mask_of(attended, length, masked == "apart")
    expected = scaled_dot_product_attention(
        query.float(), key.float(), value.float(), attn_mask=mask, scale=0.3
    )
    result, weights = attention(Encoder(), query, key, value, mask, scaling=0.3)
    assert weights is None
    assert result.dtype == dtype
    torch.testing.assert_close(
        result.float(), expected.transpose(1, 2), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_whose_scores_are_far_from_zero_are_as_exact(dtype: torch.dtype, apart: bool) -> None:
    query, key, value = (states(heads=3, length=45 + k, dtype=dtype)[:, :, :45] for k in range(3))
    # Without subtracting their maximum, exponentials of such scores are infinite or all zero.
    query[:, 1] *= 1000
    query[2, 2], key[2, 2] = 20, -20
    mask = mask_of(torch.tensor([45, 20, 1, 30]), 45, apart)
    expected = scaled_dot_product_attention(
        query.float(), key.float(), value.float(), attn_mask=mask
    )
    result, _ = attention(Encoder(), query, key, value, mask)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        result.float(), expected.transpose(1, 2), rtol=tolerance, atol=tolerance
    )


def test_a_number_that_is_none_spoils_its_own_head_and_example_only() -> None:
    query, key, value = states(), states(), states()
    query[1, 2, 0] = torch.nan
    result, _ = attention(Encoder(), query, key, value, None)
    assert result.isnan().any(3).nonzero().tolist() == [[1, 0, 2]]


@pytest.mark.parametrize(
    "case",
    [
        "causal",
        "shared keys",
        "additive mask",
        "tokens that don't see themselves",
        "position bias",
    ],
)
def test_what_attention_is_not_made_for_is_left_to_torch(case: str) -> None:
    query, key, value = (
        states(4),
        states(2 if case == "shared keys" else 4),
        states(2 if case == "shared keys" else 4),
    )
    module = torch.nn.Module() if case == "causal" else Encoder()
    module.num_key_value_groups = 2 if case == "shared keys" else 1
    masks = {
        "additive mask": torch.randn(4, 1, 45, 45),
        "tokens that don't see themselves": ~torch.eye(45).bool().expand(4, 1, 45, 45),
    }
    mask = masks.get(case)
    more = {"position_bias": torch.randn(1, 4, 45, 45)} if case == "position bias" else {}
    result, _ = attention(module, query, key, value, mask, **more)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, **more)
    torch.testing.assert_close(result, expected)


def test_every_linear_layer_but_the_heads_is_packed(checkpoint: Checkpoint) -> None:
    network = CheckpointReader(LocalFolder(str(checkpoint.folder)), device="cpu")._network.forward
    plain = [name for name, module in network.named_modules() if type(module) is torch.nn.Linear]
    assert len(plain) == 1, plain
    assert network.get_submodule(plain[0]).out_features == 2


def test_bfloat16_stays_near_float32(checkpoint: Checkpoint) -> None:
    tokens = torch.randint(5, 30, (3, 37), generator=torch.Generator().manual_seed(0))
    attended = (torch.arange(37) < torch.tensor([37, 20, 33])[:, None]).long()
    network = AutoModelForQuestionAnswering.from_pretrained(
        checkpoint.folder, dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        expected = network(input_ids=tokens, attention_mask=attended).start_logits
        network.to(torch.bfloat16)
        plain = network(input_ids=tokens, attention_mask=attended).start_logits.float()
        quicken(network)
        quickened = network(input_ids=tokens, attention_mask=attended).start_logits.float()
    kept = attended.bool()
    rounding = (plain - expected)[kept].abs().mean()
    assert (quickened - expected)[kept].abs().mean() < 2 * rounding + 1e-6


def test_padding_does_not_keep_a_network_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []
    plain = cpu_network._attention
    monkeypatch.setattr(
        cpu_network, "_attention", lambda *given: masks.append(given[3].shape) or plain(*given)
    )
    network = BertForQuestionAnswering(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2)
    )
    quicken(network.eval().to(torch.bfloat16))
    with torch.inference_mode():
        network(
            input_ids=torch.full((2, 40), 7),
            attention_mask=(torch.arange(40) < torch.tensor([40, 20])[:, None]).long(),
        )
    assert masks == [(2, 1, 1, 40)] * 3


def test_attention_to_neighbours_only_with_padding_stays_near_float32() -> None:
    # a query in the padding may attend to nothing at all there
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    tokens = dict.fromkeys(
        ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0
    )
    network = ModernBertForQuestionAnswering(
        ModernBertConfig(**sizes, **tokens, local_attention=16)
    ).eval()
    ids = torch.randint(5, 50, (3, 90))
    attended = (torch.arange(90) < torch.tensor([90, 20, 60])[:, None]).long()
    with torch.inference_mode():
        expected = network(input_ids=ids, attention_mask=attended).start_logits
        quicken(network.to(torch.bfloat16))
        result = network(input_ids=ids, attention_mask=attended).start_logits.float()
    assert network.config._attn_implementation == ATTENTION
    torch.testing.assert_close(
        result[attended.bool()], expected[attended.bool()], rtol=0.05, atol=0.02
    )


def test_gelu_is_part_of_the_product_before_it() -> None:
    network = BertForQuestionAnswering(
        BertConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    layer = network.bert.encoder.layer[0].intermediate
    inputs = torch.randn(5, 16)
    expected = layer(inputs)
    quicken(network)
    assert isinstance(layer.intermediate_act_fn, torch.nn.Identity)
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-6)


def test_networks_with_torchs_attention_get_the_other_one_in_bfloat16_only(
    checkpoint: Checkpoint,
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        network = AutoModelForQuestionAnswering.from_pretrained(
            checkpoint.folder, dtype=dtype
        ).eval()
        before = network.config._attn_implementation
        quicken(network)
        wanted = ATTENTION if before == "sdpa" and dtype == torch.bfloat16 else before
        assert network.config._attn_implementation == wanted


# What a core, oneDNN or a C library may lack


def without_avx512(*_: Any) -> torch.Tensor:
    raise RuntimeError("bf16 path needs the cpu support avx_ne_convert or avx512bw")


def off(result: torch.Tensor) -> torch.Tensor:
    return result + 0.2 * result.abs().max()


def logits(network: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        attended = (torch.arange(30) < torch.tensor([30, 17])[:, None]).long()
        return network(
            input_ids=torch.arange(60).reshape(2, 30) % 23 + 5, attention_mask=attended
        ).start_logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("onednn", "oneDNN is switched off or not in this torch"),
        ("instructions", "needs the cpu support"),
        ("right products", "differ from torch's own by up to"),
    ],
)
def test_products_that_a_core_lacks_remain_torchs(
    bert_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    dtype: torch.dtype,
    lacking: str,
    said: str,
) -> None:
    network = AutoModelForQuestionAnswering.from_pretrained(
        bert_folder, dtype=dtype, attn_implementation="eager"
    ).eval()
    expected = logits(network)
    if lacking == "instructions":
        monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", without_avx512)
    if lacking == "right products":
        monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda weight, _: weight)
        monkeypatch.setattr(
            torch.ops.mkldnn,
            "_linear_pointwise",
            lambda *given: off(torch.nn.functional.linear(*given[:3])),
        )
    with (
        torch.backends.mkldnn.flags(enabled=lacking != "onednn"),
        caplog.at_level(logging.INFO, "spanmill"),
    ):
        quicken(network)
        assert not any(isinstance(module, _PackedLinear) for module in network.modules())
        torch.testing.assert_close(logits(network), expected)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(f"{str(dtype)[6:]} on this CPU: torch computes 13 products")
    assert said in message
    # In bfloat16 torch's own products are several times slower than in float32.
    slow = dtype == torch.bfloat16
    assert record.levelno == (logging.WARNING if slow else logging.INFO)
    assert ("give --dtype float32 or auto" in message) == slow


def test_one_layer_that_a_core_lacks_is_torchs_and_the_others_are_packed(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = AutoModelForQuestionAnswering.from_pretrained(bert_folder, dtype=torch.float32).eval()
    expected = logits(network)
    reorder = torch.ops.mkldnn._reorder_linear_weight

    def square_only(weight: torch.Tensor, tokens: int) -> torch.Tensor:
        return reorder(weight, tokens) if weight.shape[0] == weight.shape[1] else without_avx512()

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", square_only)
    with caplog.at_level(logging.INFO, "spanmill"):
        quicken(network)
    assert sum(isinstance(module, _PackedLinear) for module in network.modules()) == 8
    assert not isinstance(
        network.bert.encoder.layer[0].intermediate.intermediate_act_fn, torch.nn.Identity
    )
    assert "torch computes 5 products" in caplog.text
    torch.testing.assert_close(logits(network), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [off, without_avx512], ids=["other results", "an error"])
def test_attention_that_differs_on_this_core_remains_torchs(
    bert_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wrong: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    network = AutoModelForQuestionAnswering.from_pretrained(
        bert_folder, dtype=torch.bfloat16
    ).eval()
    untouched = copy.deepcopy(network)
    plain = cpu_network._attention
    _attention_is_torchs.cache_clear()

    def other(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        result, sums = plain(*given)
        return wrong(result), sums

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "spanmill"):
        patch.setattr(cpu_network, "_attention", other)
        quicken(network)
    assert network.config._attn_implementation == "sdpa"
    assert "bfloat16 on this CPU: torch computes attention" in caplog.text
    _attention_is_torchs.cache_clear()
    quicken(untouched)
    assert untouched.config._attn_implementation == ATTENTION


@pytest.mark.parametrize(("seconds_in_int8", "faster"), [(0.7, True), (0.8, False), (2.0, False)])
def test_int8_is_faster_by_a_margin(
    seconds_in_int8: float, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is one that says how long each layer took."""
    durations = cycle([0.0, 1.0, 0.0, seconds_in_int8])
    clock = SimpleNamespace(thread_time=accumulate(durations).__next__)
    monkeypatch.setattr(cpu_network, "time", clock)
    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    assert int8_is_faster.__wrapped__() == faster
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), drawn)


def test_int8_without_onednn_is_not_faster(caplog: pytest.LogCaptureFixture) -> None:
    threads = torch.get_num_threads()
    with torch.backends.mkldnn.flags(enabled=False), caplog.at_level(logging.INFO, "spanmill"):
        assert not int8_is_faster.__wrapped__()
    assert torch.get_num_threads() == threads
    assert caplog.messages == ["int8 on this CPU: oneDNN is switched off or not in this torch"]


def test_bfloat16_is_asked_of_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert multiplies_bfloat16() == torch.backends.mkldnn.is_available()
    with torch.backends.mkldnn.flags(enabled=False):
        assert not multiplies_bfloat16()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not multiplies_bfloat16()
