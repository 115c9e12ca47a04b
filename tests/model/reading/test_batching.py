from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.reading.batching import assemble, plan_batches
from model.reading.tokenizer import PairFormat
from model.reading.windows import WindowLimits, Windows, cut_windows
from tests.checkpoints import Checkpoint
from tests.model.fakes import CONTEXT_FIRST, QUESTION_FIRST, make_windows
from tests.model.texts import TRICKY_CONTEXTS, long_context

QUESTIONS = ["Who waved at the flag?", "Où est le cafe\u0301 👋🏽?"]


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_batches_partition_the_windows_within_the_budget(
    lengths: list[int], batch_tokens: int
) -> None:
    batches = plan_batches(np.array(lengths, np.int64), batch_tokens)
    order = [window for batch in batches for window in batch.tolist()]
    assert order == sorted(range(len(lengths)), key=lambda window: (-lengths[window], window))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= batch_tokens
    for batch, following in zip(batches, batches[1:], strict=False):
        assert (len(batch) + 1) * lengths[batch[0]] > batch_tokens, (
            f"{following[0]} would have fitted"
        )


def test_a_batch_of_two_windows_laid_out_by_hand() -> None:
    windows = make_windows(
        [5, 2], max_length=8, overlap=1, question_tokens=[1, 2], can_start=[1, 0, 1, 1, 1, 1, 1]
    )
    batch = assemble(windows, np.array([1, 2]))
    first, second = 100_000, 100_001
    assert batch.input_ids.tolist() == [
        [1, first, 2, 103, 104, 2, 0],
        [1, second, second, 2, 105, 106, 2],
    ]
    assert batch.token_types.tolist() == [[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1]]
    assert batch.attention.tolist() == [[True] * 6 + [False], [True] * 7]
    assert batch.in_context.tolist() == [
        [False] * 3 + [True] * 2 + [False] * 2,
        [False] * 4 + [True] * 2 + [False],
    ]
    assert (batch.context_start.tolist(), batch.context_stop.tolist()) == ([3, 4], [5, 6])
    assert batch.passage_start.tolist() == [3, 0]
    assert batch.classifier.tolist() == [0, 0]


def test_a_format_with_the_context_first_and_the_classifier_last() -> None:
    windows = make_windows([3, 1], max_length=9, overlap=1, pair_format=CONTEXT_FIRST)
    batch = assemble(windows, np.array([0, 1]))
    assert batch.input_ids.tolist() == [
        [100, 101, 102, 2, 100_000, 2, 1],
        [103, 2, 100_001, 2, 1, 0, 0],
    ]
    assert batch.token_types.tolist() == [[0, 0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 0, 0]]
    assert batch.context_start.tolist() == [0, 0]
    assert batch.classifier.tolist() == [6, 4]


def test_a_format_without_special_tokens() -> None:
    bare = dict.fromkeys(
        ("before", "between", "after", "before_types", "between_types", "after_types"), ()
    )
    windows = make_windows(
        [3, 1],
        max_length=9,
        overlap=1,
        pair_format=replace(QUESTION_FIRST, **bare, classifier=None),
    )
    batch = assemble(windows, np.array([0, 1]))
    assert batch.input_ids.tolist() == [[100_000, 100, 101, 102], [100_001, 103, 0, 0]]
    assert batch.attention.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.classifier is None


@pytest.mark.parametrize(
    "pair_format", [QUESTION_FIRST, CONTEXT_FIRST], ids=["question first", "context first"]
)
def test_masks_and_owned_spans_move_with_the_context(pair_format: PairFormat) -> None:
    random = np.random.default_rng(0)
    marks = random.random((2, 35)) < 0.5
    windows = make_windows(
        [30, 5],
        max_length=14,
        overlap=6,
        question_tokens=[3, 1],
        pair_format=pair_format,
        can_start=marks[0],
        can_end=marks[1],
    )
    batch = assemble(windows, np.arange(len(windows)))
    for row in range(len(windows)):
        start, stop = windows.start[row], windows.stop[row]
        base, shift = windows.passages.bounds[windows.pair[row]], batch.context_start[row] - start
        expected = torch.zeros(2, batch.input_ids.shape[1], dtype=torch.bool)
        expected[:, start + shift : stop + shift] = torch.from_numpy(
            marks[:, base + start : base + stop]
        )
        assert torch.equal(torch.stack([batch.can_start[row], batch.can_end[row]]), expected)
        for i in range(start, stop):
            for j in range(i, stop):
                owned = windows.owned_low[row] <= i + j < windows.owned_high[row]
                assert owned == (batch.owned_low[row] <= i + j + 2 * shift < batch.owned_high[row])


def cut(
    checkpoint: Checkpoint, questions: list[str], contexts: list[str], max_length: int, overlap: int
) -> Windows:
    """Return windows of every question with every context."""
    tokenizer = checkpoint.reader.tokenizer()
    grid = [(q, c) for q in range(len(questions)) for c in range(len(contexts))]
    return cut_windows(
        tokenizer.format,
        tokenizer.passages(contexts),
        tokenizer.questions(questions),
        np.array([c for _, c in grid]),
        np.array([q for q, _ in grid]),
        WindowLimits(max_length, overlap, max_windows=1000),
    )


@pytest.mark.parametrize(("max_length", "overlap"), [(64, 20), (150, 60)])
def test_ids_and_token_types_equal_the_pair_call_window_by_window(
    checkpoint: Checkpoint, max_length: int, overlap: int
) -> None:
    contexts = [*TRICKY_CONTEXTS.values(), long_context()]
    windows = cut(checkpoint, QUESTIONS, contexts, max_length, overlap)
    batch = assemble(windows, np.arange(len(windows)))
    tokenizer = checkpoint.fresh_tokenizer()
    question_first = tokenizer.padding_side == "right"
    row = 0
    for question in QUESTIONS:
        for context in contexts:
            called = tokenizer(
                *((question, context) if question_first else (context, question)),
                truncation="only_second" if question_first else "only_first",
                max_length=max_length,
                stride=overlap,
                return_overflowing_tokens=True,
                return_token_type_ids=True,
            )
            for ids, types in zip(called["input_ids"], called["token_type_ids"], strict=True):
                assert batch.input_ids[row, : len(ids)].tolist() == ids
                assert batch.token_types[row, : len(ids)].tolist() == types
                assert batch.attention[row].tolist() == [
                    k < len(ids) for k in range(batch.attention.shape[1])
                ]
                assert (batch.input_ids[row, len(ids) :] == tokenizer.pad_token_id).all()
                assert batch.input_ids[row, batch.classifier[row]] == tokenizer.cls_token_id
                row += 1
    assert row == len(windows) > len(QUESTIONS) * len(contexts)
