"""The audit's rows: every loss, prediction and count of an example, as Arrow columns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from model.audit.golds import Golds
from model.audit.label_errors import label_errors
from model.audit.losses import PassageLosses
from model.audit.metrics import grades
from model.reading.columns import candidate_columns
from model.reading.spans import PassageSpans
from model.reading.windows import Windows

_LOSSES = (
    "nll_start",
    "nll_end",
    "nll",
    "nll_per_token",
    "nll_half",
    "min_nll_start",
    "min_nll_end",
    "min_nll",
    "marginal_joint_nll",
    "marginal_start_nll",
    "marginal_end_nll",
    "native_nll_start",
    "native_nll_end",
    "native_nll",
    "tokenwise_start",
    "tokenwise_end",
    "tokenwise",
    "tokenwise_per_token",
    "min_tokenwise",
    "native_tokenwise",
    "null_window_nll",
)
"""float64, nats; null where undefined. `nll*` and `tokenwise*` are over the passage, `native*` mean over windows."""

_COUNTS = (
    "context_characters",
    "num_tokens",
    "num_windows",
    "windows_whole",
    "windows_partly",
    "windows_without",
    "golds",
    "golds_dropped",
)

AUDIT_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.float64()) for name in _LOSSES),
        *(pa.field(name, pa.int32()) for name in _COUNTS),
        pa.field("gold_start", pa.int32()),
        pa.field("gold_end", pa.int32()),
        pa.field("gold_rank", pa.int32()),
        pa.field("gold_probability", pa.float32()),
        pa.field("probability", pa.float32()),
        pa.field("null_probability", pa.float32()),
        pa.field("prediction", pa.string()),
        pa.field("prediction_start", pa.int32()),
        pa.field("prediction_end", pa.int32()),
        pa.field("span_score", pa.float32()),
        pa.field("null_score", pa.float32()),
        pa.field("exact_match", pa.float32()),
        pa.field("f1", pa.float32()),
        pa.field("character_f1", pa.float32()),
        pa.field("label_error", pa.float32()),
        pa.field("label_error_reason", pa.string()),
        *(
            pa.field(f"{name}_hash", pa.binary(16))
            for name in ("question", "context", "pair", "gold")
        ),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
    ]
)
"""The output columns of audit, in order. `prediction` is "" where the model decides for no answer."""


@dataclass(frozen=True, slots=True)
class RowLosses:
    """Losses and counts of every row, [rows], nan (or 0) where undefined; two-sided arrays are [2, rows]."""

    nll: np.ndarray
    min_nll: np.ndarray
    marginal_joint: np.ndarray
    marginal: np.ndarray
    native: np.ndarray
    tokenwise: np.ndarray
    min_tokenwise: np.ndarray
    native_tokenwise: np.ndarray
    null_window: np.ndarray
    whole: np.ndarray
    partly: np.ndarray
    first_gold: np.ndarray


def row_losses(golds: Golds, losses: PassageLosses, row_pair: np.ndarray) -> RowLosses:
    """From golds to rows: first gold, gold of least loss, marginals over distinct golds, starts and ends.

    A row without golds has the null target. `first_gold` is -1 there.
    """
    rows = len(row_pair)
    counts = golds.of_row.lengths
    answered = np.flatnonzero(counts > 0)
    first_gold = np.full(rows, -1, np.int64)
    first_gold[answered] = golds.of_row.values[golds.of_row.bounds[answered]]
    pair = np.maximum(row_pair, 0)
    nulls = (counts == 0) & (row_pair >= 0)

    def of_first(per_gold: np.ndarray, per_pair: np.ndarray | None = None) -> np.ndarray:
        result = np.full((*per_gold.shape[:-1], rows), np.nan)
        result[..., answered] = per_gold[..., first_gold[answered]]
        if per_pair is not None:
            result[..., nulls] = per_pair[..., pair[nulls]]
        return result

    nll = of_first(losses.nll, losses.null_nll)
    tokenwise = of_first(losses.tokenwise, losses.null_tokenwise)
    min_nll, min_tokenwise, marginal_joint, marginal = (
        nll.copy(),
        tokenwise.sum(0),
        nll.sum(0),
        nll.copy(),
    )
    if len(answered):
        flat, at = golds.of_row.values, golds.of_row.bounds[answered]
        row = np.repeat(np.arange(rows), counts)
        totals = losses.nll.sum(0)[flat]
        least = np.lexsort((np.arange(len(flat)), totals, row))[at]
        min_nll[:, answered] = losses.nll[:, flat[least]]
        min_tokenwise[answered] = np.minimum.reduceat(losses.tokenwise.sum(0)[flat], at)
        marginal_joint[answered] = -np.logaddexp.reduceat(-totals, at)
        for side, token in enumerate((golds.first, golds.last)):
            distinct = np.sort(
                np.unique(np.stack([row, token[flat]]), axis=1, return_index=True)[1]
            )
            begin = np.searchsorted(row[distinct], answered)
            marginal[side, answered] = -np.logaddexp.reduceat(
                -losses.nll[side, flat[distinct]], begin
            )
    return RowLosses(
        nll=nll,
        min_nll=min_nll,
        marginal_joint=marginal_joint,
        marginal=marginal,
        native=of_first(losses.native, losses.null_native),
        tokenwise=tokenwise,
        min_tokenwise=min_tokenwise,
        native_tokenwise=of_first(losses.native_tokenwise),
        null_window=of_first(losses.null_window),
        whole=np.nan_to_num(of_first(losses.whole)).astype(np.int64),
        partly=np.nan_to_num(of_first(losses.partly)).astype(np.int64),
        first_gold=first_gold,
    )


def hash_texts(texts: Sequence[str]) -> list[bytes]:
    """BLAKE2b, 16 bytes, of each text's UTF-8."""
    return [
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        for text in texts
    ]


