"""Texts with too many tokens, told by their words: these are counted in a hundredth of the time that tokenizing takes.

Most tokenizers split a text at its spaces before anything else, so that no token holds characters of two words, and make
at least one token of any word. Then a text has at least as many tokens as words. Where this can't be seen from a
tokenizer's parts, nothing is said of its texts.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

from tokenizers import models, pre_tokenizers

_WORD = r" [^\W_\u037a\u0500-\U0010ffff]"
"""The beginning of a word: a space, then a Latin, Greek or Cyrillic letter or a digit. Normalizers drop marks, controls and
what their tables do not know, and a word of these alone vanishes (U+037A is a space and a mark to some)."""

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
"""Change single letters and marks, none to nothing but marks, and no space between two words."""

_REPLACEMENTS = [
    {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
    {"type": "Replace", "pattern": {"String": "''"}, "content": '"'},
    {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "},
]
"""Those of ALBERT, XLNet and DeBERTa; others may do anything."""

_SPLITTERS: dict[str, dict[str, bool]] = {
    "BertPreTokenizer": {},
    "Whitespace": {},
    "WhitespaceSplit": {},
    "ByteLevel": {"use_regex": True},
    "Metaspace": {"split": True},
}
"""What splits at spaces, with the settings with which it does."""


def has_more(pattern: re.Pattern[str], text: str, most: int) -> bool:
    """Whether a pattern is found in a text more than so many times; reads no more of it than it has to."""
    return len(text) > most and next(islice(pattern.finditer(text), most, None), None) is not None


def beginnings_of_words(backend: Any) -> re.Pattern[str] | None:
    """What begins a word of which a fast tokenizer, a `tokenizers.Tokenizer`, surely makes at least one token of its own.

    None where that is not sure of any.
    """
    normalizers = _steps(backend.normalizer, "normalizers")
    splitters = _steps(backend.pre_tokenizer, "pretokenizers")
    sure = (
        all(step["type"] in _NORMALIZERS or step in _REPLACEMENTS for step in normalizers)
        and bool(splitters)
        and _splits_at_spaces(
            splitters[0]
        )  # those that come first may hide the spaces from those that follow
        and _drops_nothing(backend, splitters[-1]["type"])
        and not any(
            len(token.content.split()) > 1 for token in backend.get_added_tokens_decoder().values()
        )
    )
    if not sure:
        return None
    apart = any(step.get("handle_chinese_chars") for step in normalizers)
    return re.compile(f"{_WORD}|{_IDEOGRAPH}" if apart else _WORD)


def _steps(step: Any, name: str) -> list[dict[str, Any]]:
    """The settings of a normalizer or pre-tokenizer, or of those in a sequence of them, as they are pickled."""
    if step is None:
        return []
    settings: dict[str, Any] = json.loads(step.__getstate__())
    return list(settings.get(name, [settings]))


def _splits_at_spaces(step: dict[str, Any]) -> bool:
    return step["type"] in _SPLITTERS and _SPLITTERS[step["type"]].items() <= step.items()


def _drops_nothing(backend: Any, splitter: str) -> bool:
    """Whether the model makes a token of whatever the pre-tokenizer hands it. BPE alone drops what it does not know."""
    if isinstance(backend.model, models.BPE):
        letters = pre_tokenizers.ByteLevel.alphabet()
        return splitter == "ByteLevel" and all(
            backend.model.token_to_id(letter) is not None for letter in letters
        )
    return isinstance(backend.model, models.WordPiece | models.Unigram)
