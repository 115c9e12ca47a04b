"""Linear layers in int8 compute what integers say, and stay near the layers they replace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import gelu
from transformers import AutoModelForQuestionAnswering

from model.backends.cpu_network import quantise
from model.backends.int8_layers import Int8Linear
from model.checkpoint import CheckpointError, LocalFolder
from model.reading.network import Network
from model.reading.reader import CheckpointReader
from tests.checkpoints import Checkpoint


def layer(inputs: int = 37, outputs: int = 21, *, bias: bool = True) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def tokens(count: int = 50, inputs: int = 37) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    # Tokens differ in size by a factor of up to 1,000.
    return torch.randn(count, inputs, generator=generator) * torch.logspace(-2, 1, count)[:, None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_products_are_those_of_integers(bias: bool, activation: str) -> None:
    given, plain = tokens().double(), layer(bias=bias)
    largest, weight = given.abs().amax(0), plain.weight.double()
    factors = (largest / weight.abs().amax(0)).sqrt()
    inputs, weight = given / factors, weight * factors
    of_token = inputs.abs().amax(1, keepdim=True) / 127
    of_channel = weight.abs().amax(1, keepdim=True) / 63
    whole = (inputs / of_token).round() @ (weight / of_channel).round().T
    expected = whole * of_token * of_channel.T + (plain.bias.double() if bias else 0)
    if activation == "gelu":
        expected = gelu(expected)
    result = Int8Linear(plain, largest.float(), activation)(given.float().reshape(2, 25, 37))
    # A number halfway between two integers may be rounded the other way in float32.
    near = torch.isclose(result.reshape(50, 21).double(), expected, rtol=1e-4, atol=1e-5)
    assert near.float().mean() > 0.95
    assert (result.reshape(50, 21) - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_token_does_not_depend_on_the_others() -> None:
    quantised, given = Int8Linear(layer(), torch.ones(37)), tokens()
    given[7], given[8, 0], given[9, 0] = 0, torch.nan, torch.inf
    result = quantised(given)
    for k in (0, 20, 49):
        torch.testing.assert_close(result[k], quantised(given[k : k + 1])[0], rtol=0, atol=0)
    torch.testing.assert_close(result[7], quantised.bias)
    assert (~result.isfinite()).any(1).nonzero().flatten().tolist() == [8, 9]
    assert quantised(given[:0]).shape == (0, 21)


def test_the_largest_sums_do_not_overflow() -> None:
    plain = layer(1536, 8)
    plain.weight.fill_(0.5)
    result = Int8Linear(plain, torch.ones(1536))(torch.ones(3, 1536))
    torch.testing.assert_close(result, 768 + plain.bias.expand(3, 8))


def test_wrong_products_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Int8Linear._product
    monkeypatch.setattr(
        Int8Linear, "_product", lambda *given: right(*given).clamp(max=0.9 * right(*given).max())
    )
    with pytest.raises(ArithmeticError, match="int8 products differ from the true ones by up to"):
        Int8Linear(layer(), torch.ones(37))


def test_every_architecture_stays_near_float32(checkpoint: Checkpoint) -> None:
    ids = torch.randint(5, 30, (3, 37), generator=torch.Generator().manual_seed(0))
    attended = (torch.arange(37) < torch.tensor([37, 20, 33])[:, None]).long()
    network = AutoModelForQuestionAnswering.from_pretrained(
        checkpoint.folder, dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        expected = network(input_ids=ids, attention_mask=attended).start_logits
        quantise(network)
        result = network(input_ids=ids, attention_mask=attended).start_logits
    kept = attended.bool()
    apart = (result - expected)[kept].abs()
    assert 0 < apart.mean() < 0.1 * expected[kept].abs().max()


def test_all_linear_layers_but_the_head_compute_in_int8(
    bert_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = CheckpointReader(
        LocalFolder(str(bert_folder)), device="cpu", dtype="int8", compile=True
    )
    reader.load()
    assert "--compile: a network in int8 runs without torch.compile" in caplog.text
    network = reader._network.forward
    plain = [name for name, each in network.named_modules() if type(each) is torch.nn.Linear]
    assert plain == ["qa_outputs"]
    assert sum(isinstance(each, Int8Linear) for each in network.modules()) == 12


def test_a_machine_without_such_products_is_refused(bert_folder: Path) -> None:
    with (
        torch.backends.mkldnn.flags(enabled=False),
        pytest.raises(CheckpointError, match="can't compute in int8 on this machine: oneDNN is sw"),
    ):
        CheckpointReader(LocalFolder(str(bert_folder)), device="cpu", dtype="int8").load()


def test_a_gpu_is_refused(bert_folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"dtype int8 is for a CPU, and .* device is cuda:1"):
        Network(bert_folder, torch.device("cuda:1"), torch.int8, compile=False)
