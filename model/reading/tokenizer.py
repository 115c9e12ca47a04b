"""Tokens and character offsets: question and context apart, each text once, and how a checkpoint joins the two.

Calling a Hugging Face tokenizer on a pair tokenizes the context anew for every question, and its truncation settings
stay behind on the shared backend. Here both are switched off once, texts are encoded without special tokens, and one
probe of the post-processor tells which special tokens stand around a question and a context (`PairFormat`).
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

from model.reading.long_texts import beginnings_of_words, has_more
from model.reading.tokenizer_files import PROBE, read_tokenizer
from model.reading.tokenizer_files import TokenizerError as TokenizerError  # for those who catch it

_log = logging.getLogger("spanmill")

_CHARACTERS_AT_ONCE = 1_000_000
"""How many characters are tokenized in one call: bounds the memory that token objects take before they become arrays."""

_WHITESPACE = np.array([chr(code).isspace() for code in range(0x3001)])
"""True at every code point that `str.isspace` accepts (the last is U+3000)."""

_UNHEARD_OF = "\U0010fffd"
"""A character that no vocabulary has: the last one of private use."""

_FIRST_MARK = 0x300
_JOINER = 0x200D


@dataclass(frozen=True, slots=True)
class Ragged:
    """Lists of integers end to end: list k is `values[bounds[k]:bounds[k + 1]]`."""

    values: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, k: int) -> np.ndarray:
        return self.values[self.bounds[k] : self.bounds[k + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.bounds)

    def cut(self, most: int) -> Ragged:
        """The first `most` values of each list."""
        if not len(self) or self.lengths.max() <= most:
            return self
        return Ragged.of([self[k][:most] for k in range(len(self))])

    @classmethod
    def of(cls, lists: Sequence[Sequence[int] | np.ndarray]) -> Ragged:
        bounds = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(values) for values in lists], out=bounds[1:])
        return cls(np.fromiter(chain.from_iterable(lists), np.int32, int(bounds[-1])), bounds)


def consecutive(first: np.ndarray | int, counts: np.ndarray) -> np.ndarray:
    """int64: first, first + 1, ..., so many for each count, end to end."""
    return np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)


@dataclass(frozen=True, slots=True)
class Passages:
    """The tokens of distinct contexts, end to end; passage k is `bounds[k]` to `bounds[k + 1]` in every array.

    ids                   int32 [tokens]
    char_start, char_end  int32 [tokens], code points in the original context, whitespace trimmed
    can_start, can_end    bool [tokens]: the first and the last of tokens that share characters. Between these, token
                          spans and character spans are one to one.
    """

    ids: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    can_start: np.ndarray
    can_end: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.bounds)


@dataclass(frozen=True, slots=True)
class PairFormat:
    """What a tokenizer puts around a pair: `before` FIRST `between` SECOND `after`, each with its token types.

    question_first        whether the question is FIRST (tokenizers that pad on the left take the context first)
    classifier            index of the classifier token: from the front if >= 0, from the end if < 0, None if there is none
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    before_types: tuple[int, ...]
    between_types: tuple[int, ...]
    after_types: tuple[int, ...]
    first_type: int
    second_type: int
    question_first: bool
    classifier: int | None
    pad_id: int

    @property
    def special_tokens(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


class Tokenizer:
    """A checkpoint's fast tokenizer, set up for whole texts.

    unknown     id of the token that replaces text the vocabulary does not have; None if every text has tokens of its own,
                as with bytes for tokens
    max_length  tokens of a window, at most 2**31 - 1
    padding     id of the padding token, None if there is none

    Raises `TokenizerError` if the folder has no fast tokenizer or its pairs can't be taken apart.
    """

    def __init__(self, folder: str | Path):
        files = read_tokenizer(Path(folder))
        self._backend = files.backend
        self._words = beginnings_of_words(self._backend)
        self.unknown = _unknown_token(self._backend.model)
        self.vocabulary_size = self._backend.get_vocab_size(with_added_tokens=True)
        self.max_length = int(min(files.max_length, 2**31 - 1))
        self.padding = files.roles.get("pad")
        pad_id = files.roles.get("eos", 0) if self.padding is None else self.padding
        self.format = self._probe(files.pads_right, files.roles.get("cls"), pad_id)
        self._reserved = sorted(set(files.roles.values()) - {self.unknown})
        self._mends = self._must_mend()

    def _probe(self, question_first: bool, classifier_id: int | None, pad_id: int) -> PairFormat:
        probe = self._backend.encode("a", add_special_tokens=False)
        probe.truncate(1)
        if len(probe.ids) != 1:
            raise TokenizerError(
                "the tokenizer makes no token of 'a': its pair format can't be found"
            )
        pair = self._backend.post_process(probe, probe, add_special_tokens=True)
        places = [k for k, special in enumerate(pair.special_tokens_mask) if not special]
        if len(places) != 2:
            raise TokenizerError(
                f"the tokenizer joins a pair as {pair.tokens}: question and context can't be told apart"
            )
        first, second = places
        ids, types = pair.ids, pair.type_ids
        special = [k for k, token in enumerate(ids) if token == classifier_id and k not in places]
        classifier = (
            None if not special else special[0] if special[0] < first else special[0] - len(ids)
        )
        return PairFormat(
            before=tuple(ids[:first]),
            between=tuple(ids[first + 1 : second]),
            after=tuple(ids[second + 1 :]),
            before_types=tuple(types[:first]),
            between_types=tuple(types[first + 1 : second]),
            after_types=tuple(types[second + 1 :]),
            first_type=types[first],
            second_type=types[second],
            question_first=question_first,
            classifier=classifier,
            pad_id=pad_id,
        )

    def _must_mend(self) -> bool:
        """Whether the tokenizer leaves letters in no token of its own. Raises TokenizerError if they can't be given to one."""
        try:
            encodings, ids = self._encode(PROBE)
        except Exception as error:
            raise TokenizerError(
                f"the tokenizer can't read texts of many scripts: {error}"
            ) from error
        passage = np.repeat(np.arange(len(PROBE)), ids.lengths)
        raw = _offsets(encodings, len(passage))
        text, bounds = _joined(PROBE)
        start, end = trim_whitespace(text, raw + bounds[passage][:, None])
        full = np.flatnonzero(raw[:, 1] > raw[:, 0])
        within = np.diff(passage[full]) == 0
        if (np.diff(raw[full], axis=0)[within] < 0).any():
            raise TokenizerError(
                "the tokenizer's offsets do not ascend, as those of a pre-tokenizer that is code may do"
            )
        if not len(letters_in_no_token(text, start, end)):
            return False
        start, end = over_letters(text, start, end, passage, bounds)
        left = letters_in_no_token(text, start, end)
        if len(left):
            place = int(np.searchsorted(bounds, left[0], "right")) - 1
            raise TokenizerError(
                f"the tokenizer leaves letters in no token, such as {text[left[0]]!r} in {PROBE[place]!r}, and so would answers"
            )
        _log.info(
            "the tokenizer's offsets leave letters in no token: each is given to the token beside it"
        )
        return True

    def equals(self, other: Tokenizer) -> bool:
        """Whether both have the same tokens under the same ids, and join pairs alike."""
        return (
            self.format == other.format and self._backend.get_vocab() == other._backend.get_vocab()
        )

    def questions(self, texts: Sequence[str]) -> Ragged:
        """Token ids of each question, whole and without special tokens."""
        return self._encode(texts)[1]

    def surely_exceeds(self, context: str, tokens: int) -> bool:
        """Whether a context has surely more tokens than so many, told without tokenizing it. False: it may have."""
        return self._words is not None and has_more(self._words, context, tokens)

    def passages(self, contexts: Sequence[str]) -> Passages:
        """Tokens and trimmed offsets of each context, whole and without special tokens."""
        parts = [self._passages(part) for part in _by_characters(contexts)]
        lengths = (
            np.concatenate([part.lengths for part in parts]) if parts else np.zeros(0, np.int64)
        )
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        parts = parts or [self._passages([])]
        return Passages(
            ids=np.concatenate([part.ids for part in parts]),
            char_start=np.concatenate([part.char_start for part in parts]),
            char_end=np.concatenate([part.char_end for part in parts]),
            can_start=np.concatenate([part.can_start for part in parts]),
            can_end=np.concatenate([part.can_end for part in parts]),
            bounds=bounds,
        )

    def _encode(self, texts: Sequence[str]) -> tuple[list[Any], Ragged]:
        """The backend's encodings, and their ids: those of text, whatever special tokens it spells."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        ids = Ragged.of([encoding.ids for encoding in encodings])
        spelled = np.isin(ids.values, self._reserved)
        if spelled.any():
            again = np.unique(
                np.searchsorted(ids.bounds, np.flatnonzero(spelled), "right") - 1
            ).tolist()
            for k, encoding in zip(
                again,
                self._literal.encode_batch([texts[k] for k in again], add_special_tokens=False),
                strict=True,
            ):
                encodings[k] = encoding
            ids = Ragged.of([encoding.ids for encoding in encodings])
        return encodings, ids

    @cached_property
    def _literal(self) -> Any:
        """The backend with words cut after the first letter of a special token.

        Unigram models know special tokens as pieces of text: "</s>" in a text would be the token that ends it.
        """
        tokens = (str(self._backend.id_to_token(token)) for token in self._reserved)
        pattern = "|".join(
            f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in tokens if len(token) > 1
        )
        literal = tokenizers.Tokenizer.from_str(self._backend.to_str())
        literal.encode_special_tokens = True
        splitters = [
            literal.pre_tokenizer,
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        ]
        literal.pre_tokenizer = pre_tokenizers.Sequence(
            [splitter for splitter in splitters if splitter is not None]
        )
        return literal

    def _passages(self, contexts: Sequence[str]) -> Passages:
        encodings, ids = self._encode(contexts)
        tokens = len(ids.values)
        offsets = _offsets(encodings, tokens)
        passage = np.repeat(np.arange(len(contexts)), ids.lengths)
        text, text_start = _joined(contexts)
        start, end = trim_whitespace(text, offsets + text_start[passage][:, None])
        if self._mends:
            start, end = over_letters(text, start, end, passage, text_start)
        end = over_marks(
            text, end, np.minimum(np.append(start[1:], len(text)), text_start[passage + 1])
        )
        can_start, can_end = span_ends(
            start, end
        )  # texts stand end to end, so passages never share a character
        shift = text_start[passage]
        return Passages(
            ids=ids.values,
            char_start=(start - shift).astype(np.int32),
            char_end=(end - shift).astype(np.int32),
            can_start=can_start,
            can_end=can_end,
            bounds=ids.bounds,
        )


def _unknown_token(model: Any) -> int | None:
    """The id that a tokenizer's model gives to a character it does not have: one token, where bytes would be several."""
    try:
        tokens = model.tokenize(_UNHEARD_OF)
    except Exception:  # a model without such a token
        return None
    return tokens[0].id if len(tokens) == 1 else None


def _offsets(encodings: Sequence[Any], tokens: int) -> np.ndarray:
    """int64 [tokens, 2]: the tokenizer's own offsets, each in its text."""
    flat = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings))
    return np.fromiter(flat, np.int64, 2 * tokens).reshape(tokens, 2)


