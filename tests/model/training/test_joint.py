"""The joint loss is -log of the decoder's posterior: closed forms, brute force, `merge_windows`."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import pytest
import torch

from model.audit.objective import joint
from model.reading.batching import Batch, assemble
from model.reading.decoding import DecodeSpans, Decoding
from model.reading.posterior import merge_windows
from model.reading.prediction import predict
from model.reading.spans import ValidSpans, decode_windows, span_log_mass
from model.reading.windows import Windows
from model.training.data import TrainingWindows
from model.training.joint import combine, golds_without_joint, passage_joint, window_joint
from model.training.loss import passage_loss, window_loss
from tests.model.brute_force import log_normaliser, null_score, spans_of
from tests.model.fakes import FakeReader, make_windows

LENGTHS = [9, 40, 1, 23]
LONGEST = 5
SEED = 3


def laid_out(max_length: int = 16) -> tuple[Windows, Batch, torch.Tensor, torch.Tensor]:
    """Return windows in which some tokens can't start or end answers, their batch and logits."""
    allowed = np.random.default_rng(0).random((2, sum(LENGTHS))) < 0.7
    allowed[:, 49] = True  # the passage of one token
    windows = make_windows(
        LENGTHS, max_length=max_length, overlap=5, can_start=allowed[0], can_end=allowed[1]
    )
    batch = assemble(windows, np.arange(len(windows)))
    start_logits, end_logits = FakeReader(SEED, levels=0).logits(batch)
    return windows, batch, start_logits, end_logits


def at_positions(windows: Windows, batch: Batch, golds: list[tuple[int, int]]) -> torch.Tensor:
    """Return the targets of the windows that hold the gold of their pair whole, -1 for others."""
    held = torch.tensor(golds)[torch.from_numpy(windows.pair.astype(np.int64))].T
    whole = (held[0].numpy() >= windows.start) & (held[1].numpy() < windows.stop)
    shift = batch.context_start - batch.passage_start
    return torch.where(torch.from_numpy(whole), held + shift, -1)


def test_one_window_in_closed_form() -> None:
    start, end = torch.tensor([[1.0, 5.0, 0.0]]), torch.tensor([[0.0, 4.0, 2.0]])
    everywhere, bound = torch.ones(1, 3, dtype=torch.bool), torch.tensor([2**31 - 1])
    masks = everywhere, everywhere, -bound, bound
    scores = [1, 5, 3, 9, 7, 2]  # (0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)
    expected = math.log(sum(math.exp(score) for score in scores))
    assert span_log_mass(start, end, ValidSpans(*masks, 3)).item() == pytest.approx(
        expected, rel=1e-6
    )
    scores.remove(3)  # (0, 2) is longer than two tokens
    shorter = math.log(sum(math.exp(score) for score in scores))
    assert span_log_mass(start, end, ValidSpans(*masks, 2)).item() == pytest.approx(
        shorter, rel=1e-6
    )
    # With the null option as likely as all spans together, a span is half as likely.
    mass, gold = torch.tensor([expected]), torch.tensor([9.0])
    found = joint(gold, mass, mass) - joint(gold, mass)
    assert found.item() == pytest.approx(math.log(2), rel=1e-6)


