"""The audit's outcome of a chunk, from contexts of one-letter words with given logits."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.audit.columns import AUDIT_SCHEMA
from model.audit.statistics import Statistics
from model.reading.decoding import Decoding
from model.reading.texts import as_texts
from model.reading.tokenizer import Tokenizer
from tests.transforms.fakes import (
    DECODING,
    LIMITS,
    FakeReader,
    asked,
    make_chunk,
    run_step,
    span_reader,
)
from transforms.accounting import STATUSES
from transforms.decode_answers import decode_answers
from transforms.make_windows import make_windows
from transforms.measure_loss import AuditOptions, MeasureLoss, measure_loss
from transforms.predict_spans import predict_spans
from transforms.records import Answered, Chunk, InputColumns, Outcome

NOTHING: dict[str, list[Any]] = {"text": [], "answer_start": []}

ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])


def gold(text: str, start: int) -> dict[str, list[Any]]:
    return {"text": [text], "answer_start": [start]}


def with_answers(table: pa.Table, *answers: Any) -> pa.Table:
    return table.append_column("answers", pa.array(answers, ANSWERS))


def answer(
    table: pa.Table, reader: FakeReader, decoding: Decoding = DECODING, *, golds: bool = True
) -> Answered:
    """A chunk through all steps up to its answers, with its golds measured; no annotate."""
    columns = InputColumns(answers="answers" if golds else "")
    windowed = make_windows(make_chunk(table, first_row=100), reader.words, LIMITS, columns)
    return decode_answers(predict_spans(windowed, reader, decoding, 200), decoding, annotate=False)


def chunk_of(table: pa.Table, answered: Answered) -> Chunk[Answered]:
    return make_chunk(table, first_row=100).carrying(answered)


def measured(
    table: pa.Table,
    answered: Answered,
    decoding: Decoding = DECODING,
    link: str = "softmax",
    **options: Any,
) -> Answered:
    return measure_loss(chunk_of(table, answered), decoding, AuditOptions(**options))


def audit(
    table: pa.Table, reader: FakeReader, decoding: Decoding = DECODING, **options: Any
) -> Outcome:
    answered = measured(table, answer(table, reader, decoding), decoding, **options)
    (outcome,) = answered.outcomes
    assert outcome.stage == "audit"
    assert outcome.columns.schema == AUDIT_SCHEMA
    return outcome


def summary(outcome: Outcome) -> dict[str, Any]:
    """The chunk's statistics after what a receipt makes of them: JSON and back."""
    return Statistics.from_json(json.loads(json.dumps(outcome.statistics.to_json()))).summary()


def test_a_loss_worked_by_hand(words: Tokenizer):
    """`a b c`, start logits 2, 0, 0, end logits 0, 0, 3, gold `a`: right start, wrong end."""
    reader = FakeReader(words, {"a": (2.0, 0.0), "c": (0.0, 3.0)})
    (row,) = audit(with_answers(asked("a b c"), gold("a", 0)), reader).columns.to_pylist()
    start, end = math.log(math.e**2 + 2) - 2, math.log(math.e**3 + 2)
    assert row["nll_start"] == pytest.approx(start, rel=1e-6)
    assert row["nll_end"] == pytest.approx(end, rel=1e-6)
    assert row["nll"] == pytest.approx(start + end, rel=1e-6)
    assert row["nll_per_token"] == pytest.approx((start + end) / 3, rel=1e-6)
    # All spans of at most 4 tokens: aa 2, ab 2, ac 5, bb 0, bc 3, cc 3.
    mass = math.log(2 * math.e**2 + math.e**5 + 1 + 2 * math.e**3)
    assert row["prediction"] == "a b c"
    assert row["probability"] == pytest.approx(math.exp(5 - mass), rel=1e-5)
    assert row["gold_probability"] == pytest.approx(math.exp(2 - mass), rel=1e-5)
    # Three candidates are kept: ac, then bc and cc; aa would be the fourth.
    assert row["gold_rank"] is None
    assert row["exact_match"] == 0
    assert row["f1"] == pytest.approx(0.0)  # SQuAD drops the article "a"
    assert (row["status"], row["reason"]) == ("scored", None)


