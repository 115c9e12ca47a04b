from __future__ import annotations

import itertools
from dataclasses import astuple, fields, replace
from typing import Any

import numpy as np
import pytest

from model.reading.answers import N_BEST_TYPE, Answers, candidate_offsets, texts_between
from model.reading.columns import (
    ANSWER_COLUMNS,
    ANSWER_SCHEMA,
    answer_columns,
    answer_options,
    columns_for,
)
from model.reading.decoding import Decoding
from model.reading.places import Place, Places, locate
from model.reading.posterior import PassageSpans, merge_windows
from model.reading.read_pairs import predict_passages
from model.reading.windows import WindowLimits, Windows
from model.settings import make
from tests.model.fakes import FakeReader, make_windows
from tests.model.predicted import decode


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
    below_threshold: list[bool] | None = None,
    cut: list[int] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    spans, windows = decoded(lengths, **options)
    answers = Answers(
        spans=spans,
        windows=windows,
        contexts=contexts_of(lengths),
        questions_cut=np.array(cut or [0] * len(lengths), np.int64),
        no_answer=np.array(no_answer or [False] * len(lengths), bool),
        below_threshold=np.array(below_threshold or [False] * len(lengths), bool),
        row_pair=np.array(row_pair, np.int64),
        reasons=reasons or [None] * len(row_pair),
    )
    columns = answer_columns(answers)
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


@pytest.mark.parametrize("status", ["no_answer", "below_threshold"])
def test_a_hidden_answer_keeps_its_scores_and_candidates(status: str) -> None:
    flags = ({status: [False, hidden]} for hidden in (False, True))
    answered, hidden = (table([9, 3], [0, 1], **each)[1] for each in flags)
    assert (answered["status"], hidden["status"], hidden["reason"]) == ("answered", status, None)
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
    start, end = candidate_offsets(spans, windows)
    assert (start[:, 0].tolist(), end[:, 0].tolist()) == ([0, 0], [1, 1])
    texts = texts_between(contexts_of(lengths), windows.pair_passage, start[:, 0], end[:, 0])
    assert texts == ["a", "a"]
    assert start.dtype == end.dtype == np.int32


def test_offsets_count_code_points_as_python_does() -> None:
    lengths = [3]
    spans, windows = decoded(lengths, n_best=9)
    context = "👩 \U00020000 é"
    none, null = np.zeros(1, np.int64), np.zeros(1, bool)
    answers = Answers(spans, windows, [context], none, null, null, np.array([0]), [None])
    columns = answer_columns(answers)
    texts = {candidate["text"] for candidate in columns.column("n_best")[0].as_py()}
    assert texts == {"👩", "\U00020000", "é", "👩 \U00020000", "\U00020000 é", context}


def test_columns_that_need_an_option_come_last() -> None:
    options = [column.option for column in ANSWER_COLUMNS]
    always = options.count("")
    assert all(options[always:])
    assert columns_for(()) == ANSWER_COLUMNS[:always]
    assert columns_for(options) == ANSWER_COLUMNS
    for option in set(options[always:]):
        asked = columns_for([option])
        assert asked[:always] == ANSWER_COLUMNS[:always]
        assert {column.option for column in asked[always:]} == {option}


def test_settings_ask_for_columns() -> None:
    assert answer_options(Places(), Decoding(), WindowLimits()) == frozenset()
    places = make(Places, {"locate": "section,page,sentence"})
    every = places, Decoding(all_answers=0.5), WindowLimits(read_windows=3)
    assert answer_options(*every) == {column.option for column in ANSWER_COLUMNS} - {""}


def test_where_an_answer_is() -> None:
    """Rows without an answer have no place."""
    lengths = [4, 3]
    spans, windows = decoded(lengths)
    contexts = ["a\fb\fc\fd", "# b\nc"]
    answers = Answers(
        spans=spans,
        windows=windows,
        contexts=contexts,
        questions_cut=np.zeros(2, np.int64),
        no_answer=np.array([False, False]),
        below_threshold=np.array([False, False]),
        row_pair=np.array([0, 1, -1, 0]),
        reasons=[None, None, "no_text", None],
        options=frozenset(f"--locate {name}" for name in ("section", "page", "sentence")),
    )
    columns = answer_columns(answers)
    columns.validate(full=True)
    places = [field.name for field in fields(Place)]
    assert columns.column_names == [*ANSWER_SCHEMA.names, *places]
    for row, context in zip(columns.to_pylist(), [*contexts, None, contexts[0]], strict=True):
        found = [row[name] for name in places]
        if context is None:
            assert found == [None] * len(places)
            continue
        place = locate(context, row["answer_start"], row["answer_end"])
        assert found == [*astuple(place)[:-1], list(place.section_path)]
    assert columns.column("section").to_pylist() == [None, "b", None, None]
    hidden = replace(answers, no_answer=np.array([True, False]), row_pair=np.array([0, 0, -1, 0]))
    assert all(answer_columns(hidden).column(name).null_count == 4 for name in places)


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


def test_all_answers_are_lists_in_the_order_of_the_passage() -> None:
    """Of any status; null for a rejected row, and empty where no span is probable enough."""
    lengths = [9, 30]
    windows = make_windows(lengths, max_length=10, overlap=2)
    decoding = Decoding(n_best=3, max_answer_length=3, null=True, all_answers=0.02)
    _, spans = predict_passages(FakeReader(), windows, decoding, 40)
    assert spans.distinct is not None
    contexts = contexts_of(lengths)
    answers = Answers(
        spans=spans,
        windows=windows,
        contexts=contexts,
        questions_cut=np.zeros(2, np.int64),
        no_answer=np.array([False, True]),
        below_threshold=np.zeros(2, bool),
        row_pair=np.array([1, 0, -1, 1]),
        reasons=[None, None, "context_blank", None],
        least=0.02,
        options=frozenset(["--all_answers"]),
    )
    columns = answer_columns(answers)
    columns.validate(full=True)
    long, short, rejected, again = columns.column("all_answers").to_pylist()
    assert rejected is None
    assert long == again
    assert len(long) == spans.distinct.found[1] > 3
    for row, context in ((long, contexts[1]), (short, contexts[0])):
        assert [each["text"] for each in row] == [
            context[each["start"] : each["end"]] for each in row
        ]
        assert all(before["end"] <= after["start"] for before, after in itertools.pairwise(row))
        assert all(each["probability"] >= 0.02 for each in row)
    best = columns.column("n_best").to_pylist()[0][0]
    assert best in long
    improbable = replace(answers, least=0.999)
    assert answer_columns(improbable).column("all_answers").to_pylist()[1] == []
