"""Exact match and F1 of answers, by the rules of SQuAD 1.1 and 2.0.

Rajpurkar et al., arXiv:1606.05250 and arXiv:1806.03822.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from functools import partial

_ARTICLES = re.compile(r"\b(a|an|the)\b")
UNSPACED = "Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan"
"""Languages that are written without blanks between words, for messages."""

UNSPACED_CHARACTER = re.compile(
    "[\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u109f\uaa60-\uaa7f"  # Tibetan, Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # Han
)
"""A character of one of these languages."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Return the text in lower case, without punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def grade(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """Return exact match and token F1, the first two of `grades`."""
    return grades(prediction, golds)[:2]


def grades(prediction: str, golds: Sequence[str]) -> tuple[float, float, float]:
    """Return exact match, F1 and character F1, in [0, 1], each the best over golds.

    F1 counts words between blanks. Character F1 counts each character of a script without blanks
    (`UNSPACED`) as a word; both are equal for texts without such characters.

    Without golds the right prediction is "" (no answer). An empty text scores 1.0 against an empty
    one and 0.0 against any other. By the rules of SQuAD 2.0, golds that are empty once normalised
    count only if all of them are.
    """
    answer = normalise(prediction)
    if answer and prediction in golds:
        return 1.0, 1.0, 1.0
    normal = set(map(normalise, set(golds))) - {""} or {""}
    if answer in normal:
        return 1.0, 1.0, 1.0
    f1 = _best_f1(answer, normal)
    if not any(map(UNSPACED_CHARACTER.search, (answer, *normal))):
        return 0.0, f1, f1
    apart = partial(UNSPACED_CHARACTER.sub, r" \g<0> ")
    return 0.0, f1, _best_f1(apart(answer), map(apart, normal))


def _best_f1(prediction: str, golds: Iterable[str]) -> float:
    words = prediction.split()
    return max(_f1(words, gold.split()) for gold in golds)


def _f1(prediction: list[str], gold: list[str]) -> float:
    """Return F1 over the words of both, each counted as often as it appears."""
    common = sum(
        min(prediction.count(word), gold.count(word)) for word in {*prediction}.intersection(gold)
    )
    return 2 * common / (len(prediction) + len(gold))
