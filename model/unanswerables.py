"""Unanswerable training rows, made from answerable ones, so that the null option is trained.

Two kinds, in equal parts where both can be made:

*other passage*    the question with a passage from nearby in the data, the one that shares most words with it
*changed question* the passage with a question that now asks for something else: a name or a number that the passage
                   does not hold, an antonym, a negation (the edits that people made for SQuAD 2.0; Rajpurkar et al. 2018,
                   arXiv:1806.03822, table 2)

Passages that hold the answer are never taken for the first kind; a name or number that the passage holds never for the second.
"""

from __future__ import annotations

import random
import re

NEARBY = 3
"""How many passages before and after a row's own are looked at."""

OPPOSITES = """first last|most least|before after|highest lowest|largest smallest|more fewer|north south|east west|early late
increase decrease|increased decreased|above below|older younger|won lost|win lose|began ended|begin end|start stop|major minor
northern southern|eastern western|inside outside|always never|same different|large small|high low|good bad|open close
oldest newest|longest shortest|best worst|added removed|allowed forbidden|accepted rejected|with without|public private"""
ANTONYMS: dict[str, str] = {}
for _pair in re.split(r"[|\n]", OPPOSITES):
    _one, _other = _pair.split()
    ANTONYMS |= {_one: _other, _other: _one}

AUXILIARY = re.compile(r"\b(is|are|was|were|did|does|do|can|could|would|has|have)\b")
NUMBER = re.compile(r"\b\d{2,4}\b")
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-zA-Z]+(?: [A-Z][a-zA-Z]+)*")
WORD = re.compile(r"\w{4,}")


def unanswerables(rows: list[dict], share: float, seed: int) -> list[dict]:
    """`share` x len(rows) unanswerable rows; `made_from` is the number of the row that each was made from.

    Rows are `{question, context, answers}`; answerless rows are never taken as a source. Fewer come back if that many
    cannot be made.
    """
    chosen = random.Random(seed)
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    place = {context: k for k, context in enumerate(contexts)}
    sources = [k for k, row in enumerate(rows) if row["answers"]["text"]]
    wanted = int(share * len(rows))
    taken = chosen.choices(sources, k=wanted) if sources else []
    made = []
    for turn, number in enumerate(taken):
        row = rows[number]
        at = place[row["context"]]
        nearby = [contexts[(at + step) % len(contexts)] for step in range(-NEARBY, NEARBY + 1) if step]
        kinds = [other_passage, changed_question] if turn % 2 else [changed_question, other_passage]
        found = kinds[0](row, nearby, chosen) or kinds[1](row, nearby, chosen)
        made += [{**found, "made_from": number}] if found else []
    return made


def other_passage(row: dict, nearby: list[str], chosen: random.Random) -> dict | None:
    """The row's question with the passage nearby that looks most like an answer and holds none; None if all hold it."""
    golds = [gold.lower() for gold in row["answers"]["text"]]
    words = set(WORD.findall(row["question"].lower()))
    without = [passage for passage in nearby if not any(gold in passage.lower() for gold in golds)]
    if not without:
        return None
    shared = [len(words & set(WORD.findall(passage.lower()))) + chosen.random() for passage in without]
    return _without_answer(row["question"], without[shared.index(max(shared))])


def changed_question(row: dict, nearby: list[str], chosen: random.Random) -> dict | None:
    """The row's passage with its question changed in one place, so that it has no answer there; None if none fits."""
    question, context = row["question"], row["context"]
    changes = [_other_name, _other_number, _antonym, _negation]
    chosen.shuffle(changes)
    if changes[0] is _negation:  # a negation nearly always fits: it comes first in one case of eight only
        chosen.shuffle(changes)
    for change in changes:
        changed = change(question, context, nearby, chosen)
        if changed:
            return _without_answer(changed, context)
    return None


def _without_answer(question: str, context: str) -> dict:
    return {"question": question, "context": context, "answers": {"text": [], "answer_start": []}}


def _other_name(question: str, context: str, nearby: list[str], chosen: random.Random) -> str | None:
    names = NAME.findall(question)
    others = [name for passage in nearby for name in NAME.findall(passage) if name not in context and name not in question]
    return question.replace(chosen.choice(names), chosen.choice(others), 1) if names and others else None


def _other_number(question: str, context: str, nearby: list[str], chosen: random.Random) -> str | None:
    numbers = NUMBER.findall(question)
    if not numbers:
        return None
    number = chosen.choice(numbers)
    other = str(int(number) + chosen.choice([-20, -10, -3, -2, 2, 3, 5, 10, 30]))
    return None if other in context else question.replace(number, other, 1)


def _antonym(question: str, context: str, nearby: list[str], chosen: random.Random) -> str | None:
    words = [word for word in question.split() if word in ANTONYMS]
    if not words:
        return None
    word = chosen.choice(words)
    return re.sub(rf"\b{word}\b", ANTONYMS[word], question, count=1)


def _negation(question: str, context: str, nearby: list[str], chosen: random.Random) -> str | None:
    if re.search(r"\bnot\b|n't\b", question):
        return None
    changed = AUXILIARY.sub(lambda found: f"{found[0]} not" if found[0] != "can" else "cannot", question, count=1)
    return changed if changed != question else None
