"""The audit's rows: from losses of golds to losses of rows, statuses, ranks, probabilities and hashes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from model.audit import AUDIT_SCHEMA, RowLosses, audit_columns, hash_texts, row_losses, statuses
from model.golds import Golds, gold_views
from model.losses import PassageLosses, passage_losses
from model.prediction import Decoding, predict
from model.spans import merge_windows
from model.tokenizer import Ragged
from model.windows import Windows
from tests.model.brute_force import log_normaliser, null_score, spans_of
from tests.model.fakes import FakeReader, fake_logits, make_windows

SEED = 11

LENGTHS = [9, 40, 23, 1, 7]
"""Tokens of each passage; in windows of 12 context tokens the second and third need several."""

ROWS: list[tuple[int, list[tuple[int, int]]]] = [
    (0, [(0, 2), (5, 5)]),
    (1, [(18, 20), (18, 22), (30, 32), (3, 3)]),  # two golds share a start
    (1, [(3, 3), (30, 32), (18, 22), (18, 20)]),  # the same golds, another first
    (2, []),  # unanswerable
    (3, [(0, 0)]),
    (-1, []),  # rejected by an earlier step
    (2, [(2, 18)]),  # longer than any window
    (0, [(4, 8), (2, 8), (4, 6)]),  # shares starts and ends, and is longer than max_answer_length
    (4, [(1, 1)]),  # rejected by its golds, as `problems` says
]
"""The pair of each row and its golds, (first, last) token."""


def make_golds(problems: dict[int, tuple[str, str]] | None = None) -> Golds:
    place: dict[tuple[int, int, int], int] = {}
    of_row = [[place.setdefault((pair, *span), len(place)) for span in spans] for pair, spans in ROWS]
    columns = np.array(list(place), np.int64)
    dropped = np.arange(len(ROWS))
    texts = [[f"gold {k}" for k in range(len(spans))] for _, spans in ROWS]
    return Golds(columns[:, 0], columns[:, 1], columns[:, 2], Ragged.of(of_row), dropped, problems or {}, texts)


@dataclass
class Audited:
    windows: Windows
    golds: Golds
    losses: PassageLosses
    rows: RowLosses
    columns: list[dict[str, object]]
    decoding: Decoding
    questions: list[str]
    contexts: list[str]


def audit(null: bool, temperature: float = 1.0) -> Audited:
    """Everything of the rows above, by a reader whose logits can be computed by hand."""
    windows = make_windows(LENGTHS, max_length=16, overlap=5)
    golds = make_golds({8: ("gold_misaligned", "moved")})
    row_pair = np.array([pair for pair, _ in ROWS])
    decoding = Decoding(n_best=3, max_answer_length=4, temperature=temperature, null=null)
    prediction = predict(FakeReader(SEED, levels=0), windows, decoding, 64, golds)
    pairs = len(LENGTHS)
    spans = merge_windows(prediction.spans, windows.pair, windows.index, pairs, n_best=3, temperature=temperature)
    assert prediction.losses is not None
    losses = passage_losses(windows, golds, gold_views(windows, golds), prediction.losses, "softmax")
    questions = [f"question {pair}" for pair in range(pairs)]
    contexts = [" ".join("abcdefghij"[k % 10] for k in range(length)) for length in LENGTHS]
    with np.errstate(invalid="ignore"):
        no_answer = spans.null_score - spans.span_score[:, 0] > 0
    table = audit_columns(
        windows=windows,
        spans=spans,
        golds=golds,
        losses=losses,
        questions=questions,
        contexts=contexts,
        row_pair=row_pair,
        reasons=["context_blank" if pair < 0 else None for pair in row_pair],
        no_answer=no_answer,
        max_answer_length=decoding.max_answer_length,
        temperature=temperature,
        null=null,
    )
    assert table.schema == AUDIT_SCHEMA
    rows = row_losses(golds, losses, row_pair)
    return Audited(windows, golds, losses, rows, table.to_pylist(), decoding, questions, contexts)


def minus_log_sum(values: Sequence[float]) -> float:
    return -math.log(math.fsum(math.exp(-value) for value in values))


class TestRowLosses:
    @pytest.mark.parametrize("null", [False, True])
    def test_first_min_and_marginals_against_plain_sums(self, null: bool):
        audited = audit(null)
        rows, losses = audited.rows, audited.losses
        for row, (_, spans) in enumerate(ROWS):
            mine = audited.golds.of_row[row].tolist()
            if not spans:
                continue
            assert [(audited.golds.first[g], audited.golds.last[g]) for g in mine] == spans
            assert rows.first_gold[row] == mine[0]
            assert rows.nll[:, row].tolist() == losses.nll[:, mine[0]].tolist()
            assert rows.tokenwise[:, row].tolist() == losses.tokenwise[:, mine[0]].tolist()
            np.testing.assert_equal(rows.native[:, row], losses.native[:, mine[0]])
            np.testing.assert_equal(rows.null_window[row], losses.null_window[mine[0]])
            assert rows.whole[row] == losses.whole[mine[0]]
            assert rows.partly[row] == losses.partly[mine[0]]

            total = [float(losses.nll[:, g].sum()) for g in mine]
            least = mine[total.index(min(total))]
            assert rows.min_nll[:, row].tolist() == losses.nll[:, least].tolist()  # its own start and end
            assert rows.min_tokenwise[row] == pytest.approx(min(losses.tokenwise[:, g].sum() for g in mine))
            assert rows.marginal_joint[row] == pytest.approx(minus_log_sum(total), rel=1e-9, abs=1e-12)
            for side, tokens in enumerate((audited.golds.first, audited.golds.last)):
                of_token = {tokens[g]: float(losses.nll[side, g]) for g in mine}  # each start, and each end, once
                expected = minus_log_sum(list(of_token.values()))
                assert rows.marginal[side, row] == pytest.approx(expected, rel=1e-9, abs=1e-12)

    def test_the_marginals_of_several_golds_are_no_sum_of_joint_terms(self):
        """The joint marginal is not the sum of the two: golds that share a start count it once there, twice here."""
        audited = audit(null=False)
        rows = audited.rows
        assert rows.marginal_joint[7] > rows.marginal[:, 7].sum() + 1e-3
        assert rows.marginal_joint[7] < rows.min_nll[:, 7].sum()

    def test_a_row_without_golds_has_the_null_target(self):
        audited = audit(null=True)
        rows, losses = audited.rows, audited.losses
        assert rows.first_gold[3] == -1
        expected = losses.null_nll[:, 2]
        assert np.isfinite(expected).all()
        assert rows.nll[:, 3].tolist() == rows.min_nll[:, 3].tolist() == rows.marginal[:, 3].tolist() == expected.tolist()
        assert rows.marginal_joint[3] == expected.sum()
        assert rows.native[:, 3].tolist() == losses.null_native[:, 2].tolist()
        assert rows.tokenwise[:, 3].tolist() == losses.null_tokenwise[:, 2].tolist()
        assert rows.min_tokenwise[3] == losses.null_tokenwise[:, 2].sum()
        assert np.isnan(rows.null_window[3])
        assert rows.whole[3] == rows.partly[3] == 0

    def test_and_no_loss_at_all_without_a_null_option(self):
        rows = audit(null=False).rows
        for name in ("nll", "min_nll", "marginal_joint", "marginal", "native", "tokenwise", "min_tokenwise"):
            assert np.isnan(getattr(rows, name)[..., 3]).all(), name

    def test_rejected_rows_have_none_either(self):
        rows = audit(null=True).rows
        assert np.isnan(rows.nll[:, 5]).all()
        assert rows.first_gold[5] == -1

    def test_no_gold_in_the_whole_chunk(self):
        none = np.zeros(0, np.int64)
        golds = Golds(none, none, none, Ragged.of([[], []]), np.zeros(2, np.int64), {}, [[], []])
        windows = make_windows([5, 7], max_length=16, overlap=5)
        prediction = predict(FakeReader(SEED), windows, Decoding(null=True), 64, golds)
        assert prediction.losses is not None
        losses = passage_losses(windows, golds, gold_views(windows, golds), prediction.losses, "softmax")
        assert row_losses(golds, losses, np.array([1, 0])).nll.tolist() == losses.null_nll[:, ::-1].tolist()


class TestStatuses:
    def test_each_status_and_reason(self):
        null_on, null_off = audit(null=True), audit(null=False)
        found = [(row["status"], row["reason"]) for row in null_on.columns]
        assert found == [
            ("scored", None),
            ("scored", None),
            ("scored", None),
            ("null_scored", None),
            ("scored", None),
            ("rejected", "context_blank"),
            ("unreachable", "gold_in_no_window"),
            ("scored", "gold_too_long"),
            ("rejected", "gold_misaligned"),
        ]
        off = [(row["status"], row["reason"]) for row in null_off.columns]
        assert off == [*found[:3], ("unreachable", "no_null_option"), *found[4:]]

    def test_an_earlier_rejection_stands_before_a_problem_of_the_golds(self):
        golds = make_golds({0: ("gold_blank", ""), 1: ("gold_blank", "")})
        rows = audit(null=False).rows
        status, reason = statuses(["question_blank", *[None] * 8], rows, golds, False, np.zeros(9, bool))
        assert (status[0], reason[0]) == ("rejected", "question_blank")
        assert (status[1], reason[1]) == ("rejected", "gold_blank")

    def test_an_unreachable_gold_has_its_passage_loss_and_no_other(self):
        row = audit(null=True).columns[6]
        assert row["nll"] == pytest.approx(row["nll_start"] + row["nll_end"])  # start and end have different owners
        assert row["tokenwise"] > 0
        assert row["native_nll"] is row["native_tokenwise"] is row["gold_probability"] is row["gold_rank"] is None
        assert (row["windows_whole"], row["windows_partly"], row["windows_without"]) == (0, 3, 0)
        assert row["num_windows"] == 3

    def test_a_gold_that_is_too_long_has_its_losses_but_no_probability(self):
        row = audit(null=True).columns[7]
        assert row["nll"] > 0
        assert row["native_nll"] > 0
        assert row["gold_probability"] is row["gold_rank"] is None

    def test_a_rejected_row_has_a_status_and_a_reason_and_nothing_else(self):
        for row in (5, 8):
            columns = audit(null=True).columns[row]
            assert {name for name, value in columns.items() if value is not None} == {"status", "reason"}

    def test_nothing_but_rejected_rows(self):
        none = np.zeros(0, np.int64)
        windows = make_windows([], max_length=16, overlap=5)
        golds = Golds(none, none, none, Ragged.of([[], []]), np.zeros(2, np.int64), {}, [[], []])
        prediction = predict(FakeReader(SEED), windows, Decoding(), 64, golds)
        assert prediction.losses is not None
        table = audit_columns(
            windows=windows,
            spans=merge_windows(prediction.spans, windows.pair, windows.index, 0, n_best=5, temperature=1.0),
            golds=golds,
            losses=passage_losses(windows, golds, gold_views(windows, golds), prediction.losses, "softmax"),
            questions=[],
            contexts=[],
            row_pair=np.array([-1, -1]),
            reasons=["question_blank", "context_blank"],
            no_answer=np.zeros(0, bool),
            max_answer_length=30,
            temperature=1.0,
            null=False,
        )
        assert table.schema == AUDIT_SCHEMA
        assert table.column("status").to_pylist() == ["rejected"] * 2
        assert table.column("reason").to_pylist() == ["question_blank", "context_blank"]
        assert table.column("nll").null_count == 2


class TestColumns:
    @pytest.mark.parametrize("null", [False, True])
    def test_losses_under_their_own_names(self, null: bool):
        audited = audit(null)
        rows = audited.rows
        for row, (pair, _) in enumerate(ROWS):
            found = audited.columns[row]
            if found["status"] == "rejected":
                continue
            tokens = LENGTHS[pair]
            assert found["num_tokens"] == tokens
            total, tokenwise = rows.nll[:, row].sum(), rows.tokenwise[:, row].sum()
            expected = {
                "nll_start": rows.nll[0, row],
                "nll_end": rows.nll[1, row],
                "nll": total,
                "nll_per_token": total / tokens,
                "nll_half": total / 2,
                "min_nll_start": rows.min_nll[0, row],
                "min_nll_end": rows.min_nll[1, row],
                "min_nll": rows.min_nll[:, row].sum(),
                "marginal_joint_nll": rows.marginal_joint[row],
                "marginal_start_nll": rows.marginal[0, row],
                "marginal_end_nll": rows.marginal[1, row],
                "native_nll_start": rows.native[0, row],
                "native_nll_end": rows.native[1, row],
                "native_nll": rows.native[:, row].sum(),
                "tokenwise_start": rows.tokenwise[0, row],
                "tokenwise_end": rows.tokenwise[1, row],
                "tokenwise": tokenwise,
                "tokenwise_per_token": tokenwise / tokens,
                "min_tokenwise": rows.min_tokenwise[row],
                "native_tokenwise": rows.native_tokenwise[:, row].sum(),
                "null_window_nll": rows.null_window[row],
            }
            for name, value in expected.items():
                if np.isnan(value):
                    assert found[name] is None, name
                else:
                    assert found[name] == value, name

    def test_windows_with_the_gold_whole_partly_and_not_at_all(self):
        audited = audit(null=True)
        for row, (pair, spans) in enumerate(ROWS):
            found = audited.columns[row]
            if found["status"] == "rejected":
                continue
            at = np.flatnonzero(audited.windows.pair == pair)
            assert found["num_windows"] == len(at)
            bounds = [(audited.windows.start[w], audited.windows.stop[w]) for w in at]
            first, last = spans[0] if spans else (-1, -2)
            whole = sum(start <= first and last < stop for start, stop in bounds) if spans else 0
            without = sum(last < start or first >= stop for start, stop in bounds)
            counts = found["windows_whole"], found["windows_partly"], found["windows_without"]
            assert counts == (whole, len(at) - whole - without, without)

    def test_golds_and_predictions_in_characters_of_the_context(self):
        audited = audit(null=False)
        for (pair, spans), found in zip(ROWS, audited.columns, strict=True):
            if found["status"] == "rejected":
                continue
            if spans:
                first, last = spans[0]
                assert (found["gold_start"], found["gold_end"]) == (2 * first, 2 * last + 1)
            else:
                assert found["gold_start"] is found["gold_end"] is None
            assert found["golds"] == len(spans)
            begin, end = found["prediction_start"], found["prediction_end"]
            assert found["prediction"] == audited.contexts[pair][begin:end] != ""
        assert [row["golds_dropped"] for row in audited.columns] == [0, 1, 2, 3, 4, None, 6, 7, None]

    @pytest.mark.parametrize("null", [False, True])
    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_ranks_and_probabilities_against_all_spans(self, null: bool, temperature: float):
        audited = audit(null, temperature)
        for (pair, spans), found in zip(ROWS, audited.columns, strict=True):
            if found["status"] == "rejected":
                continue
            candidates = spans_of(audited.windows, pair, SEED, 0, audited.decoding.max_answer_length)
            nothing = null_score(audited.windows, pair, SEED, 0) if null else None
            scores = [span.score for span in candidates]
            mass = log_normaliser(scores + ([nothing] if nothing is not None else []), temperature)
            assert found["probability"] == pytest.approx(math.exp(scores[0] / temperature - mass), rel=1e-5)
            assert found["span_score"] == pytest.approx(scores[0], rel=1e-6)
            if nothing is None:
                assert found["null_score"] is found["null_probability"] is None
            else:
                assert found["null_score"] == pytest.approx(nothing, rel=1e-6)
                assert found["null_probability"] == pytest.approx(math.exp(nothing / temperature - mass), rel=1e-5)
            if not spans:
                assert found["gold_probability"] == found["null_probability"]
                assert found["gold_rank"] is None
                continue
            places = [k for k, span in enumerate(candidates) if (span.start, span.end) == spans[0]]
            if not places:  # too long, or in no window
                assert found["gold_probability"] is found["gold_rank"] is None
            else:
                expected = math.exp(scores[places[0]] / temperature - mass)
                assert found["gold_probability"] == pytest.approx(expected, rel=1e-5)
                assert found["gold_rank"] == (places[0] + 1 if places[0] < audited.decoding.n_best else None)

    def test_temperature_changes_no_loss(self):
        losses = [field.name for field in AUDIT_SCHEMA if field.type == pa.float64()]
        for cold, warm in zip(audit(True, 1.0).columns, audit(True, 3.0).columns, strict=True):
            assert {name: cold[name] for name in losses} == {name: warm[name] for name in losses}

    @pytest.mark.parametrize("null", [False, True])
    def test_minus_log_probability_of_a_gold_in_one_window(self, null: bool):
        """-log P(gold) = nll + log M, M the product mass of the options that decoding allows; so P(gold) >= exp(-nll)."""
        audited = audit(null)
        checked = 0
        for (pair, spans), found in zip(ROWS, audited.columns, strict=True):
            if found["num_windows"] != 1 or not found["gold_probability"] or not spans:
                continue
            logits = fake_logits(SEED, pair, 0, LENGTHS[pair], 0).astype(np.float64)
            if not null:
                logits = logits[:, 1:]
            p = np.exp(logits - np.logaddexp.reduce(logits, 1, keepdims=True))
            shift = int(null)
            options = [
                p[0, shift + i] * p[1, shift + j]
                for i in range(LENGTHS[pair])
                for j in range(i, min(i + audited.decoding.max_answer_length, LENGTHS[pair]))
            ]
            mass = math.fsum(options) + (p[0, 0] * p[1, 0] if null else 0.0)
            assert -math.log(found["gold_probability"]) == pytest.approx(found["nll"] + math.log(mass), rel=1e-5, abs=1e-6)
            assert found["gold_probability"] >= math.exp(-found["nll"]) * (1 - 1e-6)
            checked += 1
        assert checked >= 2

    def test_where_the_model_decides_for_no_answer_the_prediction_is_empty(self):
        audited = audit(null=True)
        decided = [row for row in audited.columns if row["status"] != "rejected" and row["null_score"] > row["span_score"]]
        others = [row for row in audited.columns if row["status"] != "rejected" and row["null_score"] <= row["span_score"]]
        assert decided  # both kinds are among the rows
        assert others
        for row in decided:
            assert row["prediction"] == ""
            assert row["prediction_start"] is row["prediction_end"] is None
            assert row["exact_match"] == row["f1"] == float(row["golds"] == 0)
        assert all(row["prediction"] for row in others)

    def test_exact_match_and_f1_are_over_all_texts_of_the_golds(self):
        audited = audit(null=False)
        for found in audited.columns:
            if found["status"] != "rejected":
                assert found["exact_match"] == found["f1"] == 0.0  # letters against "gold 0"


class TestHashes:
    def test_sixteen_bytes_of_blake2b(self):
        assert hash_texts(["Who?", "", "灯台"]) == [
            hashlib.blake2b(text.encode(), digest_size=16).digest() for text in ("Who?", "", "灯台")
        ]

    def test_a_lone_surrogate_has_a_hash_too(self):
        assert len(hash_texts(["\ud800"])[0]) == 16

    def test_rows_that_ask_the_same_share_them(self):
        columns = audit(null=True).columns
        kept = [(row, *ROWS[row]) for row, found in enumerate(columns) if found["status"] != "rejected"]
        for row, pair, spans in kept:
            for other, other_pair, other_spans in kept:
                for name in ("question_hash", "context_hash", "pair_hash"):
                    assert (columns[row][name] == columns[other][name]) == (pair == other_pair)
                assert (columns[row]["gold_hash"] == columns[other]["gold_hash"]) == (set(spans) == set(other_spans))

    def test_the_pair_is_told_from_its_halves(self):
        """Its hash is that of two hashes of one width: ("ab", "c") is not ("a", "bc")."""
        for found in audit(null=True).columns:
            if found["status"] != "rejected":
                both = found["question_hash"] + found["context_hash"]
                assert found["pair_hash"] == hashlib.blake2b(both, digest_size=16).digest()
                assert len({found["question_hash"], found["context_hash"], found["pair_hash"]}) == 3
