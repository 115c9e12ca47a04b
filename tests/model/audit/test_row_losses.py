"""From losses of golds to losses of rows, and their statuses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from model.audit.columns import AUDIT_SCHEMA, audit_columns
from model.audit.golds import Golds
from model.audit.losses import passage_losses
from model.audit.row_losses import row_losses, statuses
from model.audit.rows import Examples
from model.reading.decoding import Decoding
from model.reading.posterior import merge_windows
from model.reading.tokenizer import Ragged
from tests.model.audited import ROWS, SEED, audit, make_golds
from tests.model.fakes import FakeReader, make_windows
from tests.model.predicted import decode_and_measure


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
            np.testing.assert_equal(rows.joint[row], losses.joint[mine[0]])
            np.testing.assert_equal(rows.null_window[row], losses.null_window[mine[0]])
            assert rows.whole[row] == losses.whole[mine[0]]
            assert rows.partly[row] == losses.partly[mine[0]]

            total = [float(losses.nll[:, g].sum()) for g in mine]
            least = mine[total.index(min(total))]
            # Its own start and end.
            assert rows.min_nll[:, row].tolist() == losses.nll[:, least].tolist()
            assert rows.min_tokenwise[row] == pytest.approx(
                min(losses.tokenwise[:, g].sum() for g in mine)
            )
            assert rows.marginal_joint[row] == pytest.approx(
                minus_log_sum(total), rel=1e-9, abs=1e-12
            )
            for side, tokens in enumerate((audited.golds.first, audited.golds.last)):
                of_token = {
                    tokens[g]: float(losses.nll[side, g]) for g in mine
                }  # each start, and each end, once
                expected = minus_log_sum(list(of_token.values()))
                assert rows.marginal[side, row] == pytest.approx(expected, rel=1e-9, abs=1e-12)

    def test_the_marginals_of_several_golds_are_no_sum_of_joint_terms(self):
        """The joint marginal is not the sum of the two: golds may share a start's probability."""
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
        assert (
            rows.nll[:, 3].tolist()
            == rows.min_nll[:, 3].tolist()
            == rows.marginal[:, 3].tolist()
            == expected.tolist()
        )
        assert rows.marginal_joint[3] == expected.sum()
        assert rows.native[:, 3].tolist() == losses.null_native[:, 2].tolist()
        assert rows.joint[3] == losses.null_joint[2]
        assert rows.tokenwise[:, 3].tolist() == losses.null_tokenwise[:, 2].tolist()
        assert rows.min_tokenwise[3] == losses.null_tokenwise[:, 2].sum()
        assert np.isnan(rows.null_window[3])
        assert rows.whole[3] == rows.partly[3] == 0

    def test_and_no_loss_at_all_without_a_null_option(self):
        rows = audit(null=False).rows
        for name in (
            "nll",
            "min_nll",
            "marginal_joint",
            "marginal",
            "native",
            "tokenwise",
            "min_tokenwise",
            "joint",
        ):
            assert np.isnan(getattr(rows, name)[..., 3]).all(), name

    def test_rejected_rows_have_none_either(self):
        rows = audit(null=True).rows
        assert np.isnan(rows.nll[:, 5]).all()
        assert rows.first_gold[5] == -1

    def test_no_gold_in_the_whole_chunk(self):
        none = np.zeros(0, np.int64)
        golds = Golds(
            none, none, none, Ragged.of([[], []]), np.zeros(2, np.int64), {}, [[], []], [[], []]
        )
        windows = make_windows([5, 7], max_length=16, overlap=5)
        _, measured = decode_and_measure(FakeReader(SEED), windows, Decoding(null=True), 64, golds)
        losses = passage_losses(windows, measured)
        assert (
            row_losses(golds, losses, np.array([1, 0])).nll.tolist()
            == losses.null_nll[:, ::-1].tolist()
        )


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
        status, reason = statuses(
            ["question_blank", *[None] * 8], rows, golds, False, np.zeros(9, bool)
        )
        assert (status[0], reason[0]) == ("rejected", "question_blank")
        assert (status[1], reason[1]) == ("rejected", "gold_blank")

    def test_an_unreachable_gold_has_its_passage_loss_and_no_other(self):
        row = audit(null=True).columns[6]
        # Start and end have different owners.
        assert row["nll"] == pytest.approx(row["nll_start"] + row["nll_end"])
        assert row["tokenwise"] > 0
        assert (
            row["native_nll"]
            is row["native_tokenwise"]
            is row["joint_nll"]
            is row["gold_probability"]
            is row["gold_rank"]
            is None
        )
        assert (row["windows_whole"], row["windows_partly"], row["windows_without"]) == (0, 3, 0)
        assert row["num_windows"] == 3

    def test_a_gold_that_is_too_long_has_its_losses_but_no_probability(self):
        row = audit(null=True).columns[7]
        assert row["nll"] > 0
        assert row["native_nll"] > 0
        assert row["joint_nll"] is row["gold_probability"] is row["gold_rank"] is None

    def test_a_rejected_row_has_a_status_and_a_reason_and_nothing_else(self):
        for row in (5, 8):
            columns = audit(null=True).columns[row]
            assert {name for name, value in columns.items() if value is not None} == {
                "status",
                "reason",
            }

    def test_nothing_but_rejected_rows(self):
        none = np.zeros(0, np.int64)
        windows = make_windows([], max_length=16, overlap=5)
        golds = Golds(
            none, none, none, Ragged.of([[], []]), np.zeros(2, np.int64), {}, [[], []], [[], []]
        )
        prediction, measured = decode_and_measure(FakeReader(SEED), windows, Decoding(), 64, golds)
        examples = Examples(
            windows=windows,
            spans=merge_windows(
                prediction.spans, windows.pair, windows.index, 0, n_best=5, temperature=1.0
            ),
            golds=golds,
            losses=passage_losses(windows, measured),
            questions=[],
            contexts=[],
            row_pair=np.array([-1, -1]),
            reasons=["question_blank", "context_blank"],
            no_answer=np.zeros(0, bool),
            decoding=Decoding(),
        )
        table = audit_columns(examples)
        assert table.schema == AUDIT_SCHEMA
        assert table.column("status").to_pylist() == ["rejected"] * 2
        assert table.column("reason").to_pylist() == ["question_blank", "context_blank"]
        assert table.column("nll").null_count == 2
