"""Pairs: the distinct question/context pairs of rows, cut into context windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from model.backends.errors import error_of, reason_of
from model.reading.question_list import QuestionList, QuestionListError
from model.reading.texts import usable_texts
from model.reading.tokenizer import Passages, Ragged, Tokenizer
from model.reading.window_prior import weigh_windows
from model.reading.windows import (
    TokenizedPairs,
    WindowLimits,
    Windows,
    cut_windows,
    most_tokens,
    tokenized_pairs,
)

Tokens = TypeVar("Tokens", Ragged, Passages)
Cut = TypeVar("Cut", bound=TokenizedPairs)


@dataclass(frozen=True, slots=True)
class Pairs(Generic[Cut]):
    """The distinct pairs of some rows, or of the asks of some documents (`cross_pairs`).

    row_pair       int64 [rows], index of the row's pair; -1 for a row with an unusable text, and
                   for some with too many windows (`problems` has all)
    questions      the distinct questions, in the order of `windows.questions`
    contexts       the distinct contexts, in the order of `windows.passages`
    questions_cut  int64 [pairs], number of question tokens beyond `max_question`
    unknown        int64 [contexts], characters of each context that are in unknown tokens
    windows        the windows of all pairs that are to be read; those of asks are not cut yet
    problems       row -> (reason, message) of every row that can't be answered
    """

    row_pair: np.ndarray
    questions: list[str]
    contexts: list[str]
    questions_cut: np.ndarray
    unknown: np.ndarray
    windows: Cut
    problems: dict[int, tuple[str, str]]


def cut_pairs(
    questions: Sequence[Any], contexts: Sequence[Any], tokenizer: Tokenizer, limits: WindowLimits
) -> Pairs[Windows]:
    """Tokenize every distinct text once and cut the passages of the distinct pairs into windows.

    questions, contexts  [rows], text, None or `NotUTF8`

    Contexts that provably have too many tokens for `max_windows` are not tokenized. The reasons of
    problems are question_missing, question_not_utf8, question_blank, question_without_tokens, the
    same four with `context`, too_many_windows, and of a text that the tokenizer fails on
    tokenizer_error or out_of_memory.

    Raises the tokenizer's error if there are several texts and it fails on every one of them, and
    an OSError in any case: the rows did not cause these.
    """
    questions, question_problems = usable_texts(questions)
    contexts, context_problems = usable_texts(contexts)
    problems = _problems_of_texts(question_problems, context_problems)

    # Tokenize the distinct texts.
    usable = [row for row in range(len(questions)) if row not in problems]
    asked = _tokenized(tokenizer.questions, Ragged.joined, [questions[row] for row in usable])
    read = _read_contexts([contexts[row] for row in usable], tokenizer, limits)
    _raise_if_all_failed([*asked.failed.values(), *read.failed.values()], asked.index, read.index)

    # Rows without tokens, or surely with too many, have a problem. Number the pairs of the others.
    row_texts: dict[int, tuple[int, int]] = {}
    for row in usable:
        question, context = questions[row], contexts[row]
        problem = asked.problem("question", question) or read.problem("context", context)
        if problem:
            problems[row] = problem
        else:
            row_texts[row] = asked.index[question], read.index[context]
    row_pair, pairs = _number_pairs(len(questions), row_texts)
    whole, passages = asked.tokens, read.tokens
    windows = cut_windows(tokenizer.format, passages, whole, pairs[:, 1], pairs[:, 0], limits)

    # A pair whose passage needs too many windows got none.
    for row, (_, c) in row_texts.items():
        if windows.counts[row_pair[row]] == 0:
            problems[row] = _too_many_windows(str(read.lengths[c]), limits)
    return Pairs(
        row_pair=row_pair,
        questions=list(asked.index),
        contexts=list(read.index),
        questions_cut=np.maximum(whole.lengths - limits.max_question, 0)[pairs[:, 0]],
        unknown=_unknown_characters(passages, tokenizer.unknown),
        windows=weigh_windows(windows),
        problems=problems,
    )


def cross_pairs(
    questions: Sequence[str],
    question_tokens: Ragged,
    contexts: Sequence[Any],
    tokenizer: Tokenizer,
    limits: WindowLimits,
) -> Pairs[TokenizedPairs]:
    """Pair every distinct context with every question, in the order of the contexts.

    question_tokens  of `questions`, as `tokenize_questions` returns them
    contexts         [rows], text, None or `NotUTF8`

    The rows of the result are asks: those of the first context, in the order of the questions, then
    those of the second. A context is tokenized once. Problems, errors and their order are those of
    `cut_pairs`; an unusable context gives each of its asks the same problem.
    """
    count = len(questions)
    contexts, unusable = usable_texts(contexts)
    of_rows = _problems_of_texts({}, unusable)
    usable = [row for row in range(len(contexts)) if row not in of_rows]
    read = _read_contexts([contexts[row] for row in usable], tokenizer, limits)
    _raise_if_all_failed(list(read.failed.values()), read.index)
    row_passage = np.full(len(contexts), -1, np.int64)
    for row in usable:
        if problem := read.problem("context", contexts[row]):
            of_rows[row] = problem
        else:
            row_passage[row] = read.index[contexts[row]]

    # Passages are numbered in the order of their first row; those without tokens are not asked.
    passages = np.unique(row_passage[row_passage >= 0])
    rank = np.searchsorted(passages, row_passage)
    windows = tokenized_pairs(
        tokenizer.format,
        read.tokens,
        question_tokens,
        np.repeat(passages, count),
        np.tile(np.arange(count), len(passages)),
        limits,
    )
    pair = rank[:, None] * count + np.arange(count)
    row_pair = np.where(row_passage[:, None] >= 0, pair, -1).ravel()

    problems = {
        row * count + number: of_rows[row] for row in sorted(of_rows) for number in range(count)
    }
    for ask in np.flatnonzero(row_pair >= 0)[windows.counts[row_pair[row_pair >= 0]] == 0]:
        tokens = read.lengths[row_passage[ask // count]]
        problems[int(ask)] = _too_many_windows(str(tokens), limits)
    return Pairs(
        row_pair=row_pair,
        questions=list(questions),
        contexts=list(read.index),
        questions_cut=np.maximum(question_tokens.lengths - limits.max_question, 0)[
            windows.pair_question
        ],
        unknown=_unknown_characters(read.tokens, tokenizer.unknown),
        windows=windows,
        problems=problems,
    )


def tokenize_questions(questions: QuestionList, tokenizer: Tokenizer) -> Ragged:
    """Return the tokens of every question of a list.

    Raises QuestionListError for a question without tokens, or on which the tokenizer fails.
    """
    read = _tokenized(tokenizer.questions, Ragged.joined, questions.texts)
    for each in questions.questions:
        if problem := read.problem("question", each.question):
            raise QuestionListError(f"question {each.question_id!r}: {problem[1]}")
    tokens = read.tokens
    return Ragged.of([tokens[read.index[text]] for text in questions.texts])


@dataclass(frozen=True, slots=True)
class _Tokenized(Generic[Tokens]):
    """The distinct texts of a column, tokenized.

    tokens   the tokens of all texts but those that failed
    lengths  [texts], number of tokens of each of them
    index    text -> its index in `tokens`, in the order in which texts first appear
    failed   text -> the error of the tokenizer
    refused  text -> (reason, message) of texts that were not tokenized
    """

    tokens: Tokens
    lengths: list[int]
    index: dict[str, int]
    failed: dict[str, BaseException]
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)

    def problem(self, name: str, text: str) -> tuple[str, str] | None:
        """Return reason and message for a text that has no tokens, else None.

        name  "question" or "context"
        """
        if text in self.refused:
            return self.refused[text]
        if text in self.failed:
            reason, message = reason_of(self.failed[text], "tokenizer_error")
            return reason, f"the tokenizer fails on the {name}: {message}"
        if self.lengths[self.index[text]] == 0:
            return f"{name}_without_tokens", f"the tokenizer finds no token in the {name}"
        return None


def _tokenized(
    encode: Callable[[Sequence[str]], Tokens],
    joined: Callable[[Sequence[Tokens]], Tokens],
    texts: Sequence[str],
) -> _Tokenized[Tokens]:
    """Tokenize the distinct texts together.

    After a failure, the list is halved until it passes or is one text, which has then failed.
    Raises an OSError, which no text causes.
    """
    distinct = list(dict.fromkeys(texts))
    parts: list[Tokens] = []
    failed: dict[str, BaseException] = {}
    waiting = [distinct]

    def add(chosen: list[str]) -> None:
        parts.append(encode(chosen))

    while waiting:
        chosen = waiting.pop()
        error = error_of(partial(add, chosen))
        if error is None:
            continue
        if isinstance(error, OSError) or not chosen:
            raise error
        if len(chosen) > 1:
            middle = len(chosen) // 2
            waiting.extend([chosen[middle:], chosen[:middle]])  # the first half comes next
        else:
            failed[chosen[0]] = error
    tokens = parts[0] if len(parts) == 1 else joined(parts or [encode([])])
    passed = (text for text in distinct if text not in failed)
    index = {text: k for k, text in enumerate(passed)}
    return _Tokenized(tokens, tokens.lengths.tolist(), index, failed)


def _read_contexts(
    contexts: Iterable[str], tokenizer: Tokenizer, limits: WindowLimits
) -> _Tokenized[Passages]:
    """Tokenize the distinct contexts but those that provably have too many tokens."""
    # `most` holds for a question of one token: a longer one leaves less room.
    room = limits.max_length - tokenizer.format.special_tokens - 1
    most = most_tokens(room, limits.overlap, limits.max_windows)
    distinct = dict.fromkeys(contexts)
    problem = _too_many_windows(f"more than {most}", limits)
    refused = {text: problem for text in distinct if tokenizer.surely_exceeds(text, most)}
    tokenizable = [text for text in distinct if text not in refused]
    read = _tokenized(tokenizer.passages, Passages.joined, tokenizable)
    return replace(read, refused=refused)


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


def _raise_if_all_failed(errors: Sequence[BaseException], *tokenized: Mapping[str, int]) -> None:
    """Raise the first of several errors of texts if no text was tokenized."""
    if len(errors) > 1 and not any(tokenized):
        raise errors[0]


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


def _too_many_windows(tokens: str, limits: WindowLimits) -> tuple[str, str]:
    """Return reason and message for a context of `tokens` tokens, or "more than N"."""
    return "too_many_windows", f"{tokens} tokens need more than max_windows={limits.max_windows}"
