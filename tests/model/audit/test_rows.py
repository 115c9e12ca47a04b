"""The audit's columns: losses under their names, ranks, probabilities and hashes."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pyarrow as pa
import pytest

from model.audit.columns import AUDIT_SCHEMA
from model.audit.rows import hash_texts
from tests.model.audited import LENGTHS, ROWS, SEED, audit
from tests.model.brute_force import log_normaliser, null_score, spans_of
from tests.model.fakes import fake_logits


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
                "joint_nll": rows.joint[row],
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
        assert [row["golds_dropped"] for row in audited.columns] == [
            0,
            1,
            2,
            3,
            4,
            None,
            6,
            7,
            None,
        ]

    @pytest.mark.parametrize("null", [False, True])
    def test_a_window_prior_changes_probabilities_and_no_loss(self, null: bool):
        plain, audited = audit(null, 2.0), audit(null, 2.0, prior=1.5)
        moved = 0
        rows = zip(ROWS, plain.columns, audited.columns, strict=True)
        for (pair, golds), before, found in rows:
            for name in found:
                if "nll" in name or name.startswith(("tokenwise", "null_")):
                    assert found[name] == before[name], name
            if found["status"] == "rejected" or not golds:
                continue
            spans = spans_of(audited.windows, pair, SEED, 0, audited.decoding.max_answer_length)
            weights = {
                (span.start, span.end): math.exp(span.score / 2 - 1.5 * span.window)
                for span in spans
            }
            answered = 1 - (before["null_probability"] or 0)
            total = math.fsum(weights.values())
            assert found["probability"] == pytest.approx(
                answered * max(weights.values()) / total, rel=1e-5
            )
            if golds[0] in weights:
                expected = answered * weights[golds[0]] / total
                assert found["gold_probability"] == pytest.approx(expected, rel=1e-5)
                moved += found["gold_probability"] != before["gold_probability"]
        assert moved > 0

    @pytest.mark.parametrize("null", [False, True])
    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_ranks_and_probabilities_against_all_spans(self, null: bool, temperature: float):
        audited = audit(null, temperature)
        for (pair, spans), found in zip(ROWS, audited.columns, strict=True):
            if found["status"] == "rejected":
                continue
            candidates = spans_of(
                audited.windows, pair, SEED, 0, audited.decoding.max_answer_length
            )
            nothing = null_score(audited.windows, pair, SEED, 0) if null else None
            scores = [span.score for span in candidates]
            terms = scores + ([nothing] if nothing is not None else [])
            mass, untempered = log_normaliser(terms, temperature), log_normaliser(terms, 1.0)
            assert found["probability"] == pytest.approx(
                math.exp(scores[0] / temperature - mass), rel=1e-5
            )
            assert found["span_score"] == pytest.approx(scores[0], rel=1e-6)
            if nothing is None:
                assert found["null_score"] is found["null_probability"] is None
            else:
                assert found["null_score"] == pytest.approx(nothing, rel=1e-6)
                assert found["null_probability"] == pytest.approx(
                    math.exp(nothing / temperature - mass), rel=1e-5
                )
            if not spans:
                assert found["gold_probability"] == found["null_probability"]
                assert found["gold_rank"] is None
                if nothing is None:
                    assert found["joint_nll"] is None
                else:
                    assert found["joint_nll"] == pytest.approx(untempered - nothing, rel=1e-5)
                continue
            places = [k for k, span in enumerate(candidates) if (span.start, span.end) == spans[0]]
            if not places:  # too long, or in no window
                assert found["joint_nll"] is found["gold_probability"] is found["gold_rank"] is None
            else:
                loss = untempered - scores[places[0]]
                assert found["joint_nll"] == pytest.approx(loss, rel=1e-5)
                expected = math.exp(scores[places[0]] / temperature - mass)
                assert found["gold_probability"] == pytest.approx(expected, rel=1e-5)
                assert found["gold_rank"] == (
                    places[0] + 1 if places[0] < audited.decoding.n_best else None
                )

    def test_temperature_changes_no_loss(self):
        losses = [field.name for field in AUDIT_SCHEMA if field.type == pa.float64()]
        for cold, warm in zip(audit(True, 1.0).columns, audit(True, 3.0).columns, strict=True):
            assert {name: cold[name] for name in losses} == {name: warm[name] for name in losses}

    @pytest.mark.parametrize("null", [False, True])
    def test_minus_log_probability_of_a_gold_in_one_window(self, null: bool):
        """-log P(gold) = nll + log M, and P(gold) >= exp(-nll).

        M is the product mass of the options that decoding allows.
        """
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
            assert -math.log(found["gold_probability"]) == pytest.approx(
                found["nll"] + math.log(mass), rel=1e-5, abs=1e-6
            )
            assert found["gold_probability"] >= math.exp(-found["nll"]) * (1 - 1e-6)
            checked += 1
        assert checked >= 2

    def test_where_the_model_decides_for_no_answer_the_prediction_is_empty(self):
        audited = audit(null=True)
        decided = [
            row
            for row in audited.columns
            if row["status"] != "rejected" and row["null_score"] > row["span_score"]
        ]
        others = [
            row
            for row in audited.columns
            if row["status"] != "rejected" and row["null_score"] <= row["span_score"]
        ]
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
        kept = [
            (row, *ROWS[row]) for row, found in enumerate(columns) if found["status"] != "rejected"
        ]
        for row, pair, spans in kept:
            for other, other_pair, other_spans in kept:
                for name in ("question_hash", "context_hash", "pair_hash"):
                    assert (columns[row][name] == columns[other][name]) == (pair == other_pair)
                assert (columns[row]["gold_hash"] == columns[other]["gold_hash"]) == (
                    set(spans) == set(other_spans)
                )

    def test_golds_are_told_apart_by_their_characters_as_in_every_version(self):
        for (_, spans), found in zip(ROWS, audit(null=True).columns, strict=True):
            if found["status"] != "rejected":
                told = str([[2 * first, 2 * last + 1] for first, last in sorted(set(spans))])
                assert found["gold_hash"] == hashlib.blake2b(told.encode(), digest_size=16).digest()

    def test_the_pair_is_told_from_its_halves(self):
        """Its hash is that of two hashes of one width: ("ab", "c") is not ("a", "bc")."""
        for found in audit(null=True).columns:
            if found["status"] != "rejected":
                both = found["question_hash"] + found["context_hash"]
                assert found["pair_hash"] == hashlib.blake2b(both, digest_size=16).digest()
                assert len({found["question_hash"], found["context_hash"], found["pair_hash"]}) == 3