def test_the_link_of_the_tokenwise_loss_is_the_one_that_was_asked_for(words: Tokenizer):
    """With a sigmoid link, the tokens of `b c` with label 0 cost log 2 each."""
    table = with_answers(asked("a b c"), gold("a", 0))
    reader = FakeReader(words, {"a": (2.0, 0.0)})
    windowed = make_windows(make_chunk(table), words, LIMITS, InputColumns(answers="answers"))
    answered = decode_answers(
        predict_spans(windowed, reader, DECODING, 200, "sigmoid"), DECODING, annotate=False
    )
    (outcome,) = measured(table, answered, link="sigmoid").outcomes
    row = outcome.columns.to_pylist()[0]
    assert row["tokenwise_start"] == pytest.approx(
        math.log1p(math.exp(-2)) + 2 * math.log(2), rel=1e-6
    )
    assert row["tokenwise_end"] == pytest.approx(3 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("null", [False, True])
def test_statuses_reasons_counts_and_rejections(words: Tokenizer, null: bool):
    table = with_answers(
        asked("a b c", "a b c", " ", "a b c", "a b c", "a b c d e f", None, "a b c"),
        gold("b", 2),
        NOTHING,
        gold("a", 0),
        None,
        gold("b", 0),
        gold("a b c d e f", 0),  # longer than max_answer_length, 4
        None,  # a missing context comes before missing answers
        {"text": ["b", "x"], "answer_start": [2, 2]},
    )
    outcome = audit(table, FakeReader(words), replace(DECODING, null=null))
    rows = outcome.columns.to_pylist()
    assert [(row["status"], row["reason"]) for row in rows] == [
        ("scored", None),
        ("null_scored", None) if null else ("unreachable", "no_null_option"),
        ("rejected", "context_blank"),
        ("rejected", "answers_missing"),
        ("rejected", "gold_misaligned"),
        ("scored", "gold_too_long"),
        ("rejected", "context_missing"),
        ("scored", None),
    ]
    found = [(rejection.row, rejection.step, rejection.reason) for rejection in outcome.rejections]
    assert found == [
        (2, "MakeWindows", "context_blank"),
        (3, "MakeWindows", "answers_missing"),
        (4, "MakeWindows", "gold_misaligned"),
        (6, "MakeWindows", "context_missing"),
    ]
    counts = dict(outcome.counts)
    assert counts["rows"] == 8
    assert (
        counts["scored"]
        + counts.get("null_scored", 0)
        + counts.get("unreachable", 0)
        + counts["rejected"]
        == 8
    )
    assert counts["rejected"] == 4
    assert counts["golds_dropped"] == 2
    assert rows[7]["golds_dropped"] == 1
    assert summary(outcome)["all"]["rows"] == 4


@pytest.mark.parametrize("answers", [NOTHING, None, gold("b", 0)])
def test_a_chunk_without_a_single_gold(words: Tokenizer, answers: Any):
    outcome = audit(
        with_answers(asked("a b", "a c"), answers, answers),
        FakeReader(words),
        replace(DECODING, null=True),
    )
    (status,) = set(outcome.columns["status"].to_pylist())
    assert status == ("null_scored" if answers is NOTHING else "rejected")
    assert len(summary(outcome)["highest_loss"]) == (2 if answers is NOTHING else 0)


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("contexts", "answers"),
    [
        (
            ["a"],
            [gold("a", 0)],
        ),  # every passage has one token: no token is left but the likeliest
        (["a", "b"], [gold("a", 0), NOTHING]),
        (["a"], [NOTHING]),
        (["a b"], [gold("a", 0)]),
        ([None, " "], [gold("a", 0), NOTHING]),  # no pair, no window
        ([" ".join("a" * 400)], [gold("a", 0)]),  # a pair without windows
        (["a b"], [gold("b", 0)]),
        (["a b"], [None]),
        ([], []),
    ],
)
def test_a_chunk_whose_selections_are_empty(
    words: Tokenizer, contexts: list, answers: list, link: str, null: bool
):
    table = with_answers(asked(*contexts), *answers)
    decoding = replace(DECODING, null=null)
    windowed = make_windows(make_chunk(table), words, LIMITS, InputColumns(answers="answers"))
    predicted = predict_spans(windowed, FakeReader(words), decoding, 200, link)
    both = measured(table, decode_answers(predicted, decoding), decoding, link)
    annotated, audited = both.outcomes
    assert annotated.columns.num_rows == audited.columns.num_rows == len(contexts)
    assert sum(audited.counts.get(status, 0) for status in STATUSES["audit"]) == len(contexts)
    summary(audited)


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_a_passage_of_one_token_costs_what_it_costs_beside_a_longer_one(
    words: Tokenizer, link: str, null: bool
):
    reader, decoding = FakeReader(words, {"a": (1.0, 2.0)}), replace(DECODING, null=null)

    def rows(*contexts: str) -> list[dict[str, Any]]:
        table = with_answers(asked(*contexts), *[gold("a", 0)] * len(contexts))
        windowed = make_windows(make_chunk(table), words, LIMITS, InputColumns(answers="answers"))
        answered = decode_answers(
            predict_spans(windowed, reader, decoding, 200, link), decoding, annotate=False
        )
        (outcome,) = measured(table, answered, decoding, link).outcomes
        return outcome.columns.to_pylist()

    (alone,), (beside, _) = rows("a"), rows("a", "a b c")
    assert alone == beside
    assert alone["status"] == "scored"
    assert alone["nll"] == pytest.approx(
        math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)) if null else 0.0, abs=1e-6
    )


