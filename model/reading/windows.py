"""Context windows: how a long passage is cut into model inputs, and which window owns which span.

A window is a slice of the passage's tokens between the head and the tail of its question. Neighbouring windows share
`overlap` context tokens, so a span may stand in several of them; it is decoded, counted and normalised in one only, its
owner (the window in which it stands farthest from the nearer edge).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.reading.tokenizer import PairFormat, Passages, Ragged, consecutive

_UNBOUNDED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Windows:
    """The context windows of question/passage pairs, grouped by pair, in order of position.

    pair                  int32 [windows], which pair
    index                 int32 [windows], the window's place within its pair (`window_index`)
    start, stop           int32 [windows], the passage tokens that it holds: [start, stop)
    owned_low, owned_high int32 [windows]: the window owns span (i, j) of passage tokens iff it holds it and
                          owned_low <= i + j < owned_high
    pair_passage          int32 [pairs]
    pair_question         int32 [pairs]
    counts                int32 [pairs], windows per pair; 0 for a pair without tokens or over `max_windows`
    """

    format: PairFormat
    passages: Passages
    questions: Ragged
    pair_passage: np.ndarray
    pair_question: np.ndarray
    counts: np.ndarray
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
        """int64 [windows]: tokens of each window with its question and special tokens."""
        question = self.questions.lengths[self.pair_question[self.pair]]
        return self.stop - self.start + question + self.format.special_tokens


def count_windows(tokens: np.ndarray, room: np.ndarray, overlap: int) -> np.ndarray:
    """How many windows cover so many context tokens, int64 [pairs]; no token, no window."""
    beyond = np.maximum(tokens - room, 0)
    return np.where(tokens > 0, 1 + -(-beyond // (room - overlap)), 0)


def most_tokens(room: int, overlap: int, max_windows: int) -> int:
    """How many context tokens so many windows hold."""
    return room + (max_windows - 1) * (room - overlap)


def cut_windows(
    pair_format: PairFormat,
    passages: Passages,
    questions: Ragged,
    pair_passage: np.ndarray,
    pair_question: np.ndarray,
    *,
    max_length: int,
    overlap: int,
    max_windows: int,
) -> Windows:
    """Cuts every pair's passage into windows of at most `max_length` tokens, neighbours sharing `overlap`.

    A pair that would need more than `max_windows` gets none (the caller names the rejection).
    Raises ValueError if a question leaves no more room than the overlap.
    """
    tokens = passages.lengths[pair_passage]
    room = max_length - pair_format.special_tokens - questions.lengths[pair_question]
    if len(room) and room.min() <= overlap:
        raise ValueError(
            f"a question leaves room for {room.min()} context tokens in a window of {max_length}, "
            f"but neighbouring windows share {overlap}: the room must exceed the overlap"
        )
    counts = count_windows(tokens, room, overlap)
    counts = np.where(counts > max_windows, 0, counts)

    pair = np.repeat(np.arange(len(counts)), counts)
    index = consecutive(0, counts)
    start = index * (room - overlap)[pair]
    stop = np.minimum(start + room[pair], tokens[pair])

    # Between neighbours w and w + 1, span (i, j) stands deeper in w iff i + j <= (stop_w - 1) + start_{w+1}.
    followed = index + 1 < counts[pair]
    border = stop + np.concatenate([start[1:], [0]])[: len(start)]
    owned_high = np.where(followed, border, _UNBOUNDED)
    owned_low = np.where(index > 0, np.concatenate([[0], border[:-1]])[: len(start)], -_UNBOUNDED)
    columns = (pair_passage, pair_question, counts, pair, index, start, stop, owned_low, owned_high)
    return Windows(pair_format, passages, questions, *(np.asarray(column, np.int32) for column in columns))
