"""Exact match and F1 of answers, by the rules of SQuAD 1.1 and 2.0 (Rajpurkar et al., arXiv:1606.05250 and 1806.03822)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without punctuation and English articles, white space folded."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1.0 if the normalised prediction equals a normalised gold, else 0.0; no gold means the gold is no answer ("")."""
    return float(normalise(prediction) in _normal_golds(golds))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Token F1 in [0, 1], max over golds; where either side is empty, 1.0 if both are."""
    return max(_f1(normalise(prediction).split(), gold.split()) for gold in _normal_golds(golds))


def _normal_golds(golds: Sequence[str]) -> list[str]:
    """By the rules of SQuAD 2.0, golds of which nothing is left don't count, unless there is no other."""
    return list(filter(None, map(normalise, golds))) or [""]


def _f1(prediction: list[str], gold: list[str]) -> float:
    if not prediction or not gold:
        return float(prediction == gold)
    common = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * common / (len(prediction) + len(gold))
