"""Unanswerable training rows, made from answerable ones to train the null option.

There are three kinds, equally many where all can be made:

*other passage*    the question with a passage nearby in the data, the one that shares most words
                   with the question
*changed question* the passage with a question that asks for something else: another name, number
                   or word, the end of another question, an antonym, a negation (the edits that
                   people made for SQuAD 2.0; Rajpurkar et al. 2018, arXiv:1806.03822, table 2)
*passage cut*      the question with its own passage, without the sentences that contain the answer

The first and the third kind never use a passage that contains the answer. A changed question takes
its new words from the passage itself in half of the cases. Such questions are the hardest, though a
few of them do have an answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

NEARBY = 3
"""Number of passages before and after a row's own that count as nearby."""

OPPOSITES = """first last|most least|before after|highest lowest|largest smallest|more fewer
north south|east west|early late|increase decrease|increased decreased|above below|older younger
won lost|win lose|began ended|begin end|start stop|major minor|northern southern|eastern western
inside outside|always never|same different|large small|high low|good bad|open close|oldest newest
longest shortest|best worst|added removed|allowed forbidden|accepted rejected|with without
public private|earliest latest|youngest eldest|greatest least|maximum minimum|upper lower
higher lower|larger smaller|longer shorter|stronger weaker|strong weak|fast slow|faster slower
new old|former latter|formal informal|legal illegal|common rare|possible impossible
internal external|positive negative|successful unsuccessful|wealthy poor|rich poor|popular unpopular
ancient modern|rural urban|local foreign|domestic foreign|male female|men women|man woman
father mother|son daughter|brother sister|king queen|husband wife|born killed|buy sell|bought sold
gained lost|gain lose|rise fall|rose fell|built destroyed|build destroy|create destroy
created destroyed|enter leave|entered left|arrive depart|arrived departed|support oppose
supported opposed|agreed refused|agree disagree|include exclude|included excluded
encourage discourage|improve worsen|improved worsened|strengthen weaken|expanded reduced
expand reduce|appointed dismissed|praised criticized|praise criticize|attack defend
attacked defended|joined left|founded dissolved|approved vetoed|banned permitted|winter summer
morning evening|day night|wet dry|hot cold|light dark|hard soft|left right|top bottom|front back
during after|since until|majority minority|advantage disadvantage|advantages disadvantages
strengths weaknesses|causes effects|cause prevent|caused prevented|friend enemy|allies enemies
ally enemy|victory defeat|success failure|beginning end|birth death|entrance exit|income expense
teacher student|seller buyer|export import|exports imports|all none|more less|directly indirectly
often rarely|usually rarely|easily hardly"""
# Each word of a pair maps to the other one.
ANTONYMS: dict[str, str] = {}
for _pair in re.split(r"[|\n]", OPPOSITES):
    _one, _other = _pair.split()
    ANTONYMS |= {_one: _other, _other: _one}

