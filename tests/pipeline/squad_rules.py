"""The official SQuAD 2.0 scores of predictions and probabilities of no answer.

Written from the papers (arXiv:1606.05250, section 6.1; arXiv:1806.03822, section 5),
independently of `model.audit.metrics`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any


def _words(text: str) -> list[str]:
    lowered = "".join(
        character for character in text.lower() if character not in string.punctuation
    )
    return [word for word in _without_articles(lowered).split() if word]


def _without_articles(text: str) -> str:
    """Remove articles: whole words, bounded by anything but letters, digits and underscores."""
    result, word = [], ""
    for character in [*text, " "]:
        if character.isalnum() or character == "_":
            word += character
        else:
            result.append("" if word in ("a", "an", "the") else word)
            result.append(character)
            word = ""
    return "".join(result)


def _overlap(prediction: list[str], gold: list[str]) -> float:
    if not prediction or not gold:
        return float(prediction == gold)
    left, common = list(gold), 0
    for word in prediction:
        if word in left:
            left.remove(word)
            common += 1
    return 2 * common / (len(prediction) + len(gold))


def score(
    squad: Mapping[str, Any], predictions: Mapping[str, str], na_prob: Mapping[str, float]
) -> dict[str, float]:
    """Return EM and F1 in percent at the default threshold, no answer above probability 1."""
    exact, f1 = [], []
    for article in squad["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                said = _words("" if na_prob[asked["id"]] > 1.0 else predictions[asked["id"]])
                golds = [
                    words
                    for words in (_words(answer["text"]) for answer in asked["answers"])
                    if words
                ] or [[]]
                exact.append(float(said in golds))
                f1.append(max(_overlap(said, gold) for gold in golds))
    return {"exact": 100 * sum(exact) / len(exact), "f1": 100 * sum(f1) / len(f1)}