def statuses(
    reasons: Sequence[str | None], rows: RowLosses, golds: Golds, null: bool, too_long: np.ndarray
) -> tuple[list[str], list[str | None]]:
    """The status of every row, and its reason.

    rejected      `reasons` of earlier steps, else those of unusable golds
    null_scored   no gold, and the null option is on; off: unreachable, `no_null_option`
    unreachable   `gold_in_no_window`: no window holds the first gold whole (its passage loss is defined all the same)
    scored        the rest; reason `gold_too_long` if the first gold is longer than max_answer_length: never decoded
    """
    status: list[str] = []
    reason: list[str | None] = []
    for row, earlier in enumerate(reasons):
        if earlier is not None or row in golds.problems:
            found: tuple[str, str | None] = "rejected", earlier or golds.problems[row][0]
        elif rows.first_gold[row] < 0:
            found = ("null_scored", None) if null else ("unreachable", "no_null_option")
        elif rows.whole[row] == 0:
            found = "unreachable", "gold_in_no_window"
        else:
            found = "scored", "gold_too_long" if too_long[row] else None
        status.append(found[0])
        reason.append(found[1])
    return status, reason


def audit_columns(
    *,
    windows: Windows,
    spans: PassageSpans,
    golds: Golds,
    losses: PassageLosses,
    questions: Sequence[str],
    contexts: Sequence[str],
    row_pair: np.ndarray,
    reasons: Sequence[str | None],
    no_answer: np.ndarray,
    max_answer_length: int,
    temperature: float,
    null: bool,
) -> pa.Table:
    """The output columns of audit, one row per input row.

    questions and contexts in the order of those of `windows`, row_pair int64 [rows] (-1 with a reason for a rejected row),
    no_answer bool [pairs]: the model's decision.
    """
    rows = row_losses(golds, losses, row_pair)
    char_start, char_end, texts = candidate_columns(spans, windows, contexts)
    pair = np.maximum(row_pair, 0)
    passage = windows.pair_passage[pair] if len(windows.pair_passage) else pair
    gold = np.maximum(rows.first_gold, 0)
    has_gold = rows.first_gold >= 0
    gold_first = golds.first[gold] if len(golds) else gold
    gold_last = golds.last[gold] if len(golds) else gold
    too_long = has_gold & (gold_last - gold_first >= max_answer_length)
    status, reason = statuses(reasons, rows, golds, null, too_long)
    out = np.array([each == "rejected" for each in status], bool)
    if not len(windows.pair_passage):
        columns = {field.name: pa.nulls(len(status), field.type) for field in AUDIT_SCHEMA}
        return pa.table(
            {**columns, "status": status, "reason": pa.array(reason, pa.string())},
            schema=AUDIT_SCHEMA,
        )

    tokens = windows.passages.lengths[passage]
    count = windows.counts[pair]
    base = windows.passages.bounds[passage]
    last_token = max(0, len(windows.passages.ids) - 1)
    with np.errstate(invalid="ignore", over="ignore"):
        score = np.where(has_gold & ~too_long, losses.score[gold] if len(golds) else np.nan, np.nan)
        gold_probability = np.exp(score / temperature - spans.log_normaliser[pair])
    unanswerable = ~has_gold & null
    gold_probability = np.where(unanswerable, spans.null_probability[pair], gold_probability)
    ranks = (spans.start[pair] == gold_first[:, None]) & (spans.end[pair] == gold_last[:, None])
    ranks &= np.arange(ranks.shape[1]) < spans.found[pair][:, None]
    decided_null = no_answer[pair]
    predictions = [
        "" if nothing else (texts[p] or [""])[0]
        for p, nothing in zip(pair, decided_null, strict=True)
    ]
    scores = np.array(
        [
            (np.nan, np.nan, np.nan) if skip else grades(text, answers)
            for text, answers, skip in zip(predictions, golds.texts, out, strict=True)
        ],
        np.float64,
    ).reshape(-1, 3)

    suspicion, suspicion_reason = label_errors(golds, losses, spans, row_pair, no_answer)

    values = {
        "nll_start": rows.nll[0],
        "nll_end": rows.nll[1],
        "nll": rows.nll.sum(0),
        "nll_per_token": rows.nll.sum(0) / np.maximum(tokens, 1),
        "nll_half": rows.nll.sum(0) / 2,
        "min_nll_start": rows.min_nll[0],
        "min_nll_end": rows.min_nll[1],
        "min_nll": rows.min_nll.sum(0),
        "marginal_joint_nll": rows.marginal_joint,
        "marginal_start_nll": rows.marginal[0],
        "marginal_end_nll": rows.marginal[1],
        "native_nll_start": rows.native[0],
        "native_nll_end": rows.native[1],
        "native_nll": rows.native.sum(0),
        "tokenwise_start": rows.tokenwise[0],
        "tokenwise_end": rows.tokenwise[1],
        "tokenwise": rows.tokenwise.sum(0),
        "tokenwise_per_token": rows.tokenwise.sum(0) / np.maximum(tokens, 1),
        "min_tokenwise": rows.min_tokenwise,
        "native_tokenwise": rows.native_tokenwise.sum(0),
        "null_window_nll": rows.null_window,
        "gold_probability": gold_probability,
        "probability": spans.probability[pair, 0],
        "null_probability": spans.null_probability[pair],
        "span_score": spans.span_score[pair, 0],
        "null_score": spans.null_score[pair],
        "exact_match": scores[:, 0],
        "f1": scores[:, 1],
        "character_f1": scores[:, 2],
        "label_error": suspicion,
    }
    counts = {
        "context_characters": np.array([len(context) for context in contexts])[passage],
        "num_tokens": tokens,
        "num_windows": count,
        "windows_whole": rows.whole,
        "windows_partly": rows.partly,
        "windows_without": np.where(has_gold, count - rows.whole - rows.partly, count),
        "golds": golds.of_row.lengths,
        "golds_dropped": golds.dropped,
    }
    places = {
        "gold_start": (
            windows.passages.char_start[np.minimum(base + gold_first, last_token)],
            ~has_gold,
        ),
        "gold_end": (
            windows.passages.char_end[np.minimum(base + gold_last, last_token)],
            ~has_gold,
        ),
        "gold_rank": (ranks.argmax(1) + 1, ~(has_gold & ranks.any(1))),
        "prediction_start": (char_start[pair, 0], decided_null),
        "prediction_end": (char_end[pair, 0], decided_null),
    }
    for (
        name,
        value,
    ) in values.items():  # rounding leaves -2e-16 of 0; adding 0.0 turns -0.0 into 0.0
        values[name] = (np.maximum(value, 0.0) if name in _LOSSES else value) + 0.0
    columns = {
        **{
            name: pa.array(value, pa.float64(), mask=out | ~np.isfinite(value))
            for name, value in values.items()
        },
        **{name: pa.array(value.astype(np.int32), mask=out) for name, value in counts.items()},
        **{
            name: pa.array(value.astype(np.int32), mask=out | none)
            for name, (value, none) in places.items()
        },
        "prediction": pa.array(
            [None if skip else text for text, skip in zip(predictions, out, strict=True)],
            pa.string(),
        ),
        "label_error_reason": pa.array(
            [None if skip else code for code, skip in zip(suspicion_reason, out, strict=True)],
            pa.string(),
        ),
        **_hashes(windows, questions, contexts, golds, pair, passage, out),
        "status": pa.array(status, pa.string()),
        "reason": pa.array(reason, pa.string()),
    }
    return pa.table([columns[name] for name in AUDIT_SCHEMA.names], names=AUDIT_SCHEMA.names).cast(
        AUDIT_SCHEMA
    )


def _hashes(
    windows: Windows,
    questions: Sequence[str],
    contexts: Sequence[str],
    golds: Golds,
    pair: np.ndarray,
    passage: np.ndarray,
    out: np.ndarray,
) -> dict[str, pa.Array]:
    """Hashes (16 bytes) each row's question, context, pair (both hashes) and golds (character spans).

    The spans are those of the gold texts, not of their tokens: one unknown token may hold two golds.
    """
    question = _take(hash_texts(questions), windows.pair_question[pair])
    context = _take(hash_texts(contexts), passage)
    both = [
        hashlib.blake2b(q + c, digest_size=16).digest()
        for q, c in zip(question, context, strict=True)
    ]
    told = [str([list(span) for span in spans]) for spans in golds.char_spans]
    gold = [hashlib.blake2b(each.encode(), digest_size=16).digest() for each in told]
    named = {
        "question_hash": question,
        "context_hash": context,
        "pair_hash": both,
        "gold_hash": gold,
    }
    return {
        name: pa.array(
            [None if skip else value for value, skip in zip(values, out, strict=True)],
            pa.binary(16),
        )
        for name, values in named.items()
    }


def _take(values: list[bytes], places: np.ndarray) -> list[bytes]:
    return [values[place] for place in places]
