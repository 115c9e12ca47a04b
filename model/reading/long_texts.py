"""Recognise texts with too many tokens by counting words, 100 times as fast as tokenizing.

Most tokenizers split a text at its spaces before anything else, so that no token has characters of
two words, and make at least one token of every word. Then a text has at least as many tokens as
words. If a tokenizer's parts don't prove this, `beginnings_of_words` returns None.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

from tokenizers import models, pre_tokenizers

_WORD = r" [^\W_\u037a\u0500-\U0010ffff]"
"""The beginning of a word: a space, then a Latin, Greek or Cyrillic letter or a digit.

Normalizers drop marks, controls and characters that their tables lack, and a word of only these
vanishes. U+037A is excluded because some of them decompose it to a space and a mark.
"""

_IDEOGRAPH = r"[\u4e00-\u9fa5]"
"""A word of its own where BERT's normalizer handles Chinese characters."""

_NORMALIZERS = {
    "BertNormalizer",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "StripAccents",
    "Strip",
}
"""Normalizers that turn no letter into nothing but marks and remove no space between two words."""

_REPLACEMENTS = [
    {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
    {"type": "Replace", "pattern": {"String": "''"}, "content": '"'},
    {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "},
]
"""The replacements of ALBERT, XLNet and DeBERTa, which are safe; any other might do anything."""

_SPLITTERS: dict[str, dict[str, bool]] = {
    "BertPreTokenizer": {},
    "Whitespace": {},
    "WhitespaceSplit": {},
    "ByteLevel": {"use_regex": True},
    "Metaspace": {"split": True},
}
"""Pre-tokenizers that split at spaces -> the settings with which they do."""


def has_more(pattern: re.Pattern[str], text: str, most: int) -> bool:
    """Return whether a text has more than `most` matches; stops reading at the first above that."""
    return len(text) > most and next(islice(pattern.finditer(text), most, None), None) is not None


def beginnings_of_words(backend: Any) -> re.Pattern[str] | None:
    """Return a pattern whose every match is the beginning of at least one token of its own.

    backend  a `tokenizers.Tokenizer`

    Returns None if the tokenizer's parts don't guarantee that.
    """
    normalizers = _steps(backend.normalizer, "normalizers")
    splitters = _steps(backend.pre_tokenizer, "pretokenizers")
    safe_normalizers = all(
        step["type"] in _NORMALIZERS or step in _REPLACEMENTS for step in normalizers
    )
    # Only the first splitter surely sees all spaces: it may hide them from those that follow.
    splits = bool(splitters) and _splits_at_spaces(splitters[0])
    if not (safe_normalizers and splits and _drops_nothing(backend, splitters[-1]["type"])):
        return None
    # An added token with a space in it would hold parts of two words.
    added = backend.get_added_tokens_decoder().values()
    if any(len(token.content.split()) > 1 for token in added):
        return None
    ideographs = any(step.get("handle_chinese_chars") for step in normalizers)
    return re.compile(f"{_WORD}|{_IDEOGRAPH}" if ideographs else _WORD)


def _steps(step: Any, name: str) -> list[dict[str, Any]]:
    """Return the serialised settings of a normalizer or pre-tokenizer; of each, for a sequence.

    name  key under which a sequence has its steps
    """
    if step is None:
        return []
    settings: dict[str, Any] = json.loads(step.__getstate__())
    return list(settings.get(name, [settings]))


def _splits_at_spaces(step: dict[str, Any]) -> bool:
    return step["type"] in _SPLITTERS and _SPLITTERS[step["type"]].items() <= step.items()


def _drops_nothing(backend: Any, splitter: str) -> bool:
    """Return whether the model makes a token of everything that the last pre-tokenizer gives it."""
    # BPE drops characters outside its vocabulary, unless bytes cover them all.
    if isinstance(backend.model, models.BPE):
        letters = pre_tokenizers.ByteLevel.alphabet()
        return splitter == "ByteLevel" and all(
            backend.model.token_to_id(letter) is not None for letter in letters
        )
    return isinstance(backend.model, models.WordPiece | models.Unigram)
