"""Tokens and character offsets of questions and contexts, and how a checkpoint joins the two.

A Hugging Face tokenizer that is called on pairs tokenizes the context again for every question, and
its truncation settings remain on the shared backend. This module switches truncation and padding
off, encodes each text once, without special tokens, and finds with one probe of the post-processor
which special tokens go around a question and a context (`PairFormat`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

from model.reading.long_texts import beginnings_of_words, has_more
from model.reading.offsets import (
    letters_in_no_token,
    over_letters,
    over_marks,
    span_ends,
    trim_whitespace,
)
from model.reading.tokenizer_files import PROBE, read_tokenizer
from model.reading.tokenizer_files import TokenizerError as TokenizerError  # part of this interface

_log = logging.getLogger("spanmill")

_CHARACTERS_AT_ONCE = 1_000_000
"""Characters per call of the tokenizer: bounds the memory of its token objects."""

_PRIVATE_USE = "\U0010fffd"
"""The last private-use character, which no vocabulary has."""


@dataclass(frozen=True, slots=True)
class Ragged:
    """Lists of integers, concatenated: list k is `values[bounds[k]:bounds[k + 1]]`.

    values  int32 [sum of lengths]
    bounds  int64 [lists + 1]
    """

    values: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, k: int) -> np.ndarray:
        return self.values[self.bounds[k] : self.bounds[k + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Return the length of each list, int64 [lists]."""
        return np.diff(self.bounds)

    def cut(self, most: int) -> Ragged:
        """Return the first `most` values of each list."""
        if not len(self) or self.lengths.max() <= most:
            return self
        return Ragged.of([self[k][:most] for k in range(len(self))])

    @classmethod
    def of(cls, lists: Sequence[Sequence[int] | np.ndarray]) -> Ragged:
        """Concatenate lists."""
        bounds = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(values) for values in lists], out=bounds[1:])
        return cls(np.fromiter(chain.from_iterable(lists), np.int32, int(bounds[-1])), bounds)

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """Concatenate the lists of several parts."""
        return cls.of([part[k] for part in parts for k in range(len(part))])


def consecutive(first: np.ndarray | int, counts: np.ndarray) -> np.ndarray:
    """Return the concatenation of first[k], first[k] + 1, ... (counts[k] of them) for all k.

    first   int64 [counts], or one for all
    counts  int64 [counts]; returns int64 [sum of counts]
    """
    return np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)


@dataclass(frozen=True, slots=True)
class Passages:
    """The tokens of distinct contexts, concatenated; passage k has `bounds[k]` to `bounds[k + 1]`.

    ids                   int32 [tokens]
    char_start, char_end  int32 [tokens], code points in the original context, whitespace trimmed
    can_start, can_end    bool [tokens], whether a span may start or end there: of tokens that share
                          characters, only the first and the last. Thus token spans and character
                          spans are one to one.
    bounds                int64 [passages + 1]
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
        """Return the tokens of each passage, int64 [passages]."""
        return np.diff(self.bounds)

    @classmethod
    def joined(cls, parts: Sequence[Passages]) -> Passages:
        """Concatenate passages; there must be at least one part."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(
            ids=np.concatenate([part.ids for part in parts]),
            char_start=np.concatenate([part.char_start for part in parts]),
            char_end=np.concatenate([part.char_end for part in parts]),
            can_start=np.concatenate([part.can_start for part in parts]),
            can_end=np.concatenate([part.can_end for part in parts]),
            bounds=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )


@dataclass(frozen=True, slots=True)
class PairFormat:
    """What a tokenizer puts around a pair: `before` FIRST `between` SECOND `after`.

    before, between, after  ids of the special tokens
    ..._types, ..._type     token types of these and of the texts
    question_first          whether the question is FIRST; tokenizers that pad on the left take the
                            context first
    classifier              index of the classifier token, from the front if >= 0 and from the end
                            if < 0; None if there is none
    pad_id                  token id that fills up short windows
    passage_position        of a split reader: position embedding of the first token of the context,
                            whatever the question's length; None for a network that reads the pair
                            as one sequence
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
    passage_position: int | None = None

    @property
    def special_tokens(self) -> int:
        """Return the number of special tokens around a pair."""
        return len(self.before) + len(self.between) + len(self.after)

    @property
    def most_question(self) -> int | None:
        """Return how many question tokens a split reader has positions for; else None."""
        if self.passage_position is None:
            return None
        return self.passage_position - len(self.before) - len(self.between)

    def split(self, max_question: int) -> PairFormat:
        """Return the format of a split reader for questions of up to `max_question` tokens.

        Raises TokenizerError if the context comes first: its positions would depend on its length.
        """
        if not self.question_first:
            raise TokenizerError(
                "the tokenizer puts the context before the question: a split reader needs the "
                "question first"
            )
        position = len(self.before) + max_question + len(self.between)
        return replace(self, passage_position=position)

    def in_order(self, one: Any, other: Any) -> tuple[Any, Any]:
        """Turn (question, context) into (FIRST, SECOND), and vice versa."""
        return (one, other) if self.question_first else (other, one)


class Tokenizer:
    """A checkpoint's fast tokenizer, set up for whole texts.

    folder            of the checkpoint
    passage_position  of a split reader (see `PairFormat`), else None

    format           how it joins a pair
    unknown          id of the token that replaces text outside the vocabulary; None if all text has
                     tokens, as with a vocabulary of bytes
    vocabulary_size  number of tokens, added ones included
    max_length       most tokens of a window, at most 2**31 - 1
    padding          id of the padding token, None if there is none

    Raises TokenizerError if the folder has no fast tokenizer, if its pairs can't be taken apart, or
    if they don't fit a split reader.
    """

    def __init__(self, folder: str | Path, passage_position: int | None = None):
        files = read_tokenizer(Path(folder))
        self._backend = files.backend
        self._words = beginnings_of_words(self._backend)  # None: words don't bound the tokens
        self.unknown = _unknown_token(self._backend.model)
        self.vocabulary_size = self._backend.get_vocab_size(with_added_tokens=True)
        self.max_length = int(min(files.max_length, 2**31 - 1))
        self.padding = files.roles.get("pad")
        pad_id = files.roles.get("eos", 0) if self.padding is None else self.padding
        self.format = self._probe(files.pads_right, files.roles.get("cls"), pad_id)
        if passage_position is not None:
            least = self.format.split(max_question=1).passage_position
            if least is not None and passage_position < least:
                raise TokenizerError(
                    f"spanmill.passage_position={passage_position}: special tokens and a question "
                    f"take positions up to {least} at least"
                )
            self.format = replace(self.format, passage_position=passage_position)
        # A text must not contain these: it could end the question, for example.
        self._reserved = sorted(set(files.roles.values()) - {self.unknown})
        self._extends_offsets = self._must_extend_offsets()

    def _probe(self, question_first: bool, classifier_id: int | None, pad_id: int) -> PairFormat:
        """Join a pair of one-token texts and see what goes around them. Raises TokenizerError."""
        # The question and the context of the probe are the same token.
        probe = self._backend.encode("a", add_special_tokens=False)
        probe.truncate(1)
        if len(probe.ids) != 1:
            raise TokenizerError(
                "the tokenizer makes no token of 'a': its pair format can't be found"
            )
        pair = self._backend.post_process(probe, probe, add_special_tokens=True)
        texts = [k for k, special in enumerate(pair.special_tokens_mask) if not special]
        if len(texts) != 2:
            raise TokenizerError(
                f"the tokenizer joins a pair as {pair.tokens}: question and context can't be told "
                "apart"
            )
        first, second = texts
        ids, types = pair.ids, pair.type_ids

        # Count a classifier behind the first text from the end: the texts' lengths vary.
        classifiers = [
            k for k, token in enumerate(ids) if token == classifier_id and k not in texts
        ]
        classifier = classifiers[0] if classifiers else None
        if classifier is not None and classifier > first:
            classifier -= len(ids)
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

    def _must_extend_offsets(self) -> bool:
        """Return whether the tokenizer's offsets leave out letters, so that tokens need extending.

        Raises TokenizerError if the offsets can't be used even then: answers would lack letters.
        """
        try:
            encodings, ids = self._encode(PROBE)
        except Exception as error:
            raise TokenizerError(
                f"the tokenizer can't read texts of many scripts: {error}"
            ) from error
        passage = np.repeat(np.arange(len(PROBE)), ids.lengths)
        raw = _offsets(encodings, len(passage))
        text, bounds = _concatenated(PROBE)
        start, end = trim_whitespace(text, raw + bounds[passage][:, None])

        # Offsets must ascend within each text.
        full = np.flatnonzero(raw[:, 1] > raw[:, 0])
        within = np.diff(passage[full]) == 0
        if (np.diff(raw[full], axis=0)[within] < 0).any():
            raise TokenizerError(
                "the tokenizer's offsets do not ascend, which a pre-tokenizer that is code can "
                "cause"
            )

        # Every letter must be in a token, at the latest after the extension.
        if not len(letters_in_no_token(text, start, end)):
            return False
        start, end = over_letters(text, start, end, passage, bounds)
        left = letters_in_no_token(text, start, end)
        if len(left):
            probe = int(np.searchsorted(bounds, left[0], "right")) - 1
            raise TokenizerError(
                f"the tokenizer leaves letters in no token, such as {text[left[0]]!r} in "
                f"{PROBE[probe]!r}, so that answers would lack them"
            )
        _log.info("the tokenizer's offsets leave out letters: each is added to a token next to it")
        return True

    def questions(self, texts: Sequence[str]) -> Ragged:
        """Return the token ids of each question, whole and without special tokens."""
        return self._encode(texts, self._backend.encode_batch_fast)[1]

    def surely_exceeds(self, context: str, tokens: int) -> bool:
        """Return True if the context provably has more than `tokens` tokens, without tokenizing it.

        False means unknown.
        """
        return self._words is not None and has_more(self._words, context, tokens)

    def passages(self, contexts: Sequence[str]) -> Passages:
        """Return the tokens of each context with trimmed offsets, whole, without special tokens."""
        parts = [self._passages(part) for part in _by_characters(contexts)]
        return Passages.joined(parts or [self._passages([])])

    def _passages(self, contexts: Sequence[str]) -> Passages:
        encodings, ids = self._encode(contexts)
        offsets = _offsets(encodings, len(ids.values))
        passage = np.repeat(np.arange(len(contexts)), ids.lengths)
        # One concatenated text lets numpy correct the offsets of all contexts at once.
        text, text_start = _concatenated(contexts)
        start, end = trim_whitespace(text, offsets + text_start[passage][:, None])
        if self._extends_offsets:
            start, end = over_letters(text, start, end, passage, text_start)
        # Marks belong to the token before them, up to the next token or the end of the text.
        next_start = np.append(start[1:], len(text))
        end = over_marks(text, end, np.minimum(next_start, text_start[passage + 1]))
        # The texts are concatenated, so tokens of different passages never share a character.
        can_start, can_end = span_ends(start, end)
        shift = text_start[passage]
        return Passages(
            ids=ids.values,
            char_start=(start - shift).astype(np.int32),
            char_end=(end - shift).astype(np.int32),
            can_start=can_start,
            can_end=can_end,
            bounds=ids.bounds,
        )

    def _encode(
        self, texts: Sequence[str], encode: Callable[..., list[Any]] | None = None
    ) -> tuple[list[Any], Ragged]:
        """Return the backend's encodings and their ids; special tokens in a text count as text.

        encode  `encode_batch_fast` of the backend where no offsets are needed
        """
        encode = encode or self._backend.encode_batch
        encodings = encode(list(texts), add_special_tokens=False)
        ids = Ragged.of([encoding.ids for encoding in encodings])
        spelled = np.isin(ids.values, self._reserved)
        if spelled.any():
            # Encode the texts that yielded a special token again, with `_literal`.
            rows = np.searchsorted(ids.bounds, np.flatnonzero(spelled), "right") - 1
            affected = np.unique(rows).tolist()
            literal = self._literal.encode_batch(
                [texts[k] for k in affected], add_special_tokens=False
            )
            for k, encoding in zip(affected, literal, strict=True):
                encodings[k] = encoding
            ids = Ragged.of([encoding.ids for encoding in encodings])
        return encodings, ids

    @cached_property
    def _literal(self) -> Any:
        """Return the backend, changed to split words after the first letter of a special token.

        Unigram models know special tokens as pieces of text: "</s>" in a text would become the
        token that ends it.
        """
        tokens = (str(self._backend.id_to_token(token)) for token in self._reserved)
        pattern = "|".join(
            f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in tokens if len(token) > 1
        )
        literal = tokenizers.Tokenizer.from_str(self._backend.to_str())
        literal.encode_special_tokens = True
        splitters = [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")]
        if literal.pre_tokenizer is not None:
            splitters.insert(0, literal.pre_tokenizer)
        literal.pre_tokenizer = pre_tokenizers.Sequence(splitters)
        return literal


def _unknown_token(model: Any) -> int | None:
    """Return the id that a tokenizer's model gives to a character outside its vocabulary.

    None if it gives several tokens, as for bytes, or fails because it has no such token.
    """
    try:
        tokens = model.tokenize(_PRIVATE_USE)
    except Exception:
        return None
    return tokens[0].id if len(tokens) == 1 else None


def _offsets(encodings: Sequence[Any], tokens: int) -> np.ndarray:
    """Return the tokenizer's own offsets, int64 [tokens, 2], each in its text."""
    flat = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings))
    return np.fromiter(flat, np.int64, 2 * tokens).reshape(tokens, 2)


def _concatenated(texts: Sequence[str]) -> tuple[str, np.ndarray]:
    """Return the concatenated texts, and where each begins, int64 [texts + 1]."""
    begins = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    return "".join(texts), begins.astype(np.int64)


def _by_characters(contexts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield groups of consecutive contexts of about `_CHARACTERS_AT_ONCE`, at least one in each."""
    begin, characters = 0, 0
    for k, context in enumerate(contexts):
        if k > begin and characters + len(context) > _CHARACTERS_AT_ONCE:
            yield contexts[begin:k]
            begin, characters = k, 0
        characters += len(context)
    if begin < len(contexts):
        yield contexts[begin:]
