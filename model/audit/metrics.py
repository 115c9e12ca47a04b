"""Exact match and F1 of answers, by the rules of SQuAD 1.1 and 2.0 (Rajpurkar et al., arXiv:1606.05250 and 1806.03822)."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without punctuation and English articles, white space folded."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def grade(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """Exact match and token F1, in [0, 1], each the best over golds; no gold means the gold is no answer ("").

    Where either side is empty once normalised, both are 1.0 if both are. By the rules of SQuAD 2.0, golds of which nothing is
    left don't count, unless there is no other.
    """
    answer = normalise(prediction)
    if answer and prediction in golds:
        return 1.0, 1.0
    normal = set(map(normalise, set(golds))) - {""} or {""}
    if answer in normal:
        return 1.0, 1.0
    words = answer.split()
    return 0.0, max(_f1(words, gold.split()) for gold in normal)


def _f1(prediction: list[str], gold: list[str]) -> float:
    common = sum(min(prediction.count(word), gold.count(word)) for word in {*prediction}.intersection(gold))
    return 2 * common / (len(prediction) + len(gold))
