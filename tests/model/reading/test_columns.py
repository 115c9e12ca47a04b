from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.reading.columns import (
    ANSWER_SCHEMA,
    N_BEST_TYPE,
    answer_columns,
    candidate_columns,
    read_texts,
)
from model.reading.decoding import Decoding
from model.reading.spans import PassageSpans, merge_windows
from model.reading.windows import Windows
from tests.model.fakes import FakeReader, make_windows
from tests.model.predicted import decode

STRING_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.string_view(),
]


# Texts


@pytest.mark.parametrize("dtype", STRING_TYPES, ids=str)
def test_texts_and_problems_of_every_string_type(dtype: pa.DataType) -> None:
    values = ["one", None, "", " \t\n", "\u00a0\u3000", "zwei 👩\u200d👧", "\u200b", "one"]
    texts, problems = read_texts(pa.chunked_array([pa.array(values).cast(dtype)]))
    assert texts == ["one", "", "", "", "", "zwei 👩\u200d👧", "\u200b", "one"]
    assert problems == {1: "missing", 2: "blank", 3: "blank", 4: "blank"}


def raw_strings(values: list[bytes | None], dtype: pa.DataType) -> pa.Array:
    """Strings whose bytes nobody has checked, as a Parquet file may hold them."""
    binary = pa.array(values, pa.large_binary() if dtype == pa.large_string() else pa.binary())
    return pa.Array.from_buffers(dtype, len(values), binary.buffers(), binary.null_count)


@pytest.mark.parametrize("dtype", [pa.string(), pa.large_string()], ids=str)
@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "dictionary"])
def test_bytes_that_are_no_utf8_spoil_their_row_only(dtype: pa.DataType, encoded: bool) -> None:
    values = [b"one", b"\xff\xfe", None, b"", "zw\u00f6lf".encode(), b"cut \xe2\x82"]
    array: pa.Array = raw_strings(values, dtype)
    if encoded:
        places = pa.array(
            [None if value is None else k for k, value in enumerate(values)], pa.int32()
        )
        array = pa.DictionaryArray.from_arrays(
            places, raw_strings([value or b"" for value in values], dtype)
        )
    texts, problems = read_texts(pa.chunked_array([array]))
    assert texts == ["one", "", "", "", "zwölf", ""]
    assert problems == {1: "not_utf8", 2: "missing", 3: "blank", 5: "not_utf8"}


def test_columns_in_several_chunks_and_empty_ones() -> None:
    column = pa.chunked_array([["one", None], [], ["two", ""]], pa.string())
    assert read_texts(column) == (["one", "", "two", ""], {1: "missing", 3: "blank"})
    assert read_texts(pa.chunked_array([], pa.string())) == ([], {})
    assert read_texts(pa.chunked_array([[None, None]], pa.string())) == (
        ["", ""],
        {0: "missing", 1: "missing"},
    )


# Answers


def decoded(
    lengths: list[int], null: bool = True, n_best: int = 3, **options: Any
) -> tuple[PassageSpans, Windows]:
    windows = make_windows(lengths, max_length=10, overlap=2, **options)
    decoding = Decoding(n_best=n_best, max_answer_length=3, null=null)
    spans = decode(FakeReader(), windows, decoding, 40).spans
    merged = merge_windows(
        spans, windows.pair, windows.index, len(lengths), n_best=n_best, temperature=1.0
    )
    return merged, windows


def contexts_of(lengths: list[int]) -> list[str]:
    """Texts of hand-made passages, one letter a word; each letter tells its place."""
    return [" ".join(chr(ord("a") + k) for k in range(length)) for length in lengths]