def test_the_mass_is_that_of_the_decoder() -> None:
    _, batch, start_logits, end_logits = laid_out()
    spans = ValidSpans(batch.can_start, batch.can_end, batch.owned_low, batch.owned_high, LONGEST)
    *_, expected = decode_windows(start_logits, end_logits, spans, n_best=1, temperature=1.0)
    found = span_log_mass(start_logits, end_logits, spans)
    torch.testing.assert_close(found, expected)
    wide = span_log_mass(start_logits.double(), end_logits.double(), spans)
    torch.testing.assert_close(wide, expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("max_length", [16, 64])
def test_the_joint_loss_of_every_span_by_brute_force(null: bool, max_length: int) -> None:
    """Windows of 16 tokens cut the long passages in several, windows of 64 cut none."""
    windows, batch, start_logits, end_logits = laid_out(max_length)
    group = torch.from_numpy(windows.pair.astype(np.int64))
    surest = None
    if null:
        scores = (start_logits + end_logits)[:, 0].numpy()
        order = np.lexsort((scores, windows.pair))
        surest = torch.from_numpy(order[np.unique(windows.pair, return_index=True)[1]])
    spans = [spans_of(windows, pair, SEED, 0, LONGEST) for pair in range(len(LENGTHS))]
    for turn in range(max(map(len, spans))):
        golds = [each[turn % len(each)] for each in spans]
        targets = at_positions(windows, batch, [(gold.start, gold.end) for gold in golds])
        found, has = passage_joint(
            (start_logits, end_logits), batch, targets, group, surest, LONGEST
        )
        assert has.all()
        for pair, gold in enumerate(golds):
            terms = [span.score for span in spans[pair]]
            terms += [null_score(windows, pair, SEED, 0)] if null else []
            expected = log_normaliser(terms, 1.0) - gold.score
            assert found[pair].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        if max_length == 64:  # a window alone is its passage
            alone, has = window_joint((start_logits, end_logits), batch, targets, null, LONGEST)
            assert has.all()
            torch.testing.assert_close(alone, found)


def test_rows_of_one_group_share_a_normaliser() -> None:
    """An unanswerable row made from another adds its spans to what the gold competes with."""
    windows, batch, start_logits, end_logits = laid_out()
    first = spans_of(windows, 0, SEED, 0, LONGEST)
    second = spans_of(windows, 1, SEED, 0, LONGEST)
    targets = at_positions(windows, batch, [(first[0].start, first[0].end)] * len(LENGTHS))
    targets[:, windows.pair != 0] = -1
    group = torch.from_numpy(np.maximum(windows.pair.astype(np.int64) - 1, 0))
    options = argparse.Namespace(null=False, objective="joint", max_answer_length=LONGEST)
    (found,) = passage_loss(start_logits, end_logits, batch, targets, group, options)
    scores = [span.score for span in first + second]
    assert found.item() == pytest.approx(log_normaliser(scores, 1.0) - first[0].score, rel=1e-5)


@pytest.mark.parametrize("null", [False, True])
def test_the_loss_is_minus_log_of_the_probability_that_decoding_reports(null: bool) -> None:
    windows, batch, start_logits, end_logits = laid_out()
    decoding = Decoding(n_best=4, max_answer_length=LONGEST, null=null)
    observer = DecodeSpans(windows, decoding)
    predict(FakeReader(SEED, levels=0), windows, 4096, [observer])
    answers = merge_windows(
        observer.result(), windows.pair, windows.index, len(LENGTHS), n_best=4, temperature=1.0
    )
    group = torch.from_numpy(windows.pair.astype(np.int64))
    options = argparse.Namespace(null=null, objective="joint", max_answer_length=LONGEST)
    for rank in range(4):
        rank = np.minimum(rank, answers.found - 1)
        best = [(side[np.arange(4), rank]).tolist() for side in (answers.start, answers.end)]
        targets = at_positions(windows, batch, list(zip(*best, strict=True)))
        found = passage_loss(start_logits, end_logits, batch, targets, group, options)
        expected = -np.log(answers.probability[np.arange(4), rank])
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_null_target_is_minus_log_of_the_window_s_null_probability() -> None:
    _, batch, start_logits, end_logits = laid_out(64)
    assert batch.classifier is not None
    targets = batch.classifier.expand(2, -1)
    found, has = window_joint((start_logits, end_logits), batch, targets, True, LONGEST)
    spans = ValidSpans(batch.can_start, batch.can_end, batch.owned_low, batch.owned_high, LONGEST)
    mass = span_log_mass(start_logits, end_logits, spans)
    score = (start_logits + end_logits)[:, 0]
    assert has.all()
    torch.testing.assert_close(found, -torch.log_softmax(torch.stack([score, mass]), 0)[0])


def test_golds_that_can_not_be_decoded_have_the_categorical_loss() -> None:
    windows, batch, start_logits, end_logits = laid_out(64)
    first = int(np.flatnonzero(~windows.passages.can_start[:9])[0])
    golds = [(first, first), (0, LONGEST), (0, 0), (2, 1 + LONGEST)]
    targets = at_positions(windows, batch, golds)
    _, has = window_joint((start_logits, end_logits), batch, targets, True, LONGEST)
    valid = windows.passages
    begins = valid.bounds[:-1]
    last = valid.can_start[begins[3] + 2] and valid.can_end[begins[3] + 1 + LONGEST]
    assert has.tolist() == [False, False, True, bool(last)]
    losses = {
        objective: window_loss(
            start_logits,
            end_logits,
            batch,
            targets,
            argparse.Namespace(null=True, objective=objective, max_answer_length=LONGEST),
        )
        for objective in ("categorical", "joint", "compound")
    }
    torch.testing.assert_close(losses["joint"][~has], losses["categorical"][~has])
    torch.testing.assert_close(losses["compound"][~has], losses["categorical"][~has])
    both = losses["joint"] + losses["categorical"]
    torch.testing.assert_close(losses["compound"][has], both[has])
    start, end = np.array(golds).T
    examples = TrainingWindows(windows, start, end, windows.pair, [], [])
    assert golds_without_joint(examples, LONGEST) == (int((~has).sum()), 4)


def test_a_gold_without_parts_has_no_loss() -> None:
    true, false = torch.tensor([True]), torch.tensor([False])
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    for objective in ("joint", "compound"):
        assert combine(objective, one, false, two, false).item() == 0
        assert combine(objective, one, true, two, false).item() == 1
        assert combine(objective, one, false, two, true).item() == 2
    assert combine("joint", one, true, two, true).item() == 1
    assert combine("compound", one, true, two, true).item() == 3


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("objective", ["joint", "compound"])
def test_gradients(objective: str, null: bool, shared: bool) -> None:
    windows, batch, *logits = laid_out()
    targets = at_positions(windows, batch, [(0, 1), (17, 20), (0, 0), (2, 12)])
    if not shared:
        assert batch.classifier is not None
        anywhere = batch.classifier if null else batch.context_start
        targets = torch.where(targets >= 0, targets, anywhere)
    options = argparse.Namespace(null=null, objective=objective, max_answer_length=LONGEST)
    group = torch.from_numpy(windows.pair.astype(np.int64))

    def loss(start_logits: torch.Tensor, end_logits: torch.Tensor) -> Any:
        if shared:
            return passage_loss(start_logits, end_logits, batch, targets, group, options)
        return window_loss(start_logits, end_logits, batch, targets, options)

    inputs = [each.double().requires_grad_() for each in logits]
    assert torch.autograd.gradcheck(loss, inputs)
    sum(loss(*inputs)).backward()
    for side in inputs:
        assert side.grad is not None
        assert torch.isfinite(side.grad).all()
        outside = ~batch.in_context
        outside[:, 0] = False  # the classifier token
        assert not side.grad[outside].any()


def test_a_window_without_a_valid_span_has_no_mass_and_no_gradient() -> None:
    logits = torch.randn(2, 1, 6, requires_grad=True)
    nowhere, bound = torch.zeros(1, 6, dtype=torch.bool), torch.tensor([2**31 - 1])
    spans = ValidSpans(~nowhere, nowhere, -bound, bound, 3)
    mass = span_log_mass(logits[0], logits[1], spans)
    assert mass.item() == -math.inf
    mass.sum().backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_rubbish_outside_of_the_spans_changes_nothing() -> None:
    _, batch, start_logits, end_logits = laid_out()
    spans = ValidSpans(batch.can_start, batch.can_end, batch.owned_low, batch.owned_high, LONGEST)
    expected = span_log_mass(start_logits, end_logits, spans)
    for rubbish in (1e30, torch.nan, -torch.inf):
        spoilt = (
            torch.where(allowed, logits, rubbish)
            for allowed, logits in zip(spans[:2], (start_logits, end_logits), strict=True)
        )
        torch.testing.assert_close(span_log_mass(*spoilt, spans), expected)
