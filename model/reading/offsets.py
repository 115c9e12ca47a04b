"""Character offsets of tokens, corrected so that answers begin and end where a person would cut.

Offsets are int64 arrays of code points; token k has the characters [start[k], end[k]). Functions
that take several texts take them concatenated, with offsets into the concatenation.
"""

from __future__ import annotations

import unicodedata

import numpy as np

_WHITESPACE = np.array([chr(code).isspace() for code in range(0x3001)])
"""True at every code point that `str.isspace` accepts (the last is U+3000)."""

_FIRST_MARK = 0x300
_JOINER = 0x200D


def trim_whitespace(text: str, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move [start, end) pairs, int64 [tokens, 2], inward over whitespace.

    Returns starts and ends, int64 [tokens] each. A token of whitespace alone becomes empty.
    """
    start, end = offsets[:, 0], offsets[:, 1]
    if not text:
        return start, end
    codes = _codes(text)
    last = len(codes) - 1
    first_is_space = _is_space(codes[np.minimum(start, last)])
    last_is_space = _is_space(codes[np.maximum(end - 1, 0)])
    # Most tokenizers drop whitespace by themselves.
    if not (first_is_space | last_is_space).any():
        return start, end

    # For each character: the next one that is not whitespace, and the end of the one before.
    space = _is_space(codes)
    position = np.arange(len(codes))
    following = np.minimum.accumulate(np.where(space, len(codes), position)[::-1])[::-1]
    preceding = np.maximum.accumulate(np.where(space, 0, position + 1))
    trimmed = np.minimum(np.where(start <= last, following[np.minimum(start, last)], start), end)
    trimmed_end = np.maximum(preceding[np.maximum(end - 1, 0)], trimmed)
    return trimmed, np.where(end > trimmed, trimmed_end, trimmed)


def letters_in_no_token(text: str, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the positions, int64, of letters and digits (Unicode L and N) outside all tokens."""
    codes = _codes(text)
    opened = np.bincount(start, minlength=len(codes) + 1)
    closed = np.bincount(end, minlength=len(codes) + 1)
    depth = np.cumsum(opened - closed)[:-1]
    outside = np.flatnonzero((depth == 0) & ~_is_space(codes))
    return outside[_in_categories(codes[outside], "LN")]


def over_letters(
    text: str, start: np.ndarray, end: np.ndarray, passage: np.ndarray, text_start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Extend tokens over the letters that are in no token; return the new starts and ends.

    text        the texts, concatenated
    start, end  int64 [tokens], ascending
    passage     int64 [tokens], index of the token's text
    text_start  int64 [texts + 1], where each text begins in `text`

    Some tokenizers report too few characters: a normalizer that composes letters reports the first
    of them only (NFC, for Korean syllables that are written as their parts), and one setting of
    byte-level tokenizers loses the first letter of a text. A run of such letters goes to the only
    empty token at it, else to the token of the letter before, else to that of the letter after.
    """
    missing = letters_in_no_token(text, start, end)
    if not len(missing):
        return start, end
    codes = _codes(text)
    letters = _in_categories(codes, "LMN")
    border = np.zeros(len(codes) + 1, bool)
    border[text_start] = True

    # Group consecutive missing letters of a text into runs [begin, stop).
    continues = (np.diff(missing) == 1) & ~border[missing[1:]]
    begin = missing[np.append(True, ~continues)]
    stop = missing[np.append(~continues, True)] + 1

    # A run with exactly one empty token goes to it.
    start, end = start.copy(), end.copy()
    token, alone = _empty_token_at(start, end, passage, text_start, begin, stop)
    start[token], end[token] = begin[alone], stop[alone]

    # Other runs go to the token that ends before them, if that ends with a letter of their text.
    held = np.flatnonzero(end > start)
    ending, starting = np.full(len(codes) + 1, -1), np.full(len(codes) + 1, -1)
    ending[end[held]] = held
    starting[start[held][::-1]] = held[::-1]
    before = ~alone & ~border[begin] & letters[begin - 1] & (ending[begin] >= 0)
    end[ending[begin[before]]] = stop[before]

    # What is left goes to the token that starts after it, on the same condition.
    next_is_letter = ~border[stop] & letters[np.minimum(stop, len(codes) - 1)]
    after = ~alone & ~before & next_is_letter & (starting[stop] >= 0)
    start[starting[stop[after]]] = begin[after]
    return start, end


def _empty_token_at(
    start: np.ndarray,
    end: np.ndarray,
    passage: np.ndarray,
    text_start: np.ndarray,
    begin: np.ndarray,
    stop: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the runs [begin, stop) at which exactly one token without characters lies.

    Returns the indices of these tokens, int64, and which runs they belong to, bool [runs].
    """
    empty = np.flatnonzero(start == end)
    # Shift every text by its index, so that the end of one is not the beginning of the next.
    shift = np.searchsorted(text_start, begin, "right") - 1
    position = start[empty] + passage[empty]
    order = np.argsort(position, kind="stable")
    low = np.searchsorted(position[order], begin + shift, "left")
    high = np.searchsorted(position[order], stop + shift, "right")
    alone = high - low == 1
    return empty[order][low[alone]], alone


def over_marks(text: str, end: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Move ends outward over the combining marks and joiners that follow; return int64 [tokens].

    end, limit  int64 [tokens]; no end moves beyond its limit

    Tokenizers that strip accents leave marks in no token (BERT: Devanagari vowel signs, decomposed
    accents). An answer that ends before the marks of its last letter would not be what a person
    reads.
    """
    if text.isascii():
        return end
    codes = _codes(text)
    inside = np.flatnonzero(end < len(codes))
    moved = inside[_is_mark(codes[end[inside]])]
    # Most texts have no token with a mark after it.
    if not len(moved):
        return end
    marks = np.flatnonzero(_is_mark(codes))
    run_end = marks[np.append(np.diff(marks) > 1, True)] + 1
    following = run_end[np.searchsorted(run_end, end[moved], "right")]
    end = end.copy()
    end[moved] = np.maximum(np.minimum(following, limit[moved]), end[moved])
    return end


def span_ends(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at which tokens a span may start and at which it may end, bool [tokens] each.

    start, end  int64 [tokens], ascending

    Tokens may share characters: byte-level tokenizers split an emoji into four, and metaspace puts
    a lone "▁" at the first letter of a word. Spans start and end only between tokens that share
    none, and never at an empty token.
    """
    can_start, can_end = np.zeros(len(start), bool), np.zeros(len(start), bool)
    held = np.flatnonzero(end > start)
    if len(held):
        apart = start[held][1:] >= np.maximum.accumulate(end[held])[:-1]
        can_start[held] = np.concatenate([[True], apart])
        can_end[held] = np.concatenate([apart, [True]])
    return can_start, can_end


def _codes(text: str) -> np.ndarray:
    """Return the code points of a text, uint32 [characters]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _is_space(codes: np.ndarray) -> np.ndarray:
    return _WHITESPACE[np.minimum(codes, 0x3000)] & (codes <= 0x3000)


def _in_categories(codes: np.ndarray, categories: str) -> np.ndarray:
    """Return which characters have a Unicode general category that starts with one of the letters.

    codes  uint32 [characters]; returns bool [characters]
    """
    # unicodedata takes one character at a time: ask it once for each distinct one.
    distinct, which = np.unique(codes, return_inverse=True)
    belongs = [unicodedata.category(chr(code))[0] in categories for code in distinct.tolist()]
    return np.array(belongs, bool)[which]


def _is_mark(codes: np.ndarray) -> np.ndarray:
    """Return which characters are combining marks or joiners, bool [characters]."""
    marks = codes >= _FIRST_MARK
    marks[marks] = _in_categories(codes[marks], "M") | (codes[marks] == _JOINER)
    return marks
