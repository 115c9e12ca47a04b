"""Token probabilities agree with the losses that audits measure, whatever windows a passage has."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import LocalFolder
from model.pairs import WindowLimits
from model.reader import CheckpointReader
from model.token_probabilities import token_probabilities
from tests.model.fakes import FakeReader, make_windows
from tests.transforms.fakes import DECODING, asked, make_chunk
from tests.transforms.test_measure_loss import gold, with_answers
from transforms.decode_answers import decode_answers
from transforms.make_windows import InputColumns
from transforms.make_windows import make_windows as cut_chunk
from transforms.measure_loss import AuditOptions, measure_loss
from transforms.predict_spans import predict_spans

LONG = "the harbour light was lit at dusk by Ada and the boats came home over the dark bay " * 3


@pytest.mark.parametrize("null", [False, True])
def test_a_gold_costs_what_its_tokens_say(bert_folder: Path, null: bool):
    """nll_start = -log of the first token's start probability: one window, many windows, the same passage twice."""
    reader = CheckpointReader(LocalFolder(str(bert_folder)))
    golds_of_long = gold("Ada", LONG.index("Ada")), gold("bay", LONG.rindex("bay"))
    table = with_answers(asked("Ada lit it.", LONG, LONG), gold("Ada", 0), *golds_of_long)
    limits = WindowLimits(max_length=32, overlap=8, max_question=8, max_windows=99)
    windowed = cut_chunk(make_chunk(table), reader.tokenizer(), limits, InputColumns(answers="answers"))
    assert windowed.windows.counts[0] == 1
    assert windowed.windows.counts[1] > 2
    decoding = replace(DECODING, null=null)
    answered = decode_answers(predict_spans(windowed, reader, decoding, 4096), decoding, 0.0, annotate=False)
    (outcome,) = measure_loss(answered, decoding, AuditOptions()).outcomes
    tokens, found, _ = token_probabilities(reader, windowed.windows, null, 64)
    golds = windowed.golds
    assert golds is not None
    for row, audit in enumerate(outcome.columns.to_pylist()):
        pair = windowed.row_pair[row]
        mine = found[:, tokens.bounds[pair] : tokens.bounds[pair + 1]]
        (place,) = golds.of_row[row]
        assert -math.log(mine[0, golds.first[place]]) == pytest.approx(audit["nll_start"], rel=1e-4)
        assert -math.log(mine[1, golds.last[place]]) == pytest.approx(audit["nll_end"], rel=1e-4)
        total = mine.sum(1)
        assert (total < 1 - 1e-6).all() if null else total == pytest.approx([1, 1], rel=1e-5)


def test_lanes_change_nothing():
    windows = make_windows([5, 40, 7, 90], max_length=16, overlap=5)
    one, several = (token_probabilities(FakeReader(most=most), windows, null=True, batch_tokens=32)[1] for most in (1, 3))
    np.testing.assert_array_equal(one, several)
    assert several.any()


def test_a_pair_that_the_network_failed_at_has_no_probability():
    def fail_at(pair: int, start: int, logits: np.ndarray) -> None:
        if pair == 1 and start:
            raise RuntimeError("this window is one too many")

    windows = make_windows([5, 40, 7], max_length=16, overlap=5)
    tokens, found, failures = token_probabilities(FakeReader(spoil=fail_at), windows, null=False, batch_tokens=4096)
    of_pair = [found[:, tokens.bounds[pair] : tokens.bounds[pair + 1]].sum() for pair in range(3)]
    assert of_pair == pytest.approx([2, 0, 2])
    assert failures == {1: "RuntimeError: this window is one too many"}


def test_a_pair_without_windows_has_no_probability(bert_folder: Path):
    reader = CheckpointReader(LocalFolder(str(bert_folder)))
    limits = WindowLimits(max_length=32, overlap=8, max_question=8, max_windows=2)
    windowed = cut_chunk(make_chunk(asked("Ada" + "." * 200, "Ada lit it.")), reader.tokenizer(), limits)
    tokens, found, failures = token_probabilities(reader, windowed.windows, null=False, batch_tokens=4096)
    assert windowed.windows.counts.tolist() == [0, 1]
    assert not failures
    assert not found[:, : tokens.bounds[1]].any()
    assert found[:, tokens.bounds[1] :].sum(1) == pytest.approx([1, 1])
