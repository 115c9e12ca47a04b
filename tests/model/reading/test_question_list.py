"""Question lists: which are refused and why, their settings, and answers equal to row by row."""

from __future__ import annotations

import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import Question, SpanReader
from model.reading.decoding import Decoding
from model.reading.pairs import cross_pairs, cut_pairs, tokenize_questions
from model.reading.question_list import (
    ASKS_AT_ONCE,
    MOST_QUESTIONS,
    QuestionList,
    QuestionListError,
)
from model.reading.tokenizer import Tokenizer
from model.reading.windows import WindowLimits, windows_of

LIMITS: dict[str, Any] = {
    "max_length": 64,
    "overlap": 20,
    "max_question": 12,
    "max_answer_length": 6,
    "max_windows": 6,
}

QUESTIONS = ["Who lit the lamp?", "When was it lit?", "Who lit the lamp?", "Where?"]

CONTEXTS = [
    "Ada lit the lamp at dusk. The sea was calm.",
    "On the island, in 1820, Ben lit the lamp. " * 12,
    None,
    "Ada lit the lamp at dusk. The sea was calm.",
    " ",
    "\u200b",
    "a lamp " * 400,
    "The lamp stood in the tower.",
]


@pytest.fixture(scope="module")
def reader(bert_folder: Path) -> SpanReader:
    return SpanReader.load(str(bert_folder), **LIMITS, null="on")


class TestOf:
    def test_ids_are_made_where_there_are_none(self):
        questions = QuestionList.of(["Who?", Question("When?", "date"), "Where?"])
        assert questions.ids == ["q1", "date", "q3"]
        assert questions.texts == ["Who?", "When?", "Where?"]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([], "it has no questions"),
            (["Who?", " \n"], "row 2: the question is blank"),
            (["Who?", None], "row 2: the question is missing"),
            (["Who?", "\ud800"], "row 2: the question is not UTF-8"),
            (["Who?", 7], "row 2: the question is int, not text: 7"),
            (["Who?", Question("When?", "q1")], "question_id 'q1' occurs more than once"),
            ([Question("Who?", " ")], "question_id ' ' is not text, or blank"),
            (
                [Question("Who?", "who", n_best=0)],
                "question 'who': n_best=0: must be a whole number from 1 to 1000",
            ),
            (
                [Question("Who?", max_answer_length=10001)],
                "question 'q1': max_answer_length=10001: must be a whole number from 1 to 10000",
            ),
            (
                # What a user could write although the type forbids it.
                [Question("Who?", min_probability="precision:0.9")],  # type: ignore[arg-type]
                "question 'q1': min_probability=precision:0.9: must be a number; only the option",
            ),
            (
                [Question("Who?", null_score_diff_threshold=float("nan"))],
                "question 'q1': null_score_diff_threshold=nan: must be a number from -1e+06",
            ),
        ],
    )
    def test_refusals(self, given: list[Any], message: str):
        with pytest.raises(QuestionListError) as refused:
            QuestionList.of(given)
        assert message in str(refused.value)

    def test_ten_thousand_questions_and_not_one_more(self):
        texts = [f"Who is {n}?" for n in range(MOST_QUESTIONS + 1)]
        assert len(QuestionList.of(texts[:-1])) == MOST_QUESTIONS
        with pytest.raises(QuestionListError, match="more than 10000 questions"):
            QuestionList.of(texts)

    def test_one_text_is_not_a_list(self):
        with pytest.raises(TypeError, match="questions is text"):
            QuestionList.of("Who?")

    def test_the_digest_covers_everything_and_the_order(self):
        base = [Question("Who?", "a"), Question("When?", "b")]
        others = [
            base[::-1],
            base[:1],
            [replace(base[0], question="Whom?"), base[1]],
            [replace(base[0], question_id="c"), base[1]],
            [replace(base[0], n_best=5), base[1]],
            [replace(base[0], max_answer_length=5), base[1]],
            [replace(base[0], null_score_diff_threshold=5), base[1]],
            [replace(base[0], min_probability=0.5), base[1]],
        ]
        digests = {QuestionList.of(each).digest for each in [base, *others]}
        assert len(digests) == 1 + len(others)
        again = pickle.loads(pickle.dumps(QuestionList.of(base)))
        assert again == QuestionList.of(base)
        assert again.digest == QuestionList.of(base).digest


def test_settings_of_pairs_fill_up_with_those_of_all_questions():
    questions = QuestionList.of(
        ["Who?", Question("When?", n_best=9), Question("Where?", max_answer_length=4)]
    )
    settings = questions.settings(np.array([2, 0, 1, 1]), Decoding(n_best=3, max_answer_length=6))
    assert settings is not None
    assert settings.n_best.tolist() == [3, 3, 9, 9]
    assert settings.max_answer_length.tolist() == [4, 6, 6, 6]
    assert settings.null_score_diff_threshold.tolist() == [0, 0, 0, 0]
    assert QuestionList.of(["Who?"]).settings(np.array([0]), Decoding()) is None


def test_rows_at_once_keep_asks_near_the_target():
    for count, rows in ((1, 2048), (41, 49), (2048, 1), (10_000, 1)):
        questions = QuestionList.of([f"Who is {n}?" for n in range(count)])
        assert questions.rows_at_once == rows
        assert rows == 1 or (rows + 1) * count > ASKS_AT_ONCE >= rows * count


