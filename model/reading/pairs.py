"""Pairs: the distinct question/context pairs that rows ask, cut into context windows; rows that can't be asked are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.reading.columns import usable_texts
from model.reading.tokenizer import Passages, Tokenizer
from model.reading.windows import Windows, cut_windows, most_tokens
from model.settings import BOTH, setting, whole


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How passages are cut into context windows; lengths in tokens."""

    max_length: int = setting(
        384,
        whole(8, 10**6),
        "tokens per window, question included",
        unset="384, or the model's limit",
        identity=BOTH,
    )
    overlap: int = setting(
        128,
        whole(0, 10**6),
        "context tokens that neighbouring windows share; at least max_answer_length - 1",
        unset="128, less in short windows",
        identity=BOTH,
    )
    max_question: int = setting(64, whole(1, 10**6), "question tokens that are read; longer questions are cut", identity=BOTH)
    max_windows: int = setting(2000, whole(1, 10**7), "windows per row; longer rows are rejected", identity=BOTH)


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of some rows.

    row_pair       int64 [rows], which pair each row asks; -1 for a row that can't be asked for its texts, and may be for
                   one with too many windows
    questions      the distinct questions, in the order of those of `windows`
    contexts       the distinct contexts, in the order of the passages of `windows`
    questions_cut  int64 [pairs], question tokens beyond `max_question`
    unknown        int64 [contexts], characters of each that are in unknown tokens
    problems       row -> (reason, message) of rows that can't be asked
    """

    row_pair: np.ndarray
    questions: list[str]
    contexts: list[str]
    questions_cut: np.ndarray
    unknown: np.ndarray
    windows: Windows
    problems: dict[int, tuple[str, str]]


def cut_pairs(questions: Sequence[Any], contexts: Sequence[Any], tokenizer: Tokenizer, limits: WindowLimits) -> Pairs:
    """Tokenizes every distinct text once and cuts the passages of the distinct pairs into windows.

    A context that surely has too many tokens for `max_windows` is not tokenized.

    questions, contexts  [rows], text, None or `NotUTF8`

    Problems: question_missing, question_not_utf8, question_blank, question_without_tokens, the same four of `context`,
    too_many_windows.
    """
    questions, question_problems = usable_texts(questions)
    contexts, context_problems = usable_texts(contexts)
    problems: dict[int, tuple[str, str]] = {}
    for name, found in (("question", question_problems), ("context", context_problems)):
        for row, problem in found.items():
            message = f"the {name} is {problem.replace('_', ' ').replace('utf8', 'UTF-8')}"
            problems.setdefault(row, (f"{name}_{problem}", message))

    usable = [row for row in range(len(questions)) if row not in problems]
    question_place = {text: k for k, text in enumerate(dict.fromkeys(questions[row] for row in usable))}
    room = limits.max_length - tokenizer.format.special_tokens - 1  # beside the shortest question
    most = most_tokens(room, limits.overlap, limits.max_windows)
    distinct = dict.fromkeys(contexts[row] for row in usable)
    context_place = {text: k for k, text in enumerate(text for text in distinct if not tokenizer.surely_exceeds(text, most))}
    whole = tokenizer.questions(list(question_place))
    passages = tokenizer.passages(list(context_place))

    question_tokens, context_tokens = whole.lengths.tolist(), passages.lengths.tolist()
    pair_place: dict[tuple[int, int], int] = {}
    row_pair = np.full(len(questions), -1, np.int64)
    for row in usable:
        q, c = question_place[questions[row]], context_place.get(contexts[row])
        if question_tokens[q] == 0:
            problems[row] = _without_tokens("question")
        elif c is None:
            problems[row] = _too_many_windows(f"more than {most}", limits)
        elif context_tokens[c] == 0:
            problems[row] = _without_tokens("context")
        else:
            row_pair[row] = pair_place.setdefault((q, c), len(pair_place))
    pairs = np.array(list(pair_place), np.int64).reshape(-1, 2)
    windows = cut_windows(
        tokenizer.format,
        passages,
        whole.cut(limits.max_question),
        pairs[:, 1],
        pairs[:, 0],
        max_length=limits.max_length,
        overlap=limits.overlap,
        max_windows=limits.max_windows,
    )
    too_long = windows.counts == 0
    for row in np.flatnonzero(row_pair >= 0).tolist():
        if too_long[row_pair[row]]:
            problems[row] = _too_many_windows(str(context_tokens[pairs[row_pair[row], 1]]), limits)
    return Pairs(
        row_pair=row_pair,
        questions=list(question_place),
        contexts=list(context_place),
        questions_cut=np.maximum(whole.lengths - limits.max_question, 0)[pairs[:, 0]],
        unknown=_unknown_characters(passages, tokenizer.unknown),
        windows=windows,
        problems=problems,
    )


def _unknown_characters(passages: Passages, unknown: int | None) -> np.ndarray:
    """How many characters of each passage are in tokens with the id `unknown`, int64 [passages]."""
    if unknown is None:
        return np.zeros(len(passages), np.int64)
    widths = np.where(passages.ids == unknown, passages.char_end - passages.char_start, 0)
    return np.diff(np.append(0, np.cumsum(widths, dtype=np.int64))[passages.bounds])


def _without_tokens(name: str) -> tuple[str, str]:
    return f"{name}_without_tokens", f"the tokenizer finds no token in the {name}"


def _too_many_windows(tokens: str, limits: WindowLimits) -> tuple[str, str]:
    return "too_many_windows", f"{tokens} tokens need more than max_windows={limits.max_windows}"