def _joined(texts: Sequence[str]) -> tuple[str, np.ndarray]:
    """The texts end to end, and where each begins, int64 [texts + 1]."""
    return "".join(texts), np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(
        np.int64
    )


def _by_characters(contexts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Consecutive contexts, about `_CHARACTERS_AT_ONCE` together, never less than one."""
    begin, characters = 0, 0
    for k, context in enumerate(contexts):
        if k > begin and characters + len(context) > _CHARACTERS_AT_ONCE:
            yield contexts[begin:k]
            begin, characters = k, 0
        characters += len(context)
    if begin < len(contexts):
        yield contexts[begin:]


def trim_whitespace(text: str, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves [start, end) pairs, int64 [tokens, 2], inward over whitespace; a token of whitespace alone becomes empty."""
    start, end = offsets[:, 0], offsets[:, 1]
    if not text:
        return start, end
    codes = _codes(text)
    last = len(codes) - 1
    if not (
        _is_space(codes[np.minimum(start, last)]) | _is_space(codes[np.maximum(end - 1, 0)])
    ).any():
        return start, end  # as tokenizers that drop whitespace have it
    space = _is_space(codes)
    place = np.arange(len(codes))
    following = np.minimum.accumulate(np.where(space, len(codes), place)[::-1])[::-1]
    preceding = np.maximum.accumulate(np.where(space, 0, place + 1))
    trimmed = np.minimum(np.where(start <= last, following[np.minimum(start, last)], start), end)
    return trimmed, np.where(
        end > trimmed, np.maximum(preceding[np.maximum(end - 1, 0)], trimmed), trimmed
    )


def _codes(text: str) -> np.ndarray:
    """uint32 [characters]: the code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _is_space(codes: np.ndarray) -> np.ndarray:
    return _WHITESPACE[np.minimum(codes, 0x3000)] & (codes <= 0x3000)


def letters_in_no_token(text: str, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """int64: the places of letters and digits, in the sense of Unicode, that no token [start, end) holds."""
    codes = _codes(text)
    steps = np.bincount(start, minlength=len(codes) + 1) - np.bincount(
        end, minlength=len(codes) + 1
    )
    outside = np.flatnonzero((np.cumsum(steps)[:-1] == 0) & ~_is_space(codes))
    return outside[_in_categories(codes[outside], "LN")]


def _in_categories(codes: np.ndarray, categories: str) -> np.ndarray:
    """bool: the characters of Unicode's general categories that begin with one of the letters."""
    distinct, which = np.unique(codes, return_inverse=True)
    return np.array(
        [unicodedata.category(chr(code))[0] in categories for code in distinct.tolist()], bool
    )[which]


def over_letters(
    text: str, start: np.ndarray, end: np.ndarray, passage: np.ndarray, text_start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gives letters in no token to a token beside them; starts and ends int64 [tokens], ascending, in texts end to end.

    A normalizer that composes letters gives the place of the first alone (NFC: Korean syllables written as their parts), and
    one setting of byte-level tokenizers loses the first letter of a text. A run of such letters goes to the one token without
    characters that lies at it, else to the token of the letter before, else to that of the letter after.
    """
    missing = letters_in_no_token(text, start, end)
    if not len(missing):
        return start, end
    codes = _codes(text)
    letters = _in_categories(codes, "LMN")
    border = np.zeros(len(codes) + 1, bool)
    border[text_start] = True
    follows = (np.diff(missing) == 1) & ~border[
        missing[1:]
    ]  # the next missing letter is of the same run
    begin = missing[np.append(True, ~follows)]
    stop = missing[np.append(~follows, True)] + 1

    start, end = start.copy(), end.copy()
    empty = np.flatnonzero(start == end)
    shift = (
        np.searchsorted(text_start, begin, "right") - 1
    )  # so that no text ends where the next begins
    places = start[empty] + passage[empty]
    order = np.argsort(places, kind="stable")
    low = np.searchsorted(places[order], begin + shift, "left")
    high = np.searchsorted(places[order], stop + shift, "right")
    alone = high - low == 1
    taken = empty[order][low[alone]]
    start[taken], end[taken] = begin[alone], stop[alone]

    held = np.flatnonzero(end > start)
    token_to, token_from = np.full(len(codes) + 1, -1), np.full(len(codes) + 1, -1)
    token_to[end[held]] = held
    token_from[start[held][::-1]] = held[::-1]
    before = ~alone & ~border[begin] & letters[begin - 1] & (token_to[begin] >= 0)
    end[token_to[begin[before]]] = stop[before]
    after = (
        ~alone
        & ~before
        & ~border[stop]
        & letters[np.minimum(stop, len(codes) - 1)]
        & (token_from[stop] >= 0)
    )
    start[token_from[stop[after]]] = begin[after]
    return start, end


def over_marks(text: str, end: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Moves ends, int64 [tokens], outward over the combining marks and joiners that follow, up to `limit`.

    Tokenizers that strip accents leave marks in no token (BERT: Devanagari vowel signs, decomposed accents); an answer that
    ended before its last letter's marks would not be what a person reads.
    """
    if text.isascii():
        return end
    codes = _codes(text)
    after = codes[np.minimum(end, len(codes) - 1)]
    distinct = np.unique(after[after >= _FIRST_MARK])
    if not any(map(_is_mark, distinct.tolist())):
        return end
    distinct = np.unique(codes[codes >= _FIRST_MARK])
    marks = [code for code in distinct.tolist() if _is_mark(code)]
    place = np.where(np.isin(codes, marks), len(codes), np.arange(len(codes)))
    following = np.append(np.minimum.accumulate(place[::-1])[::-1], len(codes))
    return np.maximum(np.minimum(following[end], limit), end)


def _is_mark(code: int) -> bool:
    return unicodedata.category(chr(code))[0] == "M" or code == _JOINER


def span_ends(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens a span may start and end at, bool [tokens] each; offsets ascend.

    Tokens may share characters (byte-level tokenizers split one emoji into four, metaspace puts a lone "▁" at a word's
    first letter), so spans start and end only between tokens that share none, and never at an empty token.
    """
    can_start, can_end = np.zeros(len(start), bool), np.zeros(len(start), bool)
    held = np.flatnonzero(end > start)
    if len(held):
        apart = start[held][1:] >= np.maximum.accumulate(end[held])[:-1]
        can_start[held] = np.concatenate([[True], apart])
        can_end[held] = np.concatenate([apart, [True]])
    return can_start, can_end