def test_rows_that_the_network_failed_are_rejected(words: Tokenizer):
    reader = FakeReader(words, {"b": (math.nan, 0.0)})
    outcome = audit(with_answers(asked("a b", "a c"), gold("a", 0), gold("c", 2)), reader)
    assert outcome.columns.column("status").to_pylist() == ["rejected", "scored"]
    assert [(rejection.step, rejection.reason) for rejection in outcome.rejections] == [
        ("PredictSpans", "non_finite_logits")
    ]
    assert summary(outcome)["all"]["losses"]["nll"]["count"] == 1


def test_a_row_of_several_troubles_has_one_reason_wherever_it_is_told(words: Tokenizer):
    table = with_answers(asked("a b", " ".join("a" * 400)), gold("x", 0), gold("x", 0))
    outcome = audit(table, FakeReader(words, {"b": (math.nan, 0.0)}))
    reasons = ["non_finite_logits", "too_many_windows"]
    assert outcome.columns.column("reason").to_pylist() == reasons
    assert [rejection.reason for rejection in outcome.rejections] == reasons


def test_temperature_is_of_probabilities_only(words: Tokenizer):
    table = with_answers(asked("a b"), gold("a", 0))
    reader = FakeReader(words, {"a": (2.0, 1.0)})
    (cold,) = audit(table, reader).columns.to_pylist()
    (warm,) = audit(table, reader, replace(DECODING, temperature=2.0)).columns.to_pylist()
    assert warm["nll"] == cold["nll"]
    for row, temperature in ((cold, 1), (warm, 2)):  # spans aa 3, ab 2, bb 0
        shares = [math.exp(score / temperature) for score in (3, 2, 0)]
        assert (
            row["gold_probability"]
            == row["probability"]
            == pytest.approx(shares[0] / sum(shares), rel=1e-6)
        )


def test_a_gold_in_no_window_is_unreachable_and_has_its_passage_loss(words: Tokenizer):
    """Windows hold at most 28 context tokens; a gold takes all 40 letters."""
    context = " ".join("abcdefghij" * 4)
    outcome = audit(
        with_answers(asked(context), gold(context, 0)), FakeReader(words, {"a": (1.0, 0.0)})
    )
    (row,) = outcome.columns.to_pylist()
    assert (row["status"], row["reason"]) == ("unreachable", "gold_in_no_window")
    assert row["windows_whole"] == 0
    assert row["windows_partly"] == row["num_windows"] > 1
    assert row["nll_start"] == pytest.approx(math.log(4 * math.e + 36) - 1, rel=1e-6)
    assert row["nll_end"] == pytest.approx(math.log(40), rel=1e-6)
    assert row["native_nll"] is None
    assert outcome.rejections == ()


def test_equal_rows_are_measured_alike_and_each_counts(words: Tokenizer):
    """A pair that several rows ask is predicted once; rows of it may have golds of their own."""
    table = with_answers(asked("a b", "a b", "a b"), gold("a", 0), gold("b", 2), gold("a", 0))
    outcome = audit(table, FakeReader(words, {"a": (1.0, 0.5)}))
    first, second, third = outcome.columns.to_pylist()
    assert first == third
    assert first["nll"] < second["nll"]
    assert first["pair_hash"] == second["pair_hash"]
    assert first["gold_hash"] != second["gold_hash"]
    assert outcome.counts["pairs"] == 1
    assert summary(outcome)["all"]["losses"]["nll"]["count"] == 3