AUXILIARY = re.compile(r"\b(is|are|was|were|did|does|do|can|could|would|has|have)\b")
NUMBER = re.compile(r"\b\d{2,4}\b")
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-zA-Z]+(?: [A-Z][a-zA-Z]+)*")
WORD = re.compile(r"\w{4,}")
PLAIN_WORD = re.compile(r"\b[a-z]{5,}\b")
QUESTION_WORDS = {
    "about",
    "other",
    "their",
    "there",
    "these",
    "those",
    "under",
    "where",
    "which",
    "while",
    "whose",
}
TAIL = re.compile(r" (?:of|in|for|from|to|by|with|at|on|during|after|before) .+?(?=\?|$)")
SENTENCE = re.compile(r".+?(?:[.!?][\"')\]]*(?=\s|$)|$)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Source:
    """What an unanswerable row is made from.

    question, context  the texts of an answerable row
    golds              texts that answer the question
    nearby             other passages
    asked              other questions on the passage
    """

    question: str
    context: str
    golds: list[str]
    nearby: list[str]
    asked: list[str]

    def others(self, pattern: re.Pattern[str], chosen: random.Random) -> list[str]:
        """Return replacements for a match in the question, sorted.

        They are the pattern's matches in the passage or, with a chance of one half, those in nearby
        passages that the passage does not contain. Texts in the question or in a gold are left out.
        """
        inside = set(pattern.findall(self.context))
        if chosen.random() < 0.5:
            candidates = inside
        else:
            matches = (match for passage in self.nearby for match in pattern.findall(passage))
            candidates = {match for match in matches if match not in self.context}
        kept_out = " ".join([self.question, *self.golds])
        return sorted(match for match in candidates if match not in kept_out)


def unanswerables(rows: list[dict], share: float, seed: int) -> list[dict]:
    """Make `share` x len(rows) unanswerable rows, or fewer if some can't be made.

    Rows are dicts of `question`, `context` and `answers`; the results also have `made_from`, the
    index of the answerable row that they were made from.
    """
    # Questions of each distinct passage, in the order of the data.
    chosen = random.Random(seed)
    asked: dict[str, list[str]] = {}
    for row in rows:
        asked.setdefault(row["context"], []).append(row["question"])
    contexts = list(asked)
    index = {context: k for k, context in enumerate(contexts)}
    sources = [k for k, row in enumerate(rows) if row["answers"]["text"]]
    # Draw with replacement: a row may be used more than once.
    wanted = int(share * len(rows))
    taken = chosen.choices(sources, k=wanted) if sources else []
    made = []
    for turn, number in enumerate(taken):
        question, context = rows[number]["question"], rows[number]["context"]
        own = index[context]
        source = Source(
            question=question,
            context=context,
            golds=rows[number]["answers"]["text"],
            nearby=[
                contexts[(own + step) % len(contexts)]
                for step in range(-NEARBY, NEARBY + 1)
                if step
            ],
            asked=[other for other in asked[context] if other != question],
        )
        # Kinds take turns; one that can't be made leaves its turn to the next.
        kinds = [changed_question, passage_cut, other_passage]
        for step in range(3):
            unanswerable = kinds[(turn + step) % 3](source, chosen)
            if unanswerable:
                made.append({**unanswerable, "made_from": number})
                break
    return made


def other_passage(source: Source, chosen: random.Random) -> dict | None:
    """Return the question with the nearby passage without a gold that shares most words with it.

    None if all contain one.
    """
    golds = [gold.lower() for gold in source.golds]
    words = set(WORD.findall(source.question.lower()))
    without = [
        passage for passage in source.nearby if not any(gold in passage.lower() for gold in golds)
    ]
    if not without:
        return None
    # The random fraction breaks ties between passages that share as many words.
    shared = [
        len(words & set(WORD.findall(passage.lower()))) + chosen.random() for passage in without
    ]
    return _without_answer(source.question, without[shared.index(max(shared))])


def passage_cut(source: Source, chosen: random.Random) -> dict | None:
    """Return the question with its passage without the sentences that contain a gold.

    None if less than half of the passage would be left, or a gold that crosses sentences remains.
    """
    golds = [gold.lower() for gold in source.golds]
    sentences = SENTENCE.findall(source.context)
    left = "".join(
        sentence for sentence in sentences if not any(gold in sentence.lower() for gold in golds)
    )
    if 2 * len(left) < len(source.context) or any(gold in left.lower() for gold in golds):
        return None
    return _without_answer(source.question, left)


def changed_question(source: Source, chosen: random.Random) -> dict | None:
    """Return the passage with the question changed in one place; None if no change applies.

    Questions that are asked of the passage in the data are never made.
    """
    changes: list[Callable[[Source, random.Random], str | None]]
    changes = [_other_name, _part_of_name, _other_number, _other_word, _other_tail, _antonym]
    chosen.shuffle(changes)
    # A negation almost always applies, and many of them teach little: except in one case of twelve,
    # try it last.
    changes.insert(0 if chosen.random() < 1 / 12 else len(changes), _negation)
    for change in changes:
        changed = change(source, chosen)
        if changed and changed not in source.asked:
            return _without_answer(changed, source.context)
    return None


def _without_answer(question: str, context: str) -> dict:
    """Return an unanswerable row."""
    return {"question": question, "context": context, "answers": {"text": [], "answer_start": []}}


def _other_name(source: Source, chosen: random.Random) -> str | None:
    """Replace a name in the question by another name."""
    names, others = NAME.findall(source.question), source.others(NAME, chosen)
    return (
        source.question.replace(chosen.choice(names), chosen.choice(others), 1)
        if names and others
        else None
    )


def _part_of_name(source: Source, chosen: random.Random) -> str | None:
    """Replace a word of a name in the question by one of another name: Ada Lovelace, Ada Byron."""
    names = [name for name in NAME.findall(source.question) if " " in name]
    parts = [
        part
        for name in source.others(NAME, chosen)
        for part in name.split()
        if part not in source.question
    ]
    if not names or not parts:
        return None
    return source.question.replace(
        chosen.choice(chosen.choice(names).split()), chosen.choice(parts), 1
    )


def _other_number(source: Source, chosen: random.Random) -> str | None:
    """Replace a number in the question by another one, or by one near it that the passage lacks."""
    numbers = NUMBER.findall(source.question)
    if not numbers:
        return None
    number = chosen.choice(numbers)
    # A number near the right one is plausible. The passage must not have it.
    invented = str(int(number) + chosen.choice([-20, -10, -3, -2, 2, 3, 5, 10, 30]))
    others = source.others(NUMBER, chosen) or ([] if invented in source.context else [invented])
    return source.question.replace(number, chosen.choice(others), 1) if others else None


def _other_word(source: Source, chosen: random.Random) -> str | None:
    """Replace a word of the question by another one with the same last two letters."""
    words = [word for word in PLAIN_WORD.findall(source.question) if word not in QUESTION_WORDS]
    if not words:
        return None
    word = chosen.choice(words)
    fitting = [
        other
        for other in source.others(PLAIN_WORD, chosen)
        if other[-2:] == word[-2:] and other not in QUESTION_WORDS
    ]
    return (
        re.sub(rf"\b{word}\b", chosen.choice(fitting), source.question, count=1)
        if fitting
        else None
    )


def _other_tail(source: Source, chosen: random.Random) -> str | None:
    """Replace the question's end, from a preposition on, by that of another question."""
    own = TAIL.search(source.question)
    kept_out = [source.question, *source.golds]
    tails = [tail for question in source.asked for tail in TAIL.findall(question)]
    tails = [
        tail for tail in tails if not any(tail.strip() in text or text in tail for text in kept_out)
    ]
    if not own or not tails:
        return None
    return source.question[: own.start()] + chosen.choice(tails) + source.question[own.end() :]


def _antonym(source: Source, chosen: random.Random) -> str | None:
    """Replace a word of the question by its antonym."""
    words = [word for word in source.question.split() if word in ANTONYMS]
    if not words:
        return None
    word = chosen.choice(words)
    return re.sub(rf"\b{word}\b", ANTONYMS[word], source.question, count=1)


def _negation(source: Source, chosen: random.Random) -> str | None:
    """Negate the question's first auxiliary verb; None if the question is negated already."""
    if re.search(r"\bnot\b|n't\b", source.question):
        return None
    changed = AUXILIARY.sub(
        lambda verb: f"{verb[0]} not" if verb[0] != "can" else "cannot", source.question, count=1
    )
    return changed if changed != source.question else None
