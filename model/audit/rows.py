"""The output columns of audit: every loss, prediction and count of an example as Arrow columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pyarrow as pa

from model.audit.golds import Golds
from model.audit.label_errors import label_errors
from model.audit.losses import PassageLosses
from model.audit.metrics import grades
from model.audit.row_losses import RowLosses, row_losses, statuses
from model.columns import Column, schema_of, table_of
from model.reading.columns import candidate_columns
from model.reading.decoding import Decoding
from model.reading.posterior import PassageSpans
from model.reading.windows import Windows


@dataclass(frozen=True)
class Examples:
    """What is known of the rows of a chunk: their golds, and what the model says.

    questions, contexts  in the order of those of `windows`
    row_pair             int64 [rows], the pair that each row asks; -1 for a row with an unusable
                         text, and for some with too many windows (`reasons` has all)
    reasons              [rows], why earlier steps rejected the row, else None
    no_answer            bool [pairs], whether the model decides for no answer
    """

    windows: Windows
    spans: PassageSpans
    golds: Golds
    losses: PassageLosses
    questions: Sequence[str]
    contexts: Sequence[str]
    row_pair: np.ndarray
    reasons: Sequence[str | None]
    no_answer: np.ndarray
    decoding: Decoding

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.row_pair)

    # Pairs and passages

    @cached_property
    def pair(self) -> np.ndarray:
        """Return the pair that each row asks, int64 [rows]; an arbitrary one for rejected rows."""
        return np.maximum(self.row_pair, 0)

    @cached_property
    def passage(self) -> np.ndarray:
        """Return the passage of each row, int64 [rows]."""
        return self.windows.pair_passage[self.pair]

    @property
    def tokens(self) -> np.ndarray:
        """Return the tokens of each row's passage, int64 [rows]."""
        return self.windows.passages.lengths[self.passage]

    # Golds

    @cached_property
    def row_losses(self) -> RowLosses:
        """Return the losses of the rows."""
        return row_losses(self.golds, self.losses, self.row_pair)

    @cached_property
    def has_gold(self) -> np.ndarray:
        """Return which rows have a gold, bool [rows]."""
        return self.row_losses.first_gold >= 0

    @cached_property
    def first_gold(self) -> tuple[np.ndarray, np.ndarray]:
        """Return first and last token of each row's first gold; arbitrary where there is none."""
        gold = np.maximum(self.row_losses.first_gold, 0)
        if not len(self.golds):
            return gold, gold
        return self.golds.first[gold], self.golds.last[gold]

    @cached_property
    def too_long(self) -> np.ndarray:
        """Return which rows have a first gold that is never decoded, bool [rows]."""
        first, last = self.first_gold
        return self.has_gold & (last - first >= self.decoding.max_answer_length)

    @property
    def gold_start(self) -> np.ndarray:
        """Return where the first gold starts in the context, in code points."""
        return self.windows.passages.char_start[self._place(self.first_gold[0])]

    @property
    def gold_end(self) -> np.ndarray:
        """Return where the first gold ends in the context, in code points."""
        return self.windows.passages.char_end[self._place(self.first_gold[1])]

    def _place(self, token: np.ndarray) -> np.ndarray:
        """Return the indices of passage tokens among the tokens of all passages."""
        passages = self.windows.passages
        last = max(0, len(passages.ids) - 1)
        return np.minimum(passages.bounds[self.passage] + token, last)

    @property
    def gold_probability(self) -> np.ndarray:
        """Return the posterior of the first gold, or of no answer where there is no gold."""
        gold, defined = np.maximum(self.row_losses.first_gold, 0), self.has_gold & ~self.too_long
        exponent = np.full(len(self), np.nan)
        if len(self.golds):
            weighted = self.losses.score / self.decoding.temperature + self.losses.log_prior
            exponent = weighted[gold] - self.spans.log_normaliser[self.pair]
        with np.errstate(invalid="ignore", over="ignore"):
            probability = np.exp(np.where(defined, exponent, np.nan))
        unanswerable = ~self.has_gold & self.decoding.null
        return np.where(unanswerable, self.spans.null_probability[self.pair], probability)

    @cached_property
    def gold_found(self) -> np.ndarray:
        """Return which candidate is the first gold, bool [rows, n_best]."""
        spans, pair, (first, last) = self.spans, self.pair, self.first_gold
        same = (spans.start[pair] == first[:, None]) & (spans.end[pair] == last[:, None])
        return same & (np.arange(same.shape[1]) < spans.found[pair][:, None])

    @property
    def unranked(self) -> np.ndarray:
        """Return which rows have no first gold among the candidates, bool [rows]."""
        return self.rejected | ~(self.has_gold & self.gold_found.any(1))

    @property
    def golds_missing(self) -> np.ndarray:
        """Return which rows show no gold, bool [rows]."""
        return self.rejected | ~self.has_gold

    # What the model says

    @cached_property
    def candidates(self) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
        """Return `candidate_columns` of the pairs."""
        return candidate_columns(self.spans, self.windows, self.contexts)

    @property
    def hidden(self) -> np.ndarray:
        """Return which rows show no predicted span, bool [rows]."""
        return self.rejected | self.no_answer[self.pair]

    @cached_property
    def predictions(self) -> list[str]:
        """Return the text of each row's best candidate, "" where the model finds no answer."""
        texts, nothing = self.candidates[2], self.no_answer
        return ["" if nothing[pair] else (texts[pair] or [""])[0] for pair in self.pair]

    @cached_property
    def grades(self) -> np.ndarray:
        """Return exact match, F1 and character F1, float64 [rows, 3]; nan for rejected rows."""
        found = np.full((len(self), 3), np.nan)
        for row in np.flatnonzero(~self.rejected).tolist():
            found[row] = grades(self.predictions[row], self.golds.texts[row])
        return found

    @cached_property
    def label_errors(self) -> tuple[np.ndarray, list[str | None]]:
        """Return how strongly the model contradicts each row's golds, and how."""
        return label_errors(self.golds, self.losses, self.spans, self.row_pair, self.no_answer)

    # Names and statuses

    @cached_property
    def question_hashes(self) -> list[bytes]:
        """Return the hash of each row's question."""
        hashes = hash_texts(self.questions)
        return [hashes[question] for question in self.windows.pair_question[self.pair]]

    @cached_property
    def context_hashes(self) -> list[bytes]:
        """Return the hash of each row's context."""
        hashes = hash_texts(self.contexts)
        return [hashes[passage] for passage in self.passage]

    @property
    def pair_hashes(self) -> list[bytes]:
        """Return the hash of each row's question and context, made of their hashes."""
        both = zip(self.question_hashes, self.context_hashes, strict=True)
        return [_digest(question + context) for question, context in both]

    @property
    def gold_hashes(self) -> list[bytes]:
        """Return the hash of where each row's gold texts are in the context.

        The spans of characters count, not those of tokens: an unknown token may hold two golds.
        """
        spans = [str([list(span) for span in spans]) for spans in self.golds.char_spans]
        return [_digest(each.encode()) for each in spans]

    @cached_property
    def statuses(self) -> tuple[list[str], list[str | None]]:
        """Return the status and the reason of each row."""
        null = self.decoding.null
        return statuses(self.reasons, self.row_losses, self.golds, null, self.too_long)

    @cached_property
    def rejected(self) -> np.ndarray:
        """Return which rows were rejected, bool [rows]."""
        return np.array([status == "rejected" for status in self.statuses[0]], bool)


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
        "windows that hold part of it", windows_partly=lambda examples: examples.row_losses.partly
    ),
    *_counts(
        "windows that hold none of it",
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
        "its rank among the n best, from 1; null if it isn't among them",
        lambda examples: examples.gold_found.argmax(1) + 1,
        null=lambda examples: examples.unranked,
    ),
    *_figures(
        "its share of the posterior; without a gold, that of no answer",
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
        lambda examples: examples.candidates[0][examples.pair, 0],
        null=lambda examples: examples.hidden,
    ),
    Column(
        "prediction_end",
        pa.int32(),
        SPAN,
        lambda examples: examples.candidates[1][examples.pair, 0],
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
        "by the rules of SQuAD 2.0; words are split at blanks",
        exact_match=lambda examples: examples.grades[:, 0],
        f1=lambda examples: examples.grades[:, 1],
    ),
    *_figures(
        "`f1` with each character of a script without blanks (Chinese, Japanese, Thai, ...) as a"
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


def hash_texts(texts: Sequence[str]) -> list[bytes]:
    """Return the BLAKE2b hash, 16 bytes, of each text's UTF-8."""
    return [_digest(text.encode("utf-8", "surrogatepass")) for text in texts]


def _digest(content: bytes) -> bytes:
    """Return the BLAKE2b hash of some bytes, 16 bytes."""
    return hashlib.blake2b(content, digest_size=16).digest()
