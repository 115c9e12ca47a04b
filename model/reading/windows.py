"""Context windows: how a long passage is cut into model inputs, and which window owns which span.

A window is a slice of the passage's tokens that the network reads together with the question.
Neighbouring windows share `overlap` context tokens, so several of them may contain a span. Only
one of them, the owner, decodes, counts and normalises it: the window in which the span is farthest
from the nearer edge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from model.reading.tokenizer import PairFormat, Passages, Ragged, consecutive
from model.settings import BOTH, setting, whole

_UNBOUNDED = 2**31 - 1
"""Bound of `owned_low` (negated) and `owned_high` at the ends of a passage."""


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How passages are cut into context windows; lengths in tokens."""

    max_length: int = setting(
        384,
        whole(8, 10**6),
        "tokens per window, question included",
        unset="384, or the model's limit",
        identity=BOTH,
    )
    overlap: int = setting(
        128,
        whole(0, 10**6),
        "context tokens shared by neighbouring windows; at least max_answer_length - 1",
        unset="128, less in short windows",
        identity=BOTH,
    )
    max_question: int = setting(
        64,
        whole(1, 10**6),
        "tokens per question; longer questions are cut",
        unset="64, less if a split reader takes fewer",
        identity=BOTH,
    )
    max_windows: int = setting(
        2000, whole(1, 10**7), "windows per row; longer rows are rejected", identity=BOTH
    )


@dataclass(frozen=True, slots=True)
class TokenizedPairs:
    """The tokens of question/passage pairs, and how many windows each pair needs.

    format                special tokens around question and context
    limits                how the passages are cut
    passages, questions   the tokens of the distinct texts; questions are cut to `max_question`
    pair_passage          int32 [pairs], index of the pair's passage
    pair_question         int32 [pairs], index of the pair's question
    counts                int32 [pairs], windows per pair; 0 for a pair without context tokens or
                          with more than `max_windows`
    """

    format: PairFormat
    limits: WindowLimits
    passages: Passages
    questions: Ragged
    pair_passage: np.ndarray
    pair_question: np.ndarray
    counts: np.ndarray

    @property
    def room(self) -> np.ndarray:
        """Return the context tokens for which a window of each pair has room, int64 [pairs].

        For a split reader the windows of a passage are the same for all questions, so that each
        leaves room for the longest.
        """
        question = self.questions.lengths[self.pair_question]
        if self.format.passage_position is not None:
            question = np.full_like(question, self.limits.max_question)
        return self.limits.max_length - self.format.special_tokens - question


@dataclass(frozen=True, slots=True)
class Windows(TokenizedPairs):
    """The context windows of question/passage pairs, grouped by pair, in order of position.

    pair                  int32 [windows], index of the window's pair
    index                 int32 [windows], index of the window within its pair (`window_index`)
    start, stop           int32 [windows], the window's passage tokens: [start, stop)
    owned_low, owned_high int32 [windows]; the window owns the span (i, j) of passage tokens iff it
                          contains the span and owned_low <= i + j < owned_high
    """

    pair: np.ndarray
    index: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    owned_low: np.ndarray
    owned_high: np.ndarray

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def lengths(self) -> np.ndarray:
        """Return the tokens per window, question and special tokens included, int64 [windows]."""
        question = self.questions.lengths[self.pair_question[self.pair]]
        return self.stop - self.start + question + self.format.special_tokens


def count_windows(tokens: np.ndarray, room: np.ndarray, overlap: int) -> np.ndarray:
    """Return how many windows cover `tokens` context tokens, int64 [pairs]; 0 for 0 tokens.

    tokens, room  int [pairs]; a window has room for `room` context tokens, more than `overlap`
    """
    beyond = np.maximum(tokens - room, 0)
    return np.where(tokens > 0, 1 + -(-beyond // (room - overlap)), 0)


def most_tokens(room: int, overlap: int, max_windows: int) -> int:
    """Return the largest number of context tokens that `max_windows` windows cover."""
    return room + (max_windows - 1) * (room - overlap)


def tokenized_pairs(
    pair_format: PairFormat,
    passages: Passages,
    questions: Ragged,
    pair_passage: np.ndarray,
    pair_question: np.ndarray,
    limits: WindowLimits,
) -> TokenizedPairs:
    """Cut questions to `limits.max_question` tokens, and count the windows that each pair needs.

    questions                    whole questions
    pair_passage, pair_question  int [pairs], indices into `passages` and `questions`

    A pair that needs more than `limits.max_windows` windows gets none, and the caller rejects its
    rows. Raises ValueError if a question leaves room for no more context tokens than the overlap,
    and if a split reader has no positions for `limits.max_question` tokens.
    """
    most = pair_format.most_question
    if most is not None and limits.max_question > most:
        raise ValueError(
            f"max_question={limits.max_question}: the split reader has positions for {most} "
            "question tokens"
        )
    pairs = TokenizedPairs(
        pair_format,
        limits,
        passages,
        questions.cut(limits.max_question),
        np.asarray(pair_passage, np.int32),
        np.asarray(pair_question, np.int32),
        counts=np.zeros(len(pair_passage), np.int32),
    )
    room = pairs.room
    if len(room) and room.min() <= limits.overlap:
        raise ValueError(
            f"a question leaves room for {room.min()} context tokens in a window of "
            f"{limits.max_length}, but neighbouring windows share {limits.overlap}: the room must "
            "exceed the overlap"
        )
    counts = count_windows(passages.lengths[pair_passage], room, limits.overlap)
    counts = np.where(counts > limits.max_windows, 0, counts)
    return replace(pairs, counts=np.asarray(counts, np.int32))


def cut_windows(
    pair_format: PairFormat,
    passages: Passages,
    questions: Ragged,
    pair_passage: np.ndarray,
    pair_question: np.ndarray,
    limits: WindowLimits,
) -> Windows:
    """Return the windows of all pairs. Arguments and errors are those of `tokenized_pairs`."""
    pairs = tokenized_pairs(pair_format, passages, questions, pair_passage, pair_question, limits)
    return windows_of(pairs, slice(None))


def windows_of(pairs: TokenizedPairs, chosen: slice) -> Windows:
    """Cut the passages of consecutive pairs into windows; pairs are numbered from 0 in the result.

    chosen  the pairs, without a step
    """
    overlap = pairs.limits.overlap
    pair_passage, pair_question = pairs.pair_passage[chosen], pairs.pair_question[chosen]
    counts, room = pairs.counts[chosen].astype(np.int64), pairs.room[chosen]
    tokens = pairs.passages.lengths[pair_passage]

    # Windows start at multiples of the room beyond the overlap; the last one ends with the passage.
    pair = np.repeat(np.arange(len(counts)), counts)
    index = consecutive(0, counts)
    start = index * (room - overlap)[pair]
    stop = np.minimum(start + room[pair], tokens[pair])

    # Of neighbours w and w + 1, w has the span (i, j) farther from its edges iff
    # i + j <= (stop_w - 1) + start_{w+1}.
    followed = index + 1 < counts[pair]
    border = stop + np.concatenate([start[1:], [0]])[: len(start)]
    owned_high = np.where(followed, border, _UNBOUNDED)
    owned_low = np.where(index > 0, np.concatenate([[0], border[:-1]])[: len(start)], -_UNBOUNDED)
    columns = (pair_passage, pair_question, counts, pair, index, start, stop, owned_low, owned_high)
    return Windows(
        pairs.format,
        pairs.limits,
        pairs.passages,
        pairs.questions,
        *(np.asarray(column, np.int32) for column in columns),
    )