def table(
    lengths: list[int],
    row_pair: list[int],
    reasons: list[str | None] | None = None,
    no_answer: list[bool] | None = None,
    cut: list[int] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    spans, windows = decoded(lengths, **options)
    columns = answer_columns(
        spans,
        windows,
        contexts_of(lengths),
        np.array(row_pair, np.int64),
        reasons or [None] * len(row_pair),
        np.array(cut or [0] * len(lengths), np.int64),
        np.array(no_answer or [False] * len(lengths), bool),
    )
    assert columns.schema == ANSWER_SCHEMA
    columns.validate(full=True)
    return columns.to_pylist()


def test_answered_rows_carry_the_best_candidate() -> None:
    lengths = [9, 3]
    spans, windows = decoded(lengths)
    rows = table(lengths, [1, 0, 1], cut=[0, 7])
    assert rows[0] == rows[2]
    for row, pair in zip(rows, [1, 0, 1], strict=True):
        start, end = 2 * spans.start[pair, 0], 2 * spans.end[pair, 0] + 1
        assert (row["answer_start"], row["answer_end"]) == (start, end)
        assert row["answer_text"] == contexts_of(lengths)[pair][start:end]
        assert row["probability"] == pytest.approx(spans.probability[pair, 0])
        assert row["span_score"] == spans.start_logit[pair, 0] + spans.end_logit[pair, 0]
        assert row["null_score"] == spans.null_score[pair]
        assert row["null_probability"] == pytest.approx(spans.null_probability[pair])
        assert (row["window_index"], row["num_windows"]) == (
            spans.window_index[pair, 0],
            windows.counts[pair],
        )
        assert (row["status"], row["reason"], row["question_tokens_cut"]) == (
            "answered",
            None,
            [0, 7][pair],
        )


def test_every_text_is_the_slice_of_its_context() -> None:
    lengths = [9, 3, 20]
    for pair, row in enumerate(table(lengths, [0, 1, 2], n_best=6)):
        context = contexts_of(lengths)[pair]
        assert len(row["n_best"]) == 6
        assert (
            row["answer_text"]
            == context[row["answer_start"] : row["answer_end"]]
            == row["n_best"][0]["text"]
        )
        for candidate in row["n_best"]:
            assert candidate["text"] == context[candidate["start"] : candidate["end"]]
        scores = [candidate["start_logit"] + candidate["end_logit"] for candidate in row["n_best"]]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == row["span_score"]
        probabilities = [candidate["probability"] for candidate in row["n_best"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) + row["null_probability"] <= 1 + 1e-6


def test_no_answer_hides_the_answer_and_keeps_scores_and_candidates() -> None:
    answered, hidden = (table([9, 3], [0, 1], no_answer=[False, null])[1] for null in (False, True))
    assert (hidden["status"], hidden["reason"]) == ("no_answer", None)
    changed = {"answer_text", "answer_start", "answer_end", "status"}
    assert [hidden[name] for name in ("answer_text", "answer_start", "answer_end")] == [None] * 3
    assert {name: hidden[name] for name in hidden.keys() - changed} == {
        name: answered[name] for name in answered.keys() - changed
    }
    assert len(hidden["n_best"]) == 3


def test_without_the_null_option_its_columns_are_null() -> None:
    row = table([9], [0], null=False)[0]
    assert row["null_score"] is row["null_probability"] is None
    assert row["status"] == "answered"


def test_rejected_rows_have_a_reason_and_nothing_else() -> None:
    rows = table([9, 3], [0, -1, 1, 1], reasons=[None, "context_blank", "model_error", None])
    for row, reason in ((rows[1], "context_blank"), (rows[2], "model_error")):
        assert (row.pop("status"), row.pop("reason")) == ("rejected", reason)
        assert set(row.values()) == {None}
    assert [rows[0]["status"], rows[3]["status"]] == ["answered", "answered"]
    assert rows[3] == table([9, 3], [1])[0]


def test_nothing_but_rejected_rows() -> None:
    for row in table([], [-1, -1], reasons=["context_blank", "question_missing"]):
        assert (row.pop("status"), row.pop("reason") is None) == ("rejected", False)
        assert set(row.values()) == {None}
    assert table([], []) == []
    assert table([4], []) == []


def test_a_rejected_pair_without_tokens_or_candidates_beside_good_ones() -> None:
    """Passage 0 has no token, passage 1 none that may start: their spans point nowhere."""
    lengths = [0, 3, 4]
    rows = table(lengths, [0, 1, 2], reasons=["a", "b", None], can_start=[False] * 3 + [True] * 4)
    assert [row["status"] for row in rows] == ["rejected", "rejected", "answered"]
    assert rows[2]["answer_text"] in contexts_of(lengths)[2]


def test_fewer_candidates_than_n_best() -> None:
    row = table([2], [0], n_best=10)[0]
    assert sorted((candidate["start"], candidate["end"]) for candidate in row["n_best"]) == [
        (0, 1),
        (0, 3),
        (2, 3),
    ]
    assert sum(candidate["probability"] for candidate in row["n_best"]) + row[
        "null_probability"
    ] == pytest.approx(1)


def test_candidates_of_the_last_pair_stay_in_their_passage() -> None:
    lengths = [1, 1]
    spans, windows = decoded(lengths)
    start, end, texts = candidate_columns(spans, windows, contexts_of(lengths))
    assert texts == [["a"], ["a"]]
    assert (start[:, 0].tolist(), end[:, 0].tolist()) == ([0, 0], [1, 1])
    assert start.dtype == end.dtype == np.int32


def test_offsets_count_code_points_as_python_does() -> None:
    lengths = [3]
    spans, windows = decoded(lengths, n_best=9)
    context = "👩 \U00020000 é"
    columns = answer_columns(
        spans, windows, [context], np.array([0]), [None], np.zeros(1, np.int64), np.zeros(1, bool)
    )
    texts = {candidate["text"] for candidate in columns.column("n_best")[0].as_py()}
    assert texts == {"👩", "\U00020000", "é", "👩 \U00020000", "\U00020000 é", context}


def test_the_schema_is_the_contract() -> None:
    assert ANSWER_SCHEMA.names == [
        "answer_text",
        "answer_start",
        "answer_end",
        "probability",
        "null_probability",
        "span_score",
        "null_score",
        "window_index",
        "num_windows",
        "status",
        "reason",
        "n_best",
        "question_tokens_cut",
    ]
    fields = [field.name for field in N_BEST_TYPE.value_type]
    assert fields == [
        "text",
        "start",
        "end",
        "probability",
        "start_logit",
        "end_logit",
        "window_index",
    ]
