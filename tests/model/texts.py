"""Contexts in many scripts, each with a trap for character offsets."""

from __future__ import annotations

import unicodedata

from tests.checkpoints import sample_texts

FAMILY = "👨\u200d👩\u200d👧\u200d👦"
"""One glyph, seven code points: four emoji and three zero-width joiners."""

TRICKY_CONTEXTS = {
    "combining": "Le cafe\u0301 de Zu\u0308rich ouvre a\u0300 neuf heures; "
    "the n\u0303andu\u0301 is a bird too.",
    "emoji": f"The family {FAMILY} waved 👋🏽 at the 🏳️\u200d🌈 flag with 🇩🇪 too.",
    "chinese and japanese": "東京は日本の首都です。人口は約1400万人。 "
    "北京是中国的首都。 Tokyo is big.",
    "right to left": "ירושלים היא עיר עתיקה. القاهرة هي مدينة كبيرة جدا in 2024 too.",
    "white space": "  two  spaces\t a tab \n\n new lines \u00a0 no-break \u3000 wide   , end  ",
    "expanding": "The ﬁnal oﬃce, ½ of №5 — ﷺ ™ and İstanbul",
    "special tokens": "A [SEP] token, a </s> and a [CLS], <sep> or <mask> in the text too.",
}


def long_context(characters: int = 2000) -> str:
    """Return prose of the sample with every tricky context inside."""
    prose = "\n".join(sample_texts())
    step = characters // len(TRICKY_CONTEXTS)
    parts = [
        prose[k * step : (k + 1) * step] + text for k, text in enumerate(TRICKY_CONTEXTS.values())
    ]
    return "".join(parts)


def is_mark(character: str) -> bool:
    """Return whether a character belongs to the one before: a combining mark or the joiner."""
    return unicodedata.category(character).startswith("M") or character == "\u200d"