def test_asks_are_cut_like_the_same_rows(words: Tokenizer):
    limits = WindowLimits(max_length=32, overlap=10, max_question=8, max_windows=6)
    questions = QuestionList.of(["Who lit it?", "When?", "Where was the lamp of the island lit?"])
    tokens = tokenize_questions(questions, words)
    asks = cross_pairs(questions.texts, tokens, CONTEXTS, words, limits)
    rows = cut_pairs(
        [text for _ in CONTEXTS for text in questions.texts],
        [context for context in CONTEXTS for _ in questions.texts],
        words,
        limits,
    )
    assert asks.problems == rows.problems
    assert asks.row_pair.tolist() == [
        -1 if context in (None, " ", "\u200b", CONTEXTS[6]) else pair
        for context, pair in zip(
            [context for context in CONTEXTS for _ in questions.texts],
            rows.row_pair.tolist(),
            strict=True,
        )
    ]
    assert asks.questions_cut.tolist() == rows.questions_cut.tolist()
    assert asks.contexts == rows.contexts
    whole = windows_of(asks.windows, slice(None))
    for name in ("counts", "pair", "index", "start", "stop", "owned_low", "owned_high"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(rows.windows, name), name)


def test_answers_equal_those_of_the_same_rows(reader: SpanReader):
    asked = reader.answer(questions=QUESTIONS, context=CONTEXTS)
    assert [len(each) for each in asked] == [4] * len(CONTEXTS)
    texts = [text for _ in CONTEXTS for text in QUESTIONS]
    contexts: list[Any] = [context for context in CONTEXTS for _ in QUESTIONS]
    apart = reader.answer(texts, contexts)
    flat = [answer for each in asked for answer in each]
    for got, expected in zip(flat, apart, strict=True):
        assert_close(asdict(got), asdict(expected))
    assert {answer.reason for answer in flat} == {
        None,
        "context_missing",
        "context_blank",
        "context_without_tokens",
        "too_many_windows",
    }
    (one, *_) = reader.answer(questions=QUESTIONS, context=CONTEXTS[1])
    assert_close(asdict(one), asdict(reader.answer(QUESTIONS[0], CONTEXTS[1])))


def assert_close(got: Any, expected: Any) -> None:
    """Compare values; numbers may differ by rounding, as batches have other shapes."""
    match expected:
        case dict():
            for name, value in expected.items():
                assert_close(got[name], value)
        case list() | tuple():
            for each, value in zip(got, expected, strict=True):
                assert_close(each, value)
        case float():
            assert got == pytest.approx(expected, rel=1e-4, abs=1e-6)
        case _:
            assert got == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"distinct": True, "all_answers": 0.001},
        {"read_windows": 2},
        {"null": "on", "null_score_diff_threshold": -8.0, "min_probability": 0.02},
    ],
)
def test_settings_of_the_reader_hold_for_asks(settings: dict[str, Any], bert_folder: Path):
    reader = SpanReader.load(str(bert_folder), **{**LIMITS, **settings})
    # The checkpoint has no window prior of its own.
    reader = replace(reader, limits=replace(reader.limits, prior=2.0))
    asked = reader.answer(questions=QUESTIONS, context=CONTEXTS)
    apart = reader.answer(
        [text for _ in CONTEXTS for text in QUESTIONS],
        [context for context in CONTEXTS for _ in QUESTIONS],
    )
    flat = [answer for each in asked for answer in each]
    for got, expected in zip(flat, apart, strict=True):
        assert_close(asdict(got), asdict(expected))


@pytest.mark.parametrize("every", [{}, {"distinct": True, "all_answers": 0.01}])
@pytest.mark.parametrize(
    "own",
    [
        {"n_best": 2},
        {"n_best": 9},
        {"max_answer_length": 1},
        {"max_answer_length": 12},
        {"null_score_diff_threshold": -1000.0},
        {"null_score_diff_threshold": 1000.0},
        {"min_probability": 1.0},
        {"n_best": 8, "max_answer_length": 3, "null_score_diff_threshold": -2.5},
    ],
)
def test_a_question_with_settings_of_its_own_is_answered_as_if_all_had_them(
    own: dict[str, Any], every: dict[str, Any], bert_folder: Path
):
    """Answers of its neighbours stay those of the reader's settings, `every`."""
    contexts = [CONTEXTS[0], CONTEXTS[1]]
    questions = [Question(QUESTIONS[0], **own), QUESTIONS[0]]
    alone = {name: value for name, value in own.items() if name != "n_best"}
    settings = {**LIMITS, "null": "on", **every}
    reader = SpanReader.load(str(bert_folder), **settings)
    other = SpanReader.load(str(bert_folder), **{**settings, **alone})
    for context, (changed, plain) in zip(
        contexts, reader.answer(questions=questions, context=contexts), strict=True
    ):
        expected = other.answer(QUESTIONS[0], context, n_best=own.get("n_best", 5))
        assert_close(asdict(changed), asdict(expected))
        assert_close(asdict(plain), asdict(reader.answer(QUESTIONS[0], context)))


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (["Who?", "\u200b"], "question 'q2': the tokenizer finds no token"),
        (
            [Question("Who?", "long", max_answer_length=22)],
            "question 'long': max_answer_length=22: some answers fit in no window, because "
            "overlap=20: give an overlap of at least 21",
        ),
    ],
)
def test_questions_that_the_reader_cannot_ask(
    reader: SpanReader, questions: list[Any], message: str
):
    with pytest.raises(QuestionListError) as refused:
        reader.answer(questions=questions, context="Ada lit it.")
    assert message in str(refused.value)


def test_one_question_or_a_list(reader: SpanReader):
    with pytest.raises(TypeError, match="not both"):
        # A call that no overload allows: the error at run time is what is tested.
        reader.answer("Who?", "Ada.", questions=["When?"])  # type: ignore[call-overload]
