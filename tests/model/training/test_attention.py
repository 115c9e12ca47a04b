"""Attention for training: the values and the gradients of torch's own."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from model.training.attention import ATTENTION, attention, use_plain_products


@pytest.mark.parametrize("per_query", [False, True])
def test_results_and_gradients_are_those_of_torch(per_query: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(3, 2, 2, 7, 4, generator=generator)
    mask = (torch.arange(7) < torch.tensor([7, 3])[:, None])[:, None, None]
    if per_query:
        mask = mask & (torch.rand(2, 1, 7, 7, generator=generator) < 0.5)
        mask |= torch.eye(7, dtype=torch.bool)
    outputs, gradients = [], []
    for plain in (True, False):
        query, key, value = leaves = [each.clone().requires_grad_() for each in inputs]
        if plain:
            result = attention(torch.nn.Identity(), query, key, value, mask)[0].transpose(1, 2)
        else:
            result = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
        result.square().sum().backward()
        outputs.append(result)
        gradients.append([each.grad for each in leaves])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_a_network_has_the_same_logits_with_it(bert_folder: Path) -> None:
    network = AutoModelForQuestionAnswering.from_pretrained(bert_folder).eval()
    plain = copy.deepcopy(network)
    use_plain_products(plain)
    assert plain.config._attn_implementation == ATTENTION
    ids = torch.arange(24).reshape(2, 12)
    attended = torch.arange(12) < torch.tensor([12, 5])[:, None]
    with torch.inference_mode():
        one, other = (each(ids, attended.long()).start_logits for each in (network, plain))
    torch.testing.assert_close(one[attended], other[attended])


def test_a_mask_of_numbers_is_left_to_torch() -> None:
    """Some networks add a mask of their own to the scores."""
    generator = torch.Generator().manual_seed(2)
    query, key, value = torch.randn(3, 2, 2, 7, 4, generator=generator)
    mask = torch.randn(2, 1, 7, 7, generator=generator)
    result = attention(torch.nn.Identity(), query, key, value, mask)[0].transpose(1, 2)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    torch.testing.assert_close(result, expected)
