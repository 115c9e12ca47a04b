"""An audit of rows of all kinds, by a reader whose logits can be computed by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from model.audit.columns import AUDIT_SCHEMA, audit_columns
from model.audit.golds import Golds
from model.audit.losses import PassageLosses, passage_losses
from model.audit.row_losses import RowLosses, row_losses
from model.audit.rows import Examples
from model.reading.decoding import Decoding
from model.reading.posterior import merge_windows
from model.reading.tokenizer import Ragged
from model.reading.windows import Windows
from tests.model.fakes import FakeReader, make_windows
from tests.model.predicted import decode_and_measure

SEED = 11

LENGTHS = [9, 40, 23, 1, 7]
"""Tokens of each passage; in windows of 12 context tokens the second and third need several."""

ROWS: list[tuple[int, list[tuple[int, int]]]] = [
    (0, [(0, 2), (5, 5)]),
    (1, [(18, 20), (18, 22), (30, 32), (3, 3)]),  # two golds share a start
    (1, [(3, 3), (30, 32), (18, 22), (18, 20)]),  # the same golds, another first
    (2, []),  # unanswerable
    (3, [(0, 0)]),
    (-1, []),  # rejected by an earlier step
    (2, [(2, 18)]),  # longer than any window
    (0, [(4, 8), (2, 8), (4, 6)]),  # shares starts and ends, and is longer than max_answer_length
    (4, [(1, 1)]),  # rejected by its golds, as `problems` says
]
"""The pair of each row and its golds, (first, last) token."""


def make_golds(problems: dict[int, tuple[str, str]] | None = None) -> Golds:
    place: dict[tuple[int, int, int], int] = {}
    of_row = [
        [place.setdefault((pair, *span), len(place)) for span in spans] for pair, spans in ROWS
    ]
    columns = np.array(list(place), np.int64)
    dropped = np.arange(len(ROWS))
    texts = [[f"gold {k}" for k in range(len(spans))] for _, spans in ROWS]
    char_spans = [sorted({(2 * first, 2 * last + 1) for first, last in spans}) for _, spans in ROWS]
    return Golds(
        columns[:, 0],
        columns[:, 1],
        columns[:, 2],
        Ragged.of(of_row),
        dropped,
        problems or {},
        texts,
        char_spans,
    )


@dataclass
class Audited:
    windows: Windows
    golds: Golds
    losses: PassageLosses
    rows: RowLosses
    columns: list[dict[str, object]]
    decoding: Decoding
    questions: list[str]
    contexts: list[str]


def audit(null: bool, temperature: float = 1.0, prior: float = 0.0) -> Audited:
    """Everything of the rows above, by a reader whose logits can be computed by hand.

    prior  what each window loses of its log prior to the one before it
    """
    windows = make_windows(LENGTHS, max_length=16, overlap=5)
    if prior:
        windows = replace(windows, log_prior=-prior * windows.index)
    golds = make_golds({8: ("gold_misaligned", "moved")})
    row_pair = np.array([pair for pair, _ in ROWS])
    decoding = Decoding(n_best=3, max_answer_length=4, temperature=temperature, null=null)
    prediction, measured = decode_and_measure(
        FakeReader(SEED, levels=0), windows, decoding, 64, golds
    )
    pairs = len(LENGTHS)
    spans = merge_windows(
        prediction.spans, windows.pair, windows.index, pairs, n_best=3, temperature=temperature
    )
    losses = passage_losses(windows, measured)
    questions = [f"question {pair}" for pair in range(pairs)]
    contexts = [" ".join("abcdefghij"[k % 10] for k in range(length)) for length in LENGTHS]
    with np.errstate(invalid="ignore"):
        no_answer = spans.null_score - spans.span_score[:, 0] > 0
    examples = Examples(
        windows=windows,
        spans=spans,
        golds=golds,
        losses=losses,
        questions=questions,
        contexts=contexts,
        row_pair=row_pair,
        reasons=["context_blank" if pair < 0 else None for pair in row_pair],
        no_answer=no_answer,
        decoding=decoding,
    )
    table = audit_columns(examples)
    assert table.schema == AUDIT_SCHEMA
    rows = row_losses(golds, losses, row_pair)
    return Audited(windows, golds, losses, rows, table.to_pylist(), decoding, questions, contexts)