def test_every_row_has_the_hashes_of_its_own_texts(words: Tokenizer):
    """Questions and contexts recur across pairs: neither has the index of its pair."""
    texts = [
        ("who?", "a b"),
        ("who?", "a c"),
        ("what?", "a b"),
        ("where?", "a c"),
        ("who?", "a c"),
        ("what?", "a d"),
    ]
    table = pa.table(
        {"id": list("uvwxyz"), "question": [q for q, _ in texts], "context": [c for _, c in texts]}
    )
    rows = audit(with_answers(table, *[gold("a", 0)] * 6), FakeReader(words)).columns.to_pylist()
    for (question, context), row in zip(texts, rows, strict=True):
        assert row["question_hash"] == hashlib.blake2b(question.encode(), digest_size=16).digest()
        assert row["context_hash"] == hashlib.blake2b(context.encode(), digest_size=16).digest()
    assert len({row["pair_hash"] for row in rows}) == 5


def test_what_the_list_of_highest_losses_shows(words: Tokenizer):
    long = "what is " * 100
    table = with_answers(
        asked("a b", "a c", question=long),
        gold("a", 0),
        {"text": ["c"] * 5, "answer_start": [2] * 5},
    )
    reader = FakeReader(words, {"a": (1.0, 3.0)})
    highest, other = summary(audit(table, reader))["highest_loss"]
    # The row within the file.
    assert (highest["id"], highest["path"], highest["row"]) == (
        "row 1",
        "/in/a.parquet",
        101,
    )
    assert highest["gold"] == ["c"] * 3
    assert highest["question"] == long[:300] + "…"
    assert highest["prediction"] == "a"
    assert highest["nll"] == pytest.approx(highest["nll_start"] + highest["nll_end"])
    assert highest["nll"] > other["nll"]
    assert 0 < highest["gold_probability"] < highest["probability"] < 1
    assert highest["null_probability"] is None
    starts, ends = (np.exp([logit, 0.0]) / (math.exp(logit) + 1) for logit in (1.0, 3.0))
    assert highest["likely_tokens"] == [
        pytest.approx([0, 1, starts[0], ends[0]], abs=1e-6),
        pytest.approx([2, 3, starts[1], ends[1]], abs=1e-6),
    ]
    assert len(summary(audit(table, reader, worst=1))["highest_loss"]) == 1


def test_slices_by_columns_of_the_input(words: Tokenizer):
    table = with_answers(
        asked("a b", "a c", None, "a d"), gold("a", 0), gold("c", 2), gold("a", 0), NOTHING
    )
    table = table.append_column("source", pa.array(["x", None, "x", "y"]).dictionary_encode())
    table = table.append_column("tags", pa.array([[1], [1], [2], None]))
    slices = summary(audit(table, FakeReader(words), slice_by=("source", "tags")))["slices"]
    assert {value: part["rows"] for value, part in slices["source"].items()} == {
        "x": 1,
        "(null)": 1,
        "y": 1,
    }
    assert {value: part["rows"] for value, part in slices["tags"].items()} == {
        "[1]": 2,
        "(null)": 1,
    }


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        (pa.array([7, 8]), ["7", "8"]),
        (pa.array([None, "x"]), [None, "x"]),
        (pa.array([b"\xff", b"x"]), [r"b'\xff'", "b'x'"]),
        (
            pa.array([b"\xff", b"x"]).view(pa.string()),
            [None, "x"],
        ),  # a string as its writer left it
        (
            pa.array([datetime(1843, 1, 2), datetime(1844, 1, 2)]),
            ["1843-01-02 00:00:00", "1844-01-02 00:00:00"],
        ),
        (pa.array(["same", "same"]).dictionary_encode(), ["same", "same"]),
    ],
)
def test_ids_of_any_type_are_shown_as_text(
    words: Tokenizer, ids: pa.Array, shown: list[str | None]
):
    """A receipt is JSON: an id that is none must not fail its chunk."""
    assert as_texts(ids) == shown
    table = with_answers(asked("a b", "a c").set_column(0, "id", ids), gold("a", 0), gold("c", 2))
    outcome = audit(table, FakeReader(words), slice_by=("id",))
    highest = summary(outcome)["highest_loss"]
    assert [
        example["id"] for example in sorted(highest, key=lambda example: example["row"])
    ] == shown
    assert set(summary(outcome)["slices"]["id"]) == {
        "(null)" if each is None else each for each in shown
    }


