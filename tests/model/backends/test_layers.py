"""Layers one by one: the same logits and gradients as the network's own forward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForQuestionAnswering

from model.backends.layers import LayeredNetwork
from model.checkpoint import LocalFolder
from model.reading.batching import assemble
from model.reading.network import takes_types
from model.reading.reader import CheckpointReader
from model.reading.split import read_whole
from tests.checkpoints import Architecture
from tests.model.split import FAMILIES, build_split, by_transformers, cut_all


@pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.name)
def test_without_a_block_mask_the_layers_are_the_network(kind: Architecture, tmp_path: Path):
    folder = build_split(kind, tmp_path)
    network = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    layered = LayeredNetwork(network, 1, takes_types(network))
    reader = CheckpointReader(LocalFolder(str(folder)), device="cpu")
    windows = cut_all(reader, ["Who waved?"], ["Ada waved.", "Ben and Ada met on the pier."])
    batch = assemble(windows, np.array([1, 0]))
    positions = torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids)
    types = {"token_type_ids": batch.token_types} if takes_types(network) else {}
    with torch.inference_mode():
        expected = network(
            input_ids=batch.input_ids, attention_mask=batch.attention.long(), **types
        )
        hidden = layered.embed(batch.input_ids, batch.token_types, positions)
        mask = layered.key_mask(hidden, batch.attention)
        found = layered.logits(layered.run([*layered.lower, *layered.upper], hidden, mask))
    for ours, theirs in zip(found, (expected.start_logits, expected.end_logits), strict=True):
        assert_close(ours[batch.attention], theirs[batch.attention], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["camembert", "xlm-roberta"])
def test_relatives_of_roberta_are_read_with_projections_made_before(kind: str):
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind, vocab_size=50, intermediate_size=64, **sizes)
    network = AutoModelForQuestionAnswering.from_config(config).eval()
    layered = LayeredNetwork(network, 1, takes_types(network))
    layered.keep_projections()
    ids = torch.arange(5, 23).reshape(2, 9)
    positions = torch.arange(9).expand(2, 9)
    with torch.inference_mode():
        expected = network(ids)  # without what was made before
        hidden = layered.run(layered.lower, layered.embed(ids, ids * 0, positions), None)
        start, end = layered.logits(layered.run_upper(layered.project(hidden), None))
    assert_close(start, expected.start_logits, rtol=1e-5, atol=1e-5)
    assert_close(end, expected.end_logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_whole_reading_is_differentiable_and_keeps_the_parts_apart(
    tmp_path: Path, implementation: str
):
    folder = build_split(FAMILIES[0], tmp_path)
    network = AutoModelForQuestionAnswering.from_pretrained(
        folder, attn_implementation=implementation
    )
    layered = LayeredNetwork(network.eval(), 1, takes_types(network))
    reader = CheckpointReader(LocalFolder(str(folder)), device="cpu")
    position = reader.tokenizer().format.passage_position
    assert position is not None
    windows = cut_all(reader, ["Who waved?", "Who?"], ["Ada waved.", "Ben met Ada on the pier."])
    batch = assemble(windows, np.arange(4))
    logits = torch.stack(read_whole(layered, batch, position))
    real = batch.attention
    expected = by_transformers(folder, batch, 1)
    assert_close(logits[:, real].detach(), expected[:, real], rtol=1e-5, atol=2e-5)
    logits[:, real].square().sum().backward()
    gradients = [
        weights.grad for name, weights in network.named_parameters() if "pooler" not in name
    ]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
