from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.audit.metrics import grade
from model.checkpoint import LocalFolder
from model.reading.reader import CheckpointReader
from model.reading.span_reader import SpanReader
from model.reading.window_prior import match_windows
from model.training.data import make_examples, with_joined_passages
from model.training.prior import PRIOR_WEIGHTS, LongDocuments, fit_weight, read_joined

TEXTS = (
    "Ada keeps the lamp in the tower all winter.",
    "Boats pass the reef at noon and wave.",
    "Corn grows behind the school, where nobody looks.",
    "Dust settles on the maps of the old survey.",
    "Eels swim up the river in a wet spring.",
)


def documents(*windows: tuple[int, float, float, float]) -> LongDocuments:
    """Return windows (row, score, match, F1)."""
    row, score, match, f1 = np.array(windows, float).reshape(-1, 4).T
    return LongDocuments(row.astype(int), score, match, f1)


def test_the_weight_with_the_best_expected_f1_is_chosen() -> None:
    """The right window leads from 1 on in the first row, and no longer from 3 on in the second."""
    found = documents(
        (0, 2.0, 0.0, 0.0), (0, 0.0, 2.0, 1.0), (1, 6.0, 0.0, 1.0), (1, 0.0, 2.0, 0.0)
    )
    best = [weight for weight in PRIOR_WEIGHTS.tolist() if found.mean_f1(weight) == 100]
    assert (best[0], best[-1]) == (1.1, 3.0)
    # The two margins, 2 m - 2 and 6 - 2 m, are equal at 2.
    assert fit_weight(found) == 2.0
    shares = 1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(-2.0))
    assert found.expected_f1(2.0) == pytest.approx(100 * np.mean(shares))
    # Scores that differ half as much need half the weight.
    assert fit_weight(replace(found, span_score=found.span_score / 2)) == 1.0


def test_windows_that_match_equally_need_no_weight() -> None:
    found = documents((0, 3.0, 1.0, 0.0), (0, 1.0, 1.0, 1.0))
    assert {found.mean_f1(weight) for weight in PRIOR_WEIGHTS} == {0.0}
    assert fit_weight(found) == 0


def test_windows_without_a_span_count_for_nothing() -> None:
    found = documents((0, -np.inf, 5.0, 0.0), (0, 1.0, 1.0, 0.5))
    assert found.expected_f1(1.0) == 50


def test_joined_passages_are_read_as_annotate_reads_them(bert_folder: Path) -> None:
    reader = CheckpointReader(LocalFolder(str(bert_folder)))
    rows: list[dict[str, Any]] = [
        {
            "question": f"What is in {k}?",
            "context": f"{text} {text}",
            "answers": {"text": [text.split()[0]], "answer_start": [0]},
        }
        for k, text in enumerate(TEXTS)
        if text.split()
    ]
    found = read_joined(reader, rows, 4, 64, 30, 4096)
    joined = with_joined_passages(rows, 1.0, 4, seed=0)
    windows = make_examples(joined, reader.tokenizer(), 64, 30, 64).windows
    assert found.row.tolist() == windows.pair.tolist()
    assert found.match.tolist() == match_windows(windows).tolist()
    assert found.match.max() > 0

    # Without the prior, the best spans are those of the reader.
    limits = {"max_length": 64, "overlap": 30, "max_question": 16}
    answers = SpanReader.load(str(bert_folder), dtype="float32", **limits).answer(
        *([row[name] for row in joined] for name in ("question", "context"))
    )
    graded = [
        grade(answer.answer_text or "", row["answers"]["text"])[1]
        for answer, row in zip(answers, joined, strict=True)
    ]
    assert max(graded) > 0
    assert found.mean_f1(0.0) == pytest.approx(100 * np.mean(graded))