def test_rows_without_an_id_go_by_their_place(words: Tokenizer):
    table = with_answers(asked("a b"), gold("a", 0)).drop_columns(["id"])
    assert summary(audit(table, FakeReader(words)))["highest_loss"][0]["id"] == "a.parquet:0:0"


def test_annotate_comes_before_and_stays(words: Tokenizer):
    table = with_answers(asked("a b"), gold("a", 0))
    reader = FakeReader(words)
    windowed = make_windows(make_chunk(table), words, LIMITS, InputColumns(answers="answers"))
    answered = decode_answers(predict_spans(windowed, reader, DECODING, 200), DECODING)
    both = measured(table, answered)
    assert [outcome.stage for outcome in both.outcomes] == ["annotate", "audit"]
    assert both.outcomes[0] is answered.outcomes[0]
    assert both.outcomes[1].columns.equals(audit(table, reader).columns)


def test_golds_must_have_been_measured(words: Tokenizer):
    table = with_answers(asked("a b"), gold("a", 0))
    answered = answer(table, FakeReader(words), golds=False)
    with pytest.raises(ValueError, match="without its golds"):
        measured(table, answered)


def without_losses(answered: Answered, pairs: list[int]) -> Answered:
    """The same as if some pairs could not have been measured."""
    predicted = answered.predicted
    assert predicted.measured is not None
    unmeasured = dict.fromkeys(pairs, ("loss_error", "ValueError: odd"))
    partly = replace(predicted.measured, unmeasured=unmeasured)
    return replace(answered, predicted=replace(predicted, measured=partly))


def test_a_row_that_could_not_be_measured_is_rejected(words: Tokenizer):
    table = with_answers(asked("a b", "a c", "a b"), gold("a", 0), gold("c", 2), gold("b", 2))
    answered = answer(table, FakeReader(words))
    answered = without_losses(answered, pairs=[0])
    (outcome,) = measured(table, answered).outcomes
    assert outcome.columns.column("status").to_pylist() == ["rejected", "scored", "rejected"]
    assert [(each.row, each.reason, each.message) for each in outcome.rejections] == [
        (row, "loss_error", "ValueError: odd") for row in (0, 2)
    ]
    assert summary(outcome)["all"]["losses"]["nll"]["count"] == 1


def test_where_nothing_could_be_measured_no_row_is_to_blame(words: Tokenizer):
    """Rejected rows would be committed, and never tried again."""
    table = with_answers(asked("a b", "a c"), gold("a", 0), gold("c", 2))
    answered = without_losses(answer(table, FakeReader(words)), pairs=[0, 1])
    with pytest.raises(RuntimeError, match="nothing could be measured: ValueError: odd"):
        measured(table, answered)


@pytest.mark.parametrize("for_good", [True, False])
def test_a_single_pair_is_to_blame_only_if_its_values_are_the_cause(
    words: Tokenizer, for_good: bool
):
    table = with_answers(asked("a b", "a b"), gold("a", 0), gold("b", 2))
    answered = without_losses(answer(table, FakeReader(words)), pairs=[0])
    predicted = answered.predicted
    assert predicted.measured is not None
    fails = replace(predicted.measured, for_good=frozenset({0} if for_good else ()))
    answered = replace(answered, predicted=replace(predicted, measured=fails))
    if for_good:
        (outcome,) = measured(table, answered).outcomes
        assert outcome.columns.column("reason").to_pylist() == ["loss_error"] * 2
    else:
        with pytest.raises(RuntimeError, match="nothing could be measured: ValueError: odd"):
            measured(table, answered)


def test_the_step_fails_its_chunk_and_not_the_run(words: Tokenizer):
    table = with_answers(asked("a b"), gold("a", 0))
    answered = answer(table, FakeReader(words), golds=False)
    (receipt,) = run_step(MeasureLoss(span_reader(FakeReader(words))), chunk_of(table, answered))
    assert receipt.failed_step == "MeasureLoss"
    assert "without its golds" in receipt.error
    assert receipt.rows == 1


