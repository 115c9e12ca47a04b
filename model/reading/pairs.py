"""Pairs: the distinct question/context pairs of rows, cut into context windows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.reading.texts import usable_texts
from model.reading.tokenizer import Passages, Tokenizer
from model.reading.windows import WindowLimits, Windows, cut_windows, most_tokens


@dataclass(frozen=True, slots=True)
class Pairs:
    """The distinct pairs of some rows.

    row_pair       int64 [rows], index of the row's pair; -1 for a row with an unusable text, and
                   for some with too many windows (`problems` has all)
    questions      the distinct questions, in the order of `windows.questions`
    contexts       the distinct contexts, in the order of `windows.passages`
    questions_cut  int64 [pairs], number of question tokens beyond `max_question`
    unknown        int64 [contexts], characters of each context that are in unknown tokens
    windows        the windows of all pairs
    problems       row -> (reason, message) of every row that can't be answered
    """

    row_pair: np.ndarray
    questions: list[str]
    contexts: list[str]
    questions_cut: np.ndarray
    unknown: np.ndarray
    windows: Windows
    problems: dict[int, tuple[str, str]]


def cut_pairs(
    questions: Sequence[Any], contexts: Sequence[Any], tokenizer: Tokenizer, limits: WindowLimits
) -> Pairs:
    """Tokenize every distinct text once and cut the passages of the distinct pairs into windows.

    questions, contexts  [rows], text, None or `NotUTF8`

    Contexts that provably have too many tokens for `max_windows` are not tokenized. The reasons of
    problems are question_missing, question_not_utf8, question_blank, question_without_tokens, the
    same four with `context`, and too_many_windows.
    """
    questions, question_problems = usable_texts(questions)
    contexts, context_problems = usable_texts(contexts)
    problems = _problems_of_texts(question_problems, context_problems)

    # Tokenize the distinct texts. `most` holds for a question of one token: a longer one leaves
    # less room.
    usable = [row for row in range(len(questions)) if row not in problems]
    question_index = _numbered(questions[row] for row in usable)
    room = limits.max_length - tokenizer.format.special_tokens - 1
    most = most_tokens(room, limits.overlap, limits.max_windows)
    distinct = _numbered(contexts[row] for row in usable)
    tokenizable = [text for text in distinct if not tokenizer.surely_exceeds(text, most)]
    context_index = _numbered(tokenizable)
    whole = tokenizer.questions(list(question_index))
    passages = tokenizer.passages(tokenizable)

    # Rows without tokens, or surely with too many, have a problem. Number the pairs of the others.
    question_tokens, context_tokens = whole.lengths.tolist(), passages.lengths.tolist()
    row_texts: dict[int, tuple[int, int]] = {}
    for row in usable:
        q, c = question_index[questions[row]], context_index.get(contexts[row])
        if question_tokens[q] == 0:
            problems[row] = _without_tokens("question")
        elif c is None:
            problems[row] = _too_many_windows(f"more than {most}", limits)
        elif context_tokens[c] == 0:
            problems[row] = _without_tokens("context")
        else:
            row_texts[row] = q, c
    row_pair, pairs = _number_pairs(len(questions), row_texts)
    windows = cut_windows(tokenizer.format, passages, whole, pairs[:, 1], pairs[:, 0], limits)

    # A pair whose passage needs too many windows got none.
    for row, (_, c) in row_texts.items():
        if windows.counts[row_pair[row]] == 0:
            problems[row] = _too_many_windows(str(context_tokens[c]), limits)
    return Pairs(
        row_pair=row_pair,
        questions=list(question_index),
        contexts=tokenizable,
        questions_cut=np.maximum(whole.lengths - limits.max_question, 0)[pairs[:, 0]],
        unknown=_unknown_characters(passages, tokenizer.unknown),
        windows=windows,
        problems=problems,
    )


def _numbered(texts: Iterable[str]) -> dict[str, int]:
    """Return the distinct texts -> their index, in the order in which they first appear."""
    return {text: k for k, text in enumerate(dict.fromkeys(texts))}


def _problems_of_texts(
    questions: Mapping[int, str], contexts: Mapping[int, str]
) -> dict[int, tuple[str, str]]:
    """Return row -> (reason, message); of a row with two unusable texts the question is named.

    questions, contexts  row -> what is wrong with the text, as `usable_texts` returns it
    """
    problems: dict[int, tuple[str, str]] = {}
    for name, unusable in (("question", questions), ("context", contexts)):
        for row, problem in unusable.items():
            message = f"the {name} is {problem.replace('_', ' ').replace('utf8', 'UTF-8')}"
            problems.setdefault(row, (f"{name}_{problem}", message))
    return problems


def _number_pairs(
    rows: int, row_texts: Mapping[int, tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct pairs in the order of their first row.

    row_texts  row -> (index of its question, index of its context), in ascending order of rows

    Returns the pair of each row, int64 [rows], -1 for rows without texts, and the indices of the
    texts of each pair, int64 [pairs, 2].
    """
    pair_index: dict[tuple[int, int], int] = {}
    row_pair = np.full(rows, -1, np.int64)
    for row, texts in row_texts.items():
        row_pair[row] = pair_index.setdefault(texts, len(pair_index))
    return row_pair, np.array(list(pair_index), np.int64).reshape(-1, 2)


def _unknown_characters(passages: Passages, unknown: int | None) -> np.ndarray:
    """Count the characters in tokens with the id `unknown`; return int64 [passages]."""
    if unknown is None:
        return np.zeros(len(passages), np.int64)
    widths = np.where(passages.ids == unknown, passages.char_end - passages.char_start, 0)
    return np.diff(np.append(0, np.cumsum(widths, dtype=np.int64))[passages.bounds])


def _without_tokens(name: str) -> tuple[str, str]:
    """Return reason and message for a text that has no token."""
    return f"{name}_without_tokens", f"the tokenizer finds no token in the {name}"


def _too_many_windows(tokens: str, limits: WindowLimits) -> tuple[str, str]:
    """Return reason and message for a context of `tokens` tokens, or "more than N"."""
    return "too_many_windows", f"{tokens} tokens need more than max_windows={limits.max_windows}"
