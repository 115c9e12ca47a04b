"""Losses of passages against slow, obvious sums over all their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from model.audit.golds import Golds
from model.audit.losses import (
    LEAST_PROBABILITY,
    PassageLosses,
    likely_tokens,
    passage_losses,
)
from model.audit.window_losses import POWERS, TOPS, log_power_sums
from model.reading.decoding import Decoding
from model.reading.tokenizer import PairFormat, Ragged
from model.reading.windows import Windows
from tests.model.fakes import CONTEXT_FIRST, QUESTION_FIRST, FakeReader, fake_logits, make_windows
from tests.model.predicted import decode_and_measure

SEED = 7


def logsumexp(values: np.ndarray) -> float:
    return float(np.logaddexp.reduce(values))


SPANS = {0: [(0, 2), (5, 8)], 1: [(18, 20), (0, 0), (39, 39)], 2: [], 3: [(0, 0)]}
LENGTHS = [9, 40, 23, 1]
LONG = [60, 200, 23, 1]
"""In windows of 64: more tokens than a window keeps one by one."""
LONGEST = 3
"""Tokens of the longest valid span; two golds are as long, one is longer."""


def make_golds(spans: dict[int, list[tuple[int, int]]]) -> Golds:
    flat = [(pair, *span) for pair, each in spans.items() for span in each]
    columns = np.array(flat, np.int64).reshape(-1, 3)
    rows = [[k for k, gold in enumerate(flat) if gold[0] == pair] for pair in spans]
    none = np.zeros(len(spans), np.int64)
    return Golds(
        columns[:, 0],
        columns[:, 1],
        columns[:, 2],
        Ragged.of(rows),
        none,
        {},
        [[] for _ in spans],
        [[] for _ in spans],
    )


def measure(
    link: str,
    null: bool,
    pair_format: PairFormat = QUESTION_FIRST,
    batch_tokens: int = 64,
    lengths: Sequence[int] = LENGTHS,
) -> tuple[Windows, Golds, PassageLosses]:
    windows = make_windows(
        lengths, max_length=64 if lengths is LONG else 16, overlap=5, pair_format=pair_format
    )
    golds = make_golds(SPANS)
    reader = FakeReader(SEED, levels=0)
    decoding = Decoding(n_best=2, max_answer_length=LONGEST, null=null)
    _, measured = decode_and_measure(reader, windows, decoding, batch_tokens, golds, link)
    assert np.isfinite(measured.losses.rest).any() == (lengths is LONG and link == "softmax")
    return (
        windows,
        golds,
        passage_losses(windows, measured),
    )


class Passage:
    """The logits of one pair, window by window, float64; null first."""

    def __init__(self, windows: Windows, pair: int):
        at = np.flatnonzero(windows.pair == pair)
        self.bounds = [(int(windows.start[w]), int(windows.stop[w])) for w in at]
        self.logits = [
            fake_logits(SEED, pair, s, e - s, 0).astype(np.float64) for s, e in self.bounds
        ]

    def owner(self, i: int, j: int) -> int:
        depth = [min(i - s, e - 1 - j) if s <= i and j < e else -1 for s, e in self.bounds]
        return int(np.argmax(depth)) if max(depth) >= 0 else -1

    def token(self, side: int, window: int, token: int) -> float:
        return float(self.logits[window][side, 1 + token - self.bounds[window][0]])

    def union(self, side: int, null: bool) -> np.ndarray:
        tokens = [self.token(side, self.owner(j, j), j) for j in range(self.bounds[-1][1])]
        return np.array([*tokens, *([self.best_null()[side]] if null else [])])

    def log_mass(self, null: bool) -> float:
        """Return the log of the sum of exp(score) over all valid spans and null."""
        tokens = self.bounds[-1][1]
        spans = [(i, j) for i in range(tokens) for j in range(i, min(i + LONGEST, tokens))]
        owned = [(self.owner(*span), span) for span in spans]
        scores = [self.token(0, w, i) + self.token(1, w, j) for w, (i, j) in owned if w >= 0]
        return logsumexp(np.array([*scores, *([self.best_null().sum()] if null else [])]))

    def best_null(self) -> np.ndarray:
        return min(
            (each[:, 0] for each in self.logits),
            key=lambda pair: pair[0].astype(np.float32) + pair[1].astype(np.float32),
        )


def binary_cross_entropy(logits: np.ndarray, tokens: int, target: int | None, link: str) -> float:
    with np.errstate(divide="ignore"):
        p = 1 / (1 + np.exp(-logits)) if link == "sigmoid" else np.exp(logits - logsumexp(logits))
        others = [np.log1p(-p[j]) for j in range(tokens) if j != target]
    return -(sum(others) + (np.log(p[target]) if target is not None else 0.0))


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
@pytest.mark.parametrize("pair_format", [QUESTION_FIRST, CONTEXT_FIRST])
@pytest.mark.parametrize("lengths", [LENGTHS, LONG])
def test_every_loss_of_a_gold(
    link: str, null: bool, pair_format: PairFormat, lengths: list[int]
) -> None:
    windows, golds, found = measure(link, null, pair_format, lengths=lengths)
    for gold in range(len(golds)):
        pair, first, last = int(golds.pair[gold]), int(golds.first[gold]), int(golds.last[gold])
        passage = Passage(windows, pair)
        tokens = passage.bounds[-1][1]
        whole = [w for w, (s, e) in enumerate(passage.bounds) if s <= first and last < e]
        apart = [w for w, (s, e) in enumerate(passage.bounds) if last < s or first >= e]
        assert found.whole[gold] == len(whole)
        assert found.partly[gold] == len(passage.bounds) - len(whole) - len(apart)
        for side, token in enumerate((first, last)):
            union = passage.union(side, null)
            logit = passage.token(side, passage.owner(token, token), token)
            assert found.nll[side, gold] == pytest.approx(
                logsumexp(union) - logit, rel=1e-5, abs=1e-5
            )
            expected = binary_cross_entropy(union, tokens, token, link)
            assert found.tokenwise[side, gold] == pytest.approx(expected, rel=1e-5, abs=1e-5)
            native, native_tokenwise = [], []
            for w in whole:
                own = passage.logits[w][side] if null else passage.logits[w][side, 1:]
                native.append(logsumexp(own) - passage.token(side, w, token))
                reordered = np.concatenate(
                    [passage.logits[w][side, 1:], passage.logits[w][side, :1]] if null else [own]
                )
                s, e = passage.bounds[w]
                native_tokenwise.append(binary_cross_entropy(reordered, e - s, token - s, link))
            if whole:
                assert found.native[side, gold] == pytest.approx(
                    np.mean(native), rel=1e-5, abs=1e-5
                )
                assert found.native_tokenwise[side, gold] == pytest.approx(
                    np.mean(native_tokenwise), rel=1e-5, abs=1e-5
                )
            else:
                assert np.isnan(found.native[side, gold])
        if null and apart:
            losses = [
                sum(logsumexp(passage.logits[w][s]) - passage.logits[w][s, 0] for s in (0, 1))
                for w in apart
            ]
            assert found.null_window[gold] == pytest.approx(np.mean(losses), rel=1e-5)
        else:
            assert np.isnan(found.null_window[gold])
        owner = passage.owner(first, last)
        if owner < 0:
            assert np.isnan(found.score[gold])
        else:
            score = passage.token(0, owner, first) + passage.token(1, owner, last)
            assert found.score[gold] == pytest.approx(score, rel=1e-6)
        if owner < 0 or last - first >= LONGEST:
            assert np.isnan(found.joint[gold])
        else:
            expected = passage.log_mass(null) - score
            assert found.joint[gold] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
@pytest.mark.parametrize("lengths", [LENGTHS, LONG])
def test_every_loss_of_a_null_target(link: str, lengths: list[int]) -> None:
    windows, _, found = measure(link, null=True, lengths=lengths)
    for pair in range(len(lengths)):
        passage = Passage(windows, pair)
        for side in (0, 1):
            union = passage.union(side, null=True)
            assert found.null_nll[side, pair] == pytest.approx(
                logsumexp(union) - passage.best_null()[side], rel=1e-5
            )
            native = [logsumexp(each[side]) - each[side, 0] for each in passage.logits]
            assert found.null_native[side, pair] == pytest.approx(np.mean(native), rel=1e-5)
            expected = binary_cross_entropy(union, len(union) - 1, None, link)
            assert found.null_tokenwise[side, pair] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        expected = passage.log_mass(null=True) - passage.best_null().sum()
        assert found.null_joint[pair] == pytest.approx(expected, rel=1e-5)


def test_without_a_null_option_a_null_target_has_no_loss() -> None:
    _, _, found = measure("softmax", null=False)
    assert np.isnan(found.null_nll).all()
    assert np.isnan(found.null_native).all()
    assert np.isnan(found.null_tokenwise).all()
    assert np.isnan(found.null_joint).all()


def test_batches_change_no_loss() -> None:
    _, _, together = measure("softmax", null=True, batch_tokens=10_000)
    _, _, alone = measure("softmax", null=True, batch_tokens=1)
    for name in PassageLosses.__dataclass_fields__:
        np.testing.assert_allclose(
            getattr(together, name), getattr(alone, name), rtol=4e-5, atol=1e-6
        )


def test_a_passage_of_one_token_has_no_loss_at_all() -> None:
    _, golds, found = measure("softmax", null=False)
    only = int(np.flatnonzero(golds.pair == 3)[0])
    assert found.nll[:, only].tolist() == [0.0, 0.0]
    assert found.tokenwise[:, only].tolist() == [0.0, 0.0]


def test_in_one_window_native_and_passage_losses_agree() -> None:
    for link in ("softmax", "sigmoid"):
        _, golds, found = measure(link, null=True)
        one = golds.pair == 0
        np.testing.assert_allclose(found.nll[:, one], found.native[:, one], rtol=1e-5)
        np.testing.assert_allclose(
            found.tokenwise[:, one], found.native_tokenwise[:, one], rtol=1e-5
        )


def test_power_sums_are_those_of_every_power_by_itself() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 5, 9) * 6
    logits[0, 0] = -torch.inf
    logits[0, 1] += 3e4  # what a network in half precision can give at most
    logits[1, 2, 3:] = -torch.inf
    expected = torch.stack([torch.logsumexp(k * logits, -1) for k in range(1, POWERS + 1)], -1)
    torch.testing.assert_close(log_power_sums(logits), expected, rtol=1e-5, atol=1e-5)
    assert (log_power_sums(logits)[0, 0] == -torch.inf).all()
    assert torch.isnan(log_power_sums(torch.tensor([0.0, torch.nan]))).all()


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_likely_tokens_are_those_of_one_softmax_over_the_passage(link: str, null: bool):
    """Of one window and of many, each token with the logits of the window that owns it."""
    windows = make_windows(LENGTHS, max_length=16, overlap=5)
    golds = make_golds(SPANS)
    _, measured = decode_and_measure(
        FakeReader(SEED, levels=0),
        windows,
        Decoding(max_answer_length=LONGEST, null=null),
        64,
        golds,
        link,
    )
    losses = passage_losses(windows, measured)
    unlikely = 0
    for pair, tokens in enumerate(LENGTHS):
        sides = [Passage(windows, pair).union(side, null) for side in (0, 1)]
        expected = np.stack([np.exp(side[:tokens] - logsumexp(side)) for side in sides])
        shown = expected >= np.maximum(LEAST_PROBABILITY, np.sort(expected)[:, -TOPS:][:, :1])
        unlikely += int((~shown).sum())
        base = windows.passages.bounds[pair]
        wanted = [
            [
                windows.passages.char_start[base + token],
                windows.passages.char_end[base + token],
                *expected[:, token],
            ]
            for token in np.flatnonzero(shown.any(0))
        ]
        found = likely_tokens(windows, measured.losses, losses.normaliser, pair)
        assert len(found) == len(wanted) > 0
        for mine, theirs, kept in zip(found, wanted, shown[:, shown.any(0)].T, strict=True):
            assert mine[:2] == theirs[:2]
            assert [share is not None for share in mine[2:]] == kept.tolist()
            assert [share for share in mine[2:] if share is not None] == pytest.approx(
                np.array(theirs[2:])[kept], abs=1e-6
            )
    assert unlikely > 0


def test_of_many_likely_tokens_the_likeliest_are_kept():
    windows = make_windows([100], max_length=40, overlap=5)
    golds = make_golds({0: [(0, 2)]})

    def flatten(pair: int, start: int, logits: np.ndarray) -> None:
        logits /= 4

    reader = FakeReader(SEED, levels=0, spoil=flatten)
    _, measured = decode_and_measure(reader, windows, Decoding(max_answer_length=6), 4096, golds)
    losses = passage_losses(windows, measured)
    logits = Passage(windows, 0).union(0, null=False) / 4
    starts = [
        share
        for *_, share, _ in likely_tokens(windows, measured.losses, losses.normaliser, 0)
        if share is not None
    ]
    expected = np.sort(np.exp(logits - logsumexp(logits)))[::-1]
    assert expected[TOPS] > LEAST_PROBABILITY
    assert sorted(starts, reverse=True) == pytest.approx(expected[:TOPS], abs=1e-6)