def test_the_step_is_the_function(words: Tokenizer):
    table = with_answers(asked("a b", "a b c"), gold("a", 0), gold("c", 4))
    answered = answer(table, FakeReader(words))
    (found,) = run_step(MeasureLoss(span_reader(FakeReader(words))), chunk_of(table, answered))
    assert found.payload.outcomes[0].columns.equals(measured(table, answered).outcomes[0].columns)
    assert found.seconds["MeasureLoss"] > 0
    assert np.isfinite(found.payload.outcomes[0].columns.column("nll").to_numpy()).all()


CONTEXTS = st.one_of(
    st.none(),
    st.text("ab \u0301\u200d灯🌊", max_size=12),
    st.integers(1, 400).map(lambda words: " ".join("abcdefghik"[k % 10] for k in range(words))),
)
STARTS = st.one_of(st.none(), st.integers(-3, 14), st.sampled_from([-(2**63), 2**31, 2**63 - 1]))
TEXTS = st.one_of(st.none(), st.text("abAB \u0301\u200d灯🌊", max_size=4))


@st.composite
def rows_of_any_golds(draw: st.DrawFn) -> tuple[list[str | None], list[Any], bool]:
    """Contexts, golds (right, malformed, missing), and whether the golds are a list of structs."""
    listed, contexts, answers = draw(st.booleans()), draw(st.lists(CONTEXTS, max_size=6)), []
    for context in contexts:
        golds: list[Any] = draw(st.lists(st.tuples(TEXTS, STARTS), max_size=4))
        for start in draw(st.lists(st.integers(0, max(0, len(context or "") - 1)), max_size=2)):
            golds.append(((context or "")[start : start + draw(st.integers(1, 9))], start))
        if draw(st.integers(0, 9)) == 0:
            answers.append(None)
        elif listed:
            answers.append(
                [gold and dict(zip(("text", "answer_start"), gold, strict=True)) for gold in golds]
            )
        else:
            texts, starts = [text for text, _ in golds], [start for _, start in golds]
            malformed = draw(st.integers(0, 9))
            answers.append(
                {
                    "text": None if malformed == 0 else texts,
                    "answer_start": starts[1:] if malformed == 1 else starts,
                }
            )
    return contexts, answers, listed


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows_of_any_golds(), st.booleans(), st.sampled_from(["softmax", "sigmoid"]))
def test_no_mixture_of_golds_fails_its_chunk(words: Tokenizer, rows: tuple, null: bool, link: str):
    contexts, answers, listed = rows
    item = pa.struct([("text", pa.string()), ("answer_start", pa.int64())])
    kind = (
        pa.list_(item)
        if listed
        else pa.struct([(field.name, pa.list_(field.type)) for field in item])
    )
    table = asked(*contexts).append_column("answers", pa.array(answers, kind))
    decoding = replace(DECODING, null=null)
    reader = FakeReader(words, {"a": (1.5, 0.5), "b": (-1.0, 2.0)})
    windowed = make_windows(make_chunk(table), words, LIMITS, InputColumns(answers="answers"))
    answered = decode_answers(predict_spans(windowed, reader, decoding, 200, link), decoding)
    annotated, audited = measured(table, answered, decoding, link).outcomes

    rows_of = audited.columns.to_pylist()
    counts = [audited.counts.get(status, 0) for status in STATUSES["audit"]]
    assert sum(counts) == len(rows_of) == len(contexts)
    assert [rejection.row for rejection in audited.rejections] == [
        row for row, found in enumerate(rows_of) if found["status"] == "rejected"
    ]
    for row, context in zip(rows_of, contexts, strict=True):
        if row["status"] == "scored":
            assert 0 <= row["min_nll"] <= row["nll"] + 1e-9
            assert 0 <= row["gold_start"] < row["gold_end"] <= len(context)
    json.dumps(summary(audited), allow_nan=False)
    alone = make_windows(make_chunk(table.drop_columns("answers")), words, LIMITS)
    (without,) = decode_answers(
        predict_spans(alone, reader, decoding, 200, link), decoding
    ).outcomes
    assert annotated.columns.equals(without.columns)
