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
from model.settings import ANNOTATE, BOTH, amount, one_of, setting, whole

UNBOUNDED = 2**31 - 1
"""Bound of `owned_low` (negated) and `owned_high` at the ends of a passage."""


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How passages are cut into context windows, and which of these are read; lengths in tokens."""

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
    prior: float = setting(
        0.0,
        one_of(auto=None, off=0.0),
        "whether the posterior counts how well each window of a long context matches the question",
        unset="auto: the checkpoint's window_prior, else off",
        identity=BOTH,
        optional=True,
    )
    read_windows: int | float | str = setting(
        "all",
        amount(10**7),
        "windows to read of each context, those that match the question best: a number, or a share "
        "such as 0.2",
        stages=(ANNOTATE,),
        identity=(ANNOTATE,),
        optional=True,
    )


@dataclass(frozen=True, slots=True)
class TokenizedPairs:
    """The tokens of question/passage pairs, and how many windows each pair needs.

    format                special tokens around question and context
    limits                how the passages are cut
    passages, questions   the tokens of the distinct texts; questions are cut to `max_question`
    pair_passage          int32 [pairs], index of the pair's passage
    pair_question         int32 [pairs], index of the pair's question
    counts                int32 [pairs], windows per pair, read or not; 0 for a pair without context
                          tokens or with more than `max_windows`
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

    @property
    def asked_once(self) -> np.ndarray:
        """Return whether the passage of each pair has no other question, bool [pairs]."""
        return (np.bincount(self.pair_passage) == 1)[self.pair_passage]

    @property
    def counts_read(self) -> np.ndarray:
        """Return how many windows of each pair are read, int64 [pairs]; a share is rounded up."""
        read, counts = self.limits.read_windows, self.counts.astype(np.int64)
        if isinstance(read, float):
            # Rounded first, because 0.07 * 100 is a little more than 7.
            return np.ceil(np.round(read * counts, 6)).astype(np.int64)
        return np.minimum(counts, read) if isinstance(read, int) else counts


@dataclass(frozen=True, slots=True)
class Windows(TokenizedPairs):
    """The context windows of question/passage pairs, grouped by pair, in order of position.

    pair                  int32 [windows], index of the window's pair
    index                 int32 [windows], index of the window within its pair (`window_index`)
    start, stop           int32 [windows], the window's passage tokens: [start, stop)
    owned_low, owned_high int32 [windows]; the window owns the span (i, j) of passage tokens iff it
                          contains the span and owned_low <= i + j < owned_high
    log_prior             float64 [windows], log of the window's prior weight relative to that of
                          the most promising window of its pair, at most 0; None without a prior
                          (see `model.reading.window_prior`)
    """

    pair: np.ndarray
    index: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    owned_low: np.ndarray
    owned_high: np.ndarray
    log_prior: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def lengths(self) -> np.ndarray:
        """Return the tokens per window, question and special tokens included, int64 [windows]."""
        question = self.questions.lengths[self.pair_question[self.pair]]
        return self.stop - self.start + question + self.format.special_tokens


def default_max_question(pair_format: PairFormat) -> int:
    """Return `max_question` if nobody sets it: less if a split reader has fewer positions."""
    most = WindowLimits().max_question
    return min(most, pair_format.most_question or most)


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

    owned_low, owned_high = _owned(pair, start, stop)
    columns = (pair_passage, pair_question, counts, pair, index, start, stop, owned_low, owned_high)
    return Windows(
        pairs.format,
        pairs.limits,
        pairs.passages,
        pairs.questions,
        *(np.asarray(column, np.int32) for column in columns),
    )


def choose_windows(windows: Windows, chosen: np.ndarray) -> Windows:
    """Return the windows `chosen` (bool [windows]); the others are not read.

    A span that a chosen window contains has its owner among these. `counts` and `index` stay.
    """
    each = ("pair", "index", "start", "stop")
    kept = {name: getattr(windows, name)[chosen] for name in each}
    owned_low, owned_high = _owned(kept["pair"], kept["start"], kept["stop"])
    log_prior = None if windows.log_prior is None else windows.log_prior[chosen]
    return replace(
        windows,
        **kept,
        owned_low=owned_low.astype(np.int32),
        owned_high=owned_high.astype(np.int32),
        log_prior=log_prior,
    )


def _owned(pair: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `owned_low` and `owned_high` of windows, int [windows] each.

    Arguments as in `Windows`; windows of a pair must be in order of position. They need not
    overlap: if they do not, every span that one of them contains is on its side of the border.
    """
    # Of neighbours v and w, v has the span (i, j) at least as far from its edges as w iff
    # i + j <= (stop_v - 1) + start_w.
    border = stop[:-1] + start[1:]
    same = pair[:-1] == pair[1:]
    owned_low, owned_high = np.full(len(pair), -UNBOUNDED), np.full(len(pair), UNBOUNDED)
    owned_low[1:] = np.where(same, border, -UNBOUNDED)
    owned_high[:-1] = np.where(same, border, UNBOUNDED)
    return owned_low, owned_high
