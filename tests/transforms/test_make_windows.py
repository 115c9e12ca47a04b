"""MakeWindows: distinct texts, rejections, and cut questions."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from model.reading.reader import shared
from model.reading.tokenizer import Tokenizer
from tests.transforms.fakes import LIMITS, asked, make_chunk, span_reader
from transforms.make_windows import MakeWindows, make_windows
from transforms.records import InputColumns, Windowed


def cut(table: pa.Table, words: Tokenizer, **limits: object) -> Windowed:
    return make_windows(make_chunk(table), words, replace(LIMITS, **limits))


def reasons(windowed: Windowed) -> dict[int, str]:
    return {rejection.row: rejection.reason for rejection in windowed.rejections}


def test_equal_texts_and_pairs_are_cut_once(words: Tokenizer):
    table = pa.table(
        {
            "question": ["who?", "what?", "who?", "who?", "what?"],
            "context": ["a b c", "a b c", "d e f", "a b c", "a b c"],
        }
    )
    windowed = cut(table, words)
    assert windowed.row_pair.tolist() == [0, 1, 2, 0, 1]
    assert windowed.contexts == ["a b c", "d e f"]
    assert windowed.questions == ["who?", "what?"]
    assert windowed.windows.pair_passage.tolist() == [0, 0, 1]
    assert windowed.windows.pair_question.tolist() == [0, 1, 0]
    assert len(windowed.windows) == 3
    assert windowed.rejections == ()


def test_texts_that_differ_in_nothing_but_case_are_distinct(words: Tokenizer):
    """The tokenizer lowercases both, but each row's answer must come from its own context."""
    windowed = cut(asked("A b", "a b"), words)
    assert windowed.contexts == ["A b", "a b"]
    assert windowed.row_pair.tolist() == [0, 1]


def test_rejected_rows_have_no_pair_and_leave_no_text(words: Tokenizer):
    windowed = cut(asked("a b", None, " ", "c d"), words)
    assert windowed.row_pair.tolist() == [0, -1, -1, 1]
    assert windowed.contexts == ["a b", "c d"]
    assert reasons(windowed) == {1: "context_missing", 2: "context_blank"}


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_any_type_of_text(words: Tokenizer, kind: pa.DataType):
    table = asked("a b", None, "c d")
    typed = table.set_column(2, "context", table.column("context").cast(kind))
    assert cut(typed, words).contexts == ["a b", "c d"]
    assert reasons(cut(typed, words)) == {1: "context_missing"}


def test_a_column_of_type_null(words: Tokenizer):
    windowed = cut(asked("a", "b").set_column(1, "question", pa.nulls(2)), words)
    assert reasons(windowed) == {0: "question_missing", 1: "question_missing"}
    assert len(windowed.windows) == 0


def test_no_rows_no_windows(words: Tokenizer):
    windowed = cut(asked("a").slice(0, 0), words)
    assert len(windowed.row_pair) == len(windowed.windows) == 0


def test_a_long_question_is_cut_and_what_is_cut_counted(words: Tokenizer):
    table = pa.table({"question": ["a b c d e", "a b"], "context": ["a", "a"]})
    windowed = cut(table, words, max_question=3)
    assert windowed.questions_cut.tolist() == [2, 0]
    assert windowed.windows.questions.lengths.tolist() == [3, 2]
    assert windowed.rejections == ()


def test_too_many_windows_is_told_with_the_limit(words: Tokenizer):
    # 32 - 3 special tokens - 2 question tokens ("who", "?") leave 27, of which 8 overlap:
    # 27 + 19 k tokens have 1 + k windows.
    fits, beyond = "a " * (27 + 19 * 3), "a " * (27 + 19 * 3 + 1)
    windowed = cut(asked(fits, beyond, "b"), words)
    assert windowed.windows.counts.tolist() == [4, 0, 1]
    assert reasons(windowed) == {1: "too_many_windows"}
    assert "85 tokens need more than max_windows=4" in windowed.rejections[0].message


def test_one_endless_row_does_not_take_its_twins_along(words: Tokenizer):
    """The same context has two questions: each row has its own rejection."""
    table = pa.table(
        {"question": ["who?", "what?", "who?"], "context": ["a " * 500, "a " * 500, "a"]}
    )
    assert reasons(cut(table, words)) == {0: "too_many_windows", 1: "too_many_windows"}


@pytest.mark.parametrize("column", ["question", "context"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "missing"),
        (b"", "blank"),
        (b" \t\n\xc2\xa0", "blank"),
        (b"a\xff", "not_utf8"),
        ("\u200b".encode(), "without_tokens"),
    ],
)
def test_every_unusable_text_is_named(
    words: Tokenizer, column: str, text: bytes | None, reason: str
):
    table = asked("a b", "a b", "a b")
    texts = pa.array([b"c d", text, b"e f"], pa.binary()).view(pa.string())
    windowed = cut(table.set_column(table.column_names.index(column), column, texts), words)
    assert reasons(windowed) == {1: f"{column}_{reason}"}
    assert windowed.rejections[0].step == "MakeWindows"
    assert column in windowed.rejections[0].message
    assert windowed.windows.counts[windowed.row_pair[[0, 2]]].tolist() == [1, 1]


def test_a_row_has_one_rejection_the_question_first(words: Tokenizer):
    windowed = cut(
        pa.table(
            {"question": [None, "\u200b"], "context": pa.array([None, "\u200b"], pa.string())}
        ),
        words,
    )
    assert reasons(windowed) == {0: "question_missing", 1: "question_without_tokens"}


def test_columns_have_the_names_that_are_given(words: Tokenizer):
    table = pa.table({"ask": ["who?"], "text": ["a b"]})
    assert make_windows(make_chunk(table), words, LIMITS, InputColumns("ask", "text")).contexts == [
        "a b"
    ]


def test_golds_are_read_only_where_they_are_measured(words: Tokenizer):
    table = asked("a b").append_column("answers", pa.array([{"text": ["b"], "answer_start": [2]}]))
    assert cut(table, words).golds is None
    golds = make_windows(make_chunk(table), words, LIMITS, InputColumns(answers="answers")).golds
    assert golds is not None
    assert golds.texts == [["b"]]


def test_the_step_loads_the_tokenizer_and_not_the_network():
    class FakeReader:
        def load(self) -> None:
            raise AssertionError("the network was loaded")

        def tokenizer(self) -> str:
            return "the tokenizer"

    reader = FakeReader()
    step = MakeWindows(span_reader(reader), InputColumns())
    step.setup()
    assert step.tokenizer == "the tokenizer"
    assert shared(reader) is reader
