"""The output columns of the audit, declared once each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from model.audit.rows import Examples
from model.columns import Column, schema_of, table_of

Values = Callable[[Examples], np.ndarray]


def _losses(meaning: str, **values: Values) -> Iterator[Column[Examples]]:
    """Yield columns of losses in nats that share a meaning."""
    for name, value in values.items():
        yield Column(name, pa.float64(), meaning, partial(_nonnegative, value))


def _figures(meaning: str, **values: Values) -> Iterator[Column[Examples]]:
    """Yield float32 columns that share a meaning."""
    for name, value in values.items():
        yield Column(name, pa.float32(), meaning, partial(_unsigned_zero, value))


def _counts(meaning: str, exact: bool = False, **values: Values) -> Iterator[Column[Examples]]:
    """Yield columns of counts that share a meaning."""
    for name, value in values.items():
        yield Column(name, pa.int32(), meaning, value, exact=exact)


def _nonnegative(value: Values, examples: Examples) -> np.ndarray:
    """Return losses without the -2e-16 that rounding leaves of 0."""
    return np.maximum(value(examples), 0.0) + 0.0


def _unsigned_zero(value: Values, examples: Examples) -> np.ndarray:
    """Return figures with 0.0 in the place of -0.0."""
    return value(examples) + 0.0


NLL = "negative log-likelihood of the first gold's start, of its end, and their sum"
LEAST = "`nll` and its parts of the gold that costs least"
MARGINAL = "over all golds: of all distinct spans, of all distinct starts, of all distinct ends"
NATIVE = "`nll` with each window's own softmax, mean over the windows that hold the gold whole"
TOKENWISE = "binary cross-entropy over the tokens, of start, of end, and their sum"
GOLD_SPAN = "where the first gold is, in code points, `end` exclusive"
SPAN = "where it is, in code points, `end` exclusive; null for no answer"
HASH = "for joins and duplicates"

AUDIT_COLUMNS: tuple[Column[Examples], ...] = (
    *_losses(
        NLL,
        nll_start=lambda examples: examples.row_losses.nll[0],
        nll_end=lambda examples: examples.row_losses.nll[1],
        nll=lambda examples: examples.row_losses.nll.sum(0),
    ),
    *_losses(
        "`nll / num_tokens`",
        nll_per_token=lambda examples: (
            examples.row_losses.nll.sum(0) / np.maximum(examples.tokens, 1)
        ),
    ),
    *_losses("`nll / 2`", nll_half=lambda examples: examples.row_losses.nll.sum(0) / 2),
    *_losses(
        LEAST,
        min_nll_start=lambda examples: examples.row_losses.min_nll[0],
        min_nll_end=lambda examples: examples.row_losses.min_nll[1],
        min_nll=lambda examples: examples.row_losses.min_nll.sum(0),
    ),
    *_losses(
        MARGINAL,
        marginal_joint_nll=lambda examples: examples.row_losses.marginal_joint,
        marginal_start_nll=lambda examples: examples.row_losses.marginal[0],
        marginal_end_nll=lambda examples: examples.row_losses.marginal[1],
    ),
    *_losses(
        NATIVE,
        native_nll_start=lambda examples: examples.row_losses.native[0],
        native_nll_end=lambda examples: examples.row_losses.native[1],
        native_nll=lambda examples: examples.row_losses.native.sum(0),
    ),
    *_losses(
        TOKENWISE,
        tokenwise_start=lambda examples: examples.row_losses.tokenwise[0],
        tokenwise_end=lambda examples: examples.row_losses.tokenwise[1],
        tokenwise=lambda examples: examples.row_losses.tokenwise.sum(0),
    ),
    *_losses(
        "`tokenwise / num_tokens`",
        tokenwise_per_token=lambda examples: (
            examples.row_losses.tokenwise.sum(0) / np.maximum(examples.tokens, 1)
        ),
    ),
    *_losses(
        "`tokenwise` of the gold that costs least",
        min_tokenwise=lambda examples: examples.row_losses.min_tokenwise,
    ),
    *_losses(
        "`tokenwise` within each window, mean over the windows that hold the gold whole",
        native_tokenwise=lambda examples: examples.row_losses.native_tokenwise.sum(0),
    ),
    *_losses(
        "-log of the first gold's share of all valid spans, at a temperature of 1; null where it is"
        " not one of them",
        joint_nll=lambda examples: examples.row_losses.joint,
    ),
    *_losses(
        'negative log-likelihood of "no answer", mean over the windows without the first gold',
        null_window_nll=lambda examples: examples.row_losses.null_window,
    ),
    *_counts(
        "length of the context, in code points",
        context_characters=lambda examples: np.array(
            [len(context) for context in examples.contexts]
        )[examples.passage],
    ),
    *_counts("tokens of the passage", exact=True, num_tokens=lambda examples: examples.tokens),
    *_counts(
        "context windows of the passage",
        exact=True,
        num_windows=lambda examples: examples.windows.counts[examples.pair],
    ),
    *_counts(
        "windows that hold the first gold whole",
        exact=True,
        windows_whole=lambda examples: examples.row_losses.whole,
    ),
    *_counts(
        "windows that hold part of the first gold",
        windows_partly=lambda examples: examples.row_losses.partly,
    ),
    *_counts(
        "windows that hold no part of the first gold",
        windows_without=lambda examples: (
            examples.windows.counts[examples.pair]
            - np.where(examples.has_gold, examples.row_losses.whole + examples.row_losses.partly, 0)
        ),
    ),
    *_counts(
        "distinct golds that are used",
        exact=True,
        golds=lambda examples: examples.golds.of_row.lengths,
    ),
    *_counts("golds that are not used", golds_dropped=lambda examples: examples.golds.dropped),
    Column(
        "gold_start",
        pa.int32(),
        GOLD_SPAN,
        lambda examples: examples.gold_start,
        null=lambda examples: examples.golds_missing,
        exact=True,
    ),
    Column(
        "gold_end",
        pa.int32(),
        GOLD_SPAN,
        lambda examples: examples.gold_end,
        null=lambda examples: examples.golds_missing,
        exact=True,
    ),
    Column(
        "gold_rank",
        pa.int32(),
        "rank of the first gold among the n best, from 1; null if it isn't among them",
        lambda examples: examples.gold_found.argmax(1) + 1,
        null=lambda examples: examples.unranked,
    ),
    *_figures(
        "the first gold's share of the posterior; without a gold, that of no answer",
        gold_probability=lambda examples: examples.gold_probability,
    ),
    *_figures(
        "the best span's share of the passage's posterior",
        probability=lambda examples: examples.spans.probability[examples.pair, 0],
    ),
    *_figures(
        "the share of no answer; null where the null option is off",
        null_probability=lambda examples: examples.spans.null_probability[examples.pair],
    ),
    Column(
        "prediction",
        pa.string(),
        'the text that the model answers, `""` for no answer',
        lambda examples: examples.predictions,
    ),
    Column(
        "prediction_start",
        pa.int32(),
        SPAN,
        lambda examples: examples.offsets[0][examples.pair, 0],
        null=lambda examples: examples.hidden,
    ),
    Column(
        "prediction_end",
        pa.int32(),
        SPAN,
        lambda examples: examples.offsets[1][examples.pair, 0],
        null=lambda examples: examples.hidden,
    ),
    *_figures(
        "the best span's start logit + end logit",
        span_score=lambda examples: examples.spans.span_score[examples.pair, 0],
    ),
    *_figures(
        "the score of no answer, on the same scale; null where the null option is off",
        null_score=lambda examples: examples.spans.null_score[examples.pair],
    ),
    *_figures(
        "by the rules of SQuAD 2.0; words are split at white space",
        exact_match=lambda examples: examples.grades[:, 0],
        f1=lambda examples: examples.grades[:, 1],
    ),
    *_figures(
        "`f1` with each character of a script without spaces (Chinese, Japanese, Thai, ...) as a"
        " word; `f1` elsewhere",
        character_f1=lambda examples: examples.grades[:, 2],
    ),
    *_figures(
        "how strongly the model contradicts the golds, in nats; 0 where it agrees with one",
        label_error=lambda examples: examples.label_errors[0],
    ),
    Column(
        "label_error_reason",
        pa.string(),
        "how the model contradicts them",
        lambda examples: examples.label_errors[1],
    ),
    Column(
        "question_hash",
        pa.binary(16),
        HASH,
        lambda examples: examples.question_hashes,
    ),
    Column(
        "context_hash",
        pa.binary(16),
        HASH,
        lambda examples: examples.context_hashes,
    ),
    Column(
        "pair_hash",
        pa.binary(16),
        HASH,
        lambda examples: examples.pair_hashes,
        exact=True,
    ),
    Column(
        "gold_hash",
        pa.binary(16),
        "the same for the golds' places in the context",
        lambda examples: examples.gold_hashes,
    ),
    Column(
        "status",
        pa.string(),
        "`scored`, `null_scored`, `unreachable`, `rejected`",
        lambda examples: examples.statuses[0],
        null=None,
        exact=True,
    ),
    Column(
        "reason",
        pa.string(),
        "why a row was rejected or is unreachable, or `gold_too_long`",
        lambda examples: examples.statuses[1],
        null=None,
        exact=True,
    ),
)
"""The output columns of audit, in order. A row without golds has the losses of no answer."""

AUDIT_SCHEMA = schema_of(AUDIT_COLUMNS)


def audit_columns(examples: Examples) -> pa.Table:
    """Return the output columns of audit, one row per input row."""
    return table_of(AUDIT_COLUMNS, examples, asked=len(examples.windows.pair_passage) > 0)
