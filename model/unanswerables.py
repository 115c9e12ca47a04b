"""Unanswerable training rows, made from answerable ones, so that the null option is trained.

Three kinds, in equal parts where all can be made:

*other passage*    the question with a passage from nearby in the data, the one that shares most words with it
*changed question* the passage with a question that now asks for something else: a name, a number or a word that the passage
                   does not hold, an antonym, a negation (the edits that people made for SQuAD 2.0; Rajpurkar et al. 2018,
                   arXiv:1806.03822, table 2)
*passage cut*      the question with its own passage, without the sentences that hold the answer

Passages that hold the answer are never taken for the first and the third kind; a name, number or word that the passage holds
never for the second.
"""

from __future__ import annotations

import random
import re

NEARBY = 3
"""How many passages before and after a row's own are looked at."""

OPPOSITES = """first last|most least|before after|highest lowest|largest smallest|more fewer|north south|east west|early late
increase decrease|increased decreased|above below|older younger|won lost|win lose|began ended|begin end|start stop|major minor
northern southern|eastern western|inside outside|always never|same different|large small|high low|good bad|open close
oldest newest|longest shortest|best worst|added removed|allowed forbidden|accepted rejected|with without|public private
earliest latest|youngest eldest|greatest least|maximum minimum|upper lower|higher lower|larger smaller|longer shorter
stronger weaker|strong weak|fast slow|faster slower|new old|former latter|formal informal|legal illegal|common rare
possible impossible|internal external|positive negative|successful unsuccessful|wealthy poor|rich poor|popular unpopular
ancient modern|rural urban|local foreign|domestic foreign|male female|men women|man woman|father mother|son daughter
brother sister|king queen|husband wife|born killed|buy sell|bought sold|gained lost|gain lose|rise fall|rose fell
built destroyed|build destroy|create destroy|created destroyed|enter leave|entered left|arrive depart|arrived departed
support oppose|supported opposed|agreed refused|agree disagree|include exclude|included excluded|encourage discourage
improve worsen|improved worsened|strengthen weaken|expanded reduced|expand reduce|appointed dismissed|praised criticized
praise criticize|attack defend|attacked defended|joined left|founded dissolved|approved vetoed|banned permitted
winter summer|morning evening|day night|wet dry|hot cold|light dark|hard soft|left right|top bottom|front back
during after|since until|majority minority|advantage disadvantage|advantages disadvantages|strengths weaknesses
causes effects|cause prevent|caused prevented|friend enemy|allies enemies|ally enemy|victory defeat|success failure
beginning end|birth death|entrance exit|income expense|teacher student|seller buyer|export import|exports imports
many few|all none|more less|directly indirectly|often rarely|usually rarely|easily hardly"""
ANTONYMS: dict[str, str] = {}
for _pair in re.split(r"[|\n]", OPPOSITES):
    _one, _other = _pair.split()
    ANTONYMS |= {_one: _other, _other: _one}

AUXILIARY = re.compile(r"\b(is|are|was|were|did|does|do|can|could|would|has|have)\b")
NUMBER = re.compile(r"\b\d{2,4}\b")
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-zA-Z]+(?: [A-Z][a-zA-Z]+)*")
WORD = re.compile(r"\w{4,}")
PLAIN_WORD = re.compile(r"\b[a-z]{5,}\b")
QUESTION_WORDS = {"about", "other", "their", "there", "these", "those", "under", "where", "which", "while", "whose"}
SENTENCE = re.compile(r".+?(?:[.!?][\"')\]]*(?=\s|$)|$)\s*", re.DOTALL)


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
        kinds = [changed_question, passage_cut, other_passage]
        found = next(filter(None, (kinds[(turn + step) % 3](row, nearby, chosen) for step in range(3))), None)
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


def passage_cut(row: dict, nearby: list[str], chosen: random.Random) -> dict | None:
    """The row's question with its passage less all sentences that hold a gold; None if less than half would be left."""
    golds = [gold.lower() for gold in row["answers"]["text"]]
    context = row["context"]
    left = "".join(sentence for sentence in SENTENCE.findall(context) if not any(gold in sentence.lower() for gold in golds))
    if 2 * len(left) < len(context) or any(gold in left.lower() for gold in golds):
        return None
    return _without_answer(row["question"], left)


def changed_question(row: dict, nearby: list[str], chosen: random.Random) -> dict | None:
    """The row's passage with its question changed in one place, so that it has no answer there; None if none fits."""
    question, context = row["question"], row["context"]
    changes = [_other_name, _other_number, _other_word, _antonym, _negation]
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


def _other_word(question: str, context: str, nearby: list[str], chosen: random.Random) -> str | None:
    """A word that the passage holds makes room for one that it lacks, of the same ending, from a passage nearby."""
    lowered = context.lower()
    words = [word for word in PLAIN_WORD.findall(question) if word in lowered and word not in QUESTION_WORDS]
    if not words:
        return None
    word = chosen.choice(words)
    others = {other for passage in nearby for other in PLAIN_WORD.findall(passage) if other[-2:] == word[-2:]}
    fitting = sorted(other for other in others - QUESTION_WORDS if other not in lowered and other not in question)
    return re.sub(rf"\b{word}\b", chosen.choice(fitting), question, count=1) if fitting else None


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
