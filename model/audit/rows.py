"""What is known of the rows of a chunk: golds, losses and decisions, as arrays by row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from model.audit.golds import Golds
from model.audit.label_errors import label_errors
from model.audit.losses import PassageLosses
from model.audit.metrics import grades
from model.audit.row_losses import RowLosses, row_losses, statuses
from model.reading.answers import candidate_offsets, texts_between
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
    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return `candidate_offsets` of the pairs."""
        return candidate_offsets(self.spans, self.windows)

    @property
    def hidden(self) -> np.ndarray:
        """Return which rows show no predicted span, bool [rows]."""
        return self.rejected | self.no_answer[self.pair]

    @cached_property
    def predictions(self) -> list[str]:
        """Return the text of each row's best candidate, "" where the model finds no answer."""
        start, end = (offsets[self.pair, 0] for offsets in self.offsets)
        texts = texts_between(self.contexts, self.passage, start, end)
        nothing = self.no_answer | (self.spans.found == 0)
        return ["" if none else text for none, text in zip(nothing[self.pair], texts, strict=True)]

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


def hash_texts(texts: Sequence[str]) -> list[bytes]:
    """Return the BLAKE2b hash, 16 bytes, of each text's UTF-8."""
    return [_digest(text.encode("utf-8", "surrogatepass")) for text in texts]


def _digest(content: bytes) -> bytes:
    """Return the BLAKE2b hash of some bytes, 16 bytes."""
    return hashlib.blake2b(content, digest_size=16).digest()
