"""The objective equals hand-computed numbers, torch's losses and the loss of transformers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers.loss.loss_utils import ForQuestionAnsweringLoss

from model.audit.objective import (
    categorical,
    joint,
    log_normaliser,
    log_one_minus,
    merge_log_masses,
    tokenwise,
)
from model.reading.spans import ValidSpans, span_log_mass

EVERYWHERE = torch.ones(4, 9, dtype=torch.bool)


def random_logits(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(1)
    return 4 * torch.randn(4, 9, dtype=dtype)


def nll(logits: torch.Tensor, target: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    return categorical(logits, target, log_normaliser(logits, support))


@pytest.mark.parametrize(
    ("start", "end", "expected", "spans"),
    [
        # The four examples of docs/objective.md: logits 4, 0, 0 over three tokens, gold (0, 0).
        ([4.0, 0.0, 0.0], [4.0, 0.0, 0.0], 2 * math.log(1 + 2 * math.exp(-4)), [8, 4, 4, 0, 0, 0]),
        (
            [4.0, 0.0, 0.0],
            [0.0, 4.0, 0.0],
            math.log(1 + 2 * math.exp(-4)) + math.log(2 + math.exp(4)),
            [4, 8, 4, 4, 0, 0],
        ),
        ([0.0, 4.0, 0.0], [0.0, 4.0, 0.0], 2 * math.log(2 + math.exp(4)), [0, 4, 0, 8, 4, 0]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 2 * math.log(3), [0] * 6),
    ],
)
def test_the_examples_of_the_page_on_the_objective(
    start: list[float], end: list[float], expected: float, spans: list[int]
) -> None:
    support = torch.ones(1, 3, dtype=torch.bool)
    gold = torch.tensor([0])
    total = nll(torch.tensor([start]), gold, support) + nll(torch.tensor([end]), gold, support)
    assert total.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    everywhere = torch.tensor([2**31 - 1])
    valid = ValidSpans(support, support, -everywhere, everywhere, max_answer_length=3)
    mass = span_log_mass(torch.tensor([start]), torch.tensor([end]), valid)
    loss = joint(torch.tensor([start[0] + end[0]]), mass).item()
    assert loss == pytest.approx(math.log(sum(map(math.exp, spans))) - spans[0], rel=1e-5, abs=1e-5)


def test_categorical_is_cross_entropy() -> None:
    logits, target = random_logits(), torch.tensor([0, 3, 8, 5])
    torch.testing.assert_close(
        nll(logits, target, EVERYWHERE), cross_entropy(logits, target, reduction="none")
    )


def test_half_the_sum_is_the_loss_of_transformers() -> None:
    start, end = random_logits(), random_logits().flip(0)
    first, last = torch.tensor([0, 3, 7, 5]), torch.tensor([1, 3, 8, 6])
    theirs = ForQuestionAnsweringLoss(start, end, first, last)
    ours = (nll(start, first, EVERYWHERE) + nll(end, last, EVERYWHERE)).mean() / 2
    torch.testing.assert_close(ours, theirs)


def test_logits_outside_of_the_support_do_not_count() -> None:
    logits, target = random_logits(), torch.tensor([2, 3, 4, 5])
    support = EVERYWHERE.clone()
    support[:, :2] = support[:, 7:] = False
    expected = cross_entropy(logits[:, 2:7], target - 2, reduction="none")
    for rubbish in (0.0, 1e30, torch.nan, -torch.inf):
        spoilt = torch.where(support, logits, rubbish)
        torch.testing.assert_close(nll(spoilt, target, support), expected)
        for link in ("softmax", "sigmoid"):
            found = tokenwise(spoilt, target, support, link)
            torch.testing.assert_close(
                found, tokenwise(logits[:, 2:7], target - 2, EVERYWHERE[:, :5], link)
            )


def test_tokenwise_sigmoid_is_binary_cross_entropy() -> None:
    logits, target = random_logits(), torch.tensor([0, 3, 8, 5])
    labels = torch.zeros(4, 9).scatter(1, target[:, None], 1.0)
    expected = binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(1)
    torch.testing.assert_close(tokenwise(logits, target, EVERYWHERE, "sigmoid"), expected)


def test_tokenwise_softmax_is_binary_cross_entropy_of_the_softmax() -> None:
    logits, target = random_logits(torch.float64), torch.tensor([0, 3, 8, 5])
    p = torch.softmax(logits, 1)
    labels = torch.zeros(4, 9, dtype=torch.float64).scatter(1, target[:, None], 1.0)
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum(1)
    torch.testing.assert_close(tokenwise(logits, target, EVERYWHERE, "softmax"), expected)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_a_null_target_labels_every_token_zero(link: str) -> None:
    logits = random_logits(torch.float64)
    support = EVERYWHERE.clone()
    support[:, 0] = False  # the classifier token: in the normaliser, not among the n tokens
    p = torch.softmax(logits, 1) if link == "softmax" else torch.sigmoid(logits)
    expected = -(1 - p)[:, 1:].log().sum(1)
    for target in (torch.zeros(4, dtype=torch.long), torch.full((4,), -1)):
        torch.testing.assert_close(tokenwise(logits, target, support, link, EVERYWHERE), expected)


def test_log_one_minus_keeps_its_digits_where_p_nears_one() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0]])
    found = log_one_minus(logits, torch.ones(1, 3, dtype=torch.bool))
    assert found[0, 0].item() == pytest.approx(math.log(2) - 40, rel=1e-6)
    assert found[0, 1].item() == pytest.approx(-math.exp(-40), rel=1e-5)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_gradients(link: str) -> None:
    logits = random_logits(torch.float64).requires_grad_()
    support = EVERYWHERE.clone()
    support[:, 7:] = False
    target = torch.tensor([0, 3, 6, 5])
    assert torch.autograd.gradcheck(lambda x: nll(x, target, support), (logits,))
    assert torch.autograd.gradcheck(lambda x: tokenwise(x, target, support, link), (logits,))


def test_gradients_of_confident_logits_are_finite() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    support = torch.ones(1, 3, dtype=torch.bool)
    loss = tokenwise(logits, torch.tensor([1]), support, "softmax") + nll(
        logits, torch.tensor([1]), support
    )
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.tensor([[8.0, 0.0, 0.0]], dtype=torch.float16)
    found = nll(logits, torch.tensor([1]), torch.ones(1, 3, dtype=torch.bool))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(math.log(math.exp(8) + 2), rel=1e-6)


def test_merged_masses_are_the_normaliser_of_the_union() -> None:
    logits = random_logits(torch.float64)
    merged = merge_log_masses(torch.logsumexp(logits, 1), torch.tensor([0, 2, 0, 2]), 3)
    expected = torch.stack(
        [torch.logsumexp(logits[0::2].flatten(), 0), torch.logsumexp(logits[1::2].flatten(), 0)]
    )
    torch.testing.assert_close(merged[[0, 2]], expected)
    assert merged[1] == -torch.inf
    values = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: merge_log_masses(x, torch.tensor([0, 1, 0, 1]), 2), (values,)
    )
