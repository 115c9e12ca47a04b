"""Question lists: questions that are asked of every document, each with settings of its own."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np

from model.reading.decoding import Decoding, PairSettings
from model.reading.texts import is_utf8
from model.settings import SettingError, declared

MOST_QUESTIONS = 10_000
"""Most questions of a list."""

ASKS_AT_ONCE = 2048
"""About how many asks (a document and a question each) are answered together."""

MOST_ASKS = 2**20
"""Most asks that are answered together: an explicit --chunk_rows may not lead to more."""

SETTINGS = tuple(field.name for field in fields(PairSettings))
"""The settings of `Decoding` that a question may have of its own."""


class QuestionListError(ValueError):
    """A question list can't be used; the message names the question, the value and the limit."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a list.

    question_id  unique within the list; None for "q" and the number of the question, from 1
    others       as in `Decoding`; None for the value that the other questions have
    """

    question: str
    question_id: str | None = None
    n_best: int | None = None
    max_answer_length: int | None = None
    null_score_diff_threshold: float | None = None
    min_probability: float | None = None


@dataclass(frozen=True, slots=True)
class QuestionList:
    """Questions that are asked of every document, in order; `of` checks them.

    An *ask* is a document and a question. Asks are numbered row by row: those of the first document
    come first, in the order of the list.
    """

    questions: tuple[Question, ...]

    @classmethod
    def of(cls, given: Iterable[str | Question]) -> Self:
        """Make a list of questions or of their texts, and of ids for those that have none.

        Raises QuestionListError for no question, for more than MOST_QUESTIONS, for a question that
        is not text, blank or not UTF-8, for an id that repeats, and for a setting outside its
        limits. Raises TypeError for one text in place of a list.
        """
        if isinstance(given, str):
            raise TypeError(f"questions is text, not a list of texts: {given!r:.80}")
        questions = []
        for number, each in enumerate(given, 1):
            if number > MOST_QUESTIONS:
                raise QuestionListError(f"it has more than {MOST_QUESTIONS} questions")
            question = each if isinstance(each, Question) else Question(each)
            _check_text(number, question.question)
            if question.question_id is None:
                question = replace(question, question_id=f"q{number}")
            questions.append(_with_settings(question))
        if not questions:
            raise QuestionListError("it has no questions")
        repeated = [
            each for each, count in Counter(q.question_id for q in questions).items() if count > 1
        ]
        if repeated:
            raise QuestionListError(f"question_id {repeated[0]!r} occurs more than once")
        return cls(tuple(questions))

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def texts(self) -> list[str]:
        """Return the questions."""
        return [each.question for each in self.questions]

    @property
    def ids(self) -> list[str]:
        """Return the ids of the questions."""
        return [str(each.question_id) for each in self.questions]

    @property
    def digest(self) -> str:
        """Return the SHA-256 (hex) of ids, questions and settings, in order."""
        content = json.dumps([asdict(each) for each in self.questions], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def rows_at_once(self) -> int:
        """Return how many documents are answered together; at least 1."""
        return max(1, ASKS_AT_ONCE // len(self))

    def settings(self, pair_question: np.ndarray, decoding: Decoding) -> PairSettings | None:
        """Return the settings of pairs; None if no question has any of its own.

        pair_question  int [pairs], the question of each pair
        decoding       gives the values that a question does not have
        """
        arrays = {}
        own = False
        for name in SETTINGS:
            values = [getattr(each, name) for each in self.questions]
            own |= any(value is not None for value in values)
            default = getattr(decoding, name)
            arrays[name] = np.array([default if value is None else value for value in values])
        if not own:
            return None
        return PairSettings(**{name: array[pair_question] for name, array in arrays.items()})

    def longest(self, decoding: Decoding) -> tuple[int, str]:
        """Return the largest `max_answer_length`, in tokens, and the id of its first question."""
        lengths = [each.max_answer_length or decoding.max_answer_length for each in self.questions]
        number = int(np.argmax(lengths))
        return lengths[number], self.ids[number]


def _check_text(number: int, text: Any) -> None:
    """Raise QuestionListError unless a question is text with something in it."""
    problem = ""
    if text is None:
        problem = "is missing"
    elif not isinstance(text, str):
        problem = f"is {type(text).__name__}, not text: {text!r:.80}"
    elif not is_utf8(text):
        problem = "is not UTF-8"
    elif not text or text.isspace():
        problem = "is blank"
    if problem:
        raise QuestionListError(f"row {number}: the question {problem}")


def _with_settings(question: Question) -> Question:
    """Return a question with its settings converted from text. Raises QuestionListError."""
    identifier = question.question_id
    if not isinstance(identifier, str) or not is_utf8(identifier) or not identifier.strip():
        raise QuestionListError(f"question_id {identifier!r:.80} is not text, or blank")
    given = {}
    for name, _, declaration in declared(Decoding):
        value = getattr(question, name) if name in SETTINGS else None
        if value is None:
            continue
        try:
            given[name] = declaration.kind.checked(name, value)
        except SettingError as error:
            raise QuestionListError(f"question {identifier!r}: {error}") from error
        # The checkpoint's threshold of a precision (precision:X) holds over all questions.
        if isinstance(given[name], str):
            raise QuestionListError(
                f"question {identifier!r}: {name}={value}: must be a number; only the option "
                f"--{name} takes {value}"
            )
    return replace(question, **given)
