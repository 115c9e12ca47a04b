"""Answers from known logits: spans, probabilities, the null option, and each rejection."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from model.reading.decoding import Decoding, Thresholds, decide
from model.reading.tokenizer import Tokenizer
from tests.transforms.fakes import DECODING, LIMITS, FakeReader, answer, asked, make_chunk
from transforms.decode_answers import decode_answers
from transforms.make_windows import make_windows
from transforms.predict_spans import predict_spans
from transforms.records import Answered

Letters = dict[str, tuple[float, float]]


def rows(answered: Answered) -> list[dict]:
    (outcome,) = answered.outcomes
    assert outcome.stage == "annotate"
    return outcome.columns.to_pylist()


def spans_of(
    context: str, letters: dict[str, tuple[float, float]], longest: int
) -> dict[str, float]:
    """Every admissible span's text and score; equal scores by lowest start, then shortest."""
    words = context.split()
    scores = {}
    for i, first in enumerate(words):
        for j in range(i, min(i + longest, len(words))):
            scores[" ".join(words[i : j + 1])] = (
                letters.get(first, (0, 0))[0] + letters.get(words[j], (0, 0))[1]
            )
    return scores


class TestSpans:
    LETTERS: ClassVar[Letters] = {"b": (5.0, 0.0), "c": (0.0, 7.0), "d": (1.0, 1.0)}

    def test_candidates_scores_and_probabilities(self, words: Tokenizer):
        context = "a b c d e f"
        scores = spans_of(context, self.LETTERS, DECODING.max_answer_length)
        ranked = sorted(scores, key=lambda text: -scores[text])[:3]
        total = math.fsum(math.exp(score) for score in scores.values())
        (row,) = rows(answer(asked(context), FakeReader(words, self.LETTERS)))
        assert (row["answer_text"], row["answer_start"], row["answer_end"]) == ("b c", 2, 5)
        assert row["span_score"] == 12
        assert [candidate["text"] for candidate in row["n_best"]] == ranked == ["b c", "a b c", "c"]
        for candidate in row["n_best"]:
            assert candidate["probability"] == pytest.approx(
                math.exp(scores[candidate["text"]]) / total, rel=1e-5
            )
        assert row["probability"] == row["n_best"][0]["probability"]
        assert (row["n_best"][0]["start_logit"], row["n_best"][0]["end_logit"]) == (5, 7)
        assert (row["status"], row["reason"], row["window_index"], row["num_windows"]) == (
            "answered",
            None,
            0,
            1,
        )

    def test_temperature_flattens_probabilities_and_not_scores(self, words: Tokenizer):
        scores = spans_of("a b c", self.LETTERS, DECODING.max_answer_length)
        total = math.fsum(math.exp(score / 4) for score in scores.values())
        (row,) = rows(
            answer(
                asked("a b c"), FakeReader(words, self.LETTERS), replace(DECODING, temperature=4.0)
            )
        )
        assert row["probability"] == pytest.approx(math.exp(12 / 4) / total, rel=1e-5)
        assert row["span_score"] == 12

    def test_fewer_spans_than_candidates(self, words: Tokenizer):
        (row,) = rows(
            answer(asked("b"), FakeReader(words, self.LETTERS), replace(DECODING, n_best=4))
        )
        assert [candidate["text"] for candidate in row["n_best"]] == ["b"]
        assert row["probability"] == pytest.approx(1)

    def test_the_longest_answer_bounds_every_candidate(self, words: Tokenizer):
        letters = {"a": (9.0, 0.0), "e": (0.0, 9.0)}
        (row,) = rows(
            answer(asked("a b c d e"), FakeReader(words, letters), replace(DECODING, n_best=50))
        )
        assert (
            max(len(candidate["text"].split()) for candidate in row["n_best"])
            == DECODING.max_answer_length
        )
        assert row["answer_text"] == "a"  # "a b c d e" would score 18, but is one token too long

    def test_an_answer_late_in_a_long_context(self, words: Tokenizer):
        """Room for 26 tokens, 8 shared: the third window starts at 36."""
        filler = ["a"] * 50
        filler[45] = "b"
        filler[46] = "c"
        context = " ".join(filler)
        (row,) = rows(answer(asked(context), FakeReader(words, self.LETTERS)))
        assert row["answer_text"] == "b c" == context[row["answer_start"] : row["answer_end"]]
        assert row["num_windows"] == 3
        assert row["window_index"] == 2
        assert row["probability"] == pytest.approx(
            math.exp(12)
            / math.fsum(
                math.exp(self.score(filler, i, j))
                for i in range(50)
                for j in range(i, min(i + 4, 50))
            ),
            rel=1e-4,
        )

    def score(self, filler: list[str], i: int, j: int) -> float:
        return self.LETTERS.get(filler[i], (0, 0))[0] + self.LETTERS.get(filler[j], (0, 0))[1]

    def test_rows_with_the_same_pair_have_the_same_answer(self, words: Tokenizer):
        answered = answer(asked("a b c", "c b", "a b c"), FakeReader(words, self.LETTERS))
        first, other, again = rows(answered)
        assert first == again != other
        assert answered.counts["rows"] == 3
        assert answered.counts["pairs"] == 2


class TestNull:
    NULL = Decoding(n_best=2, max_answer_length=4, null=True)
    LETTERS: ClassVar[Letters] = {"b": (2.0, 1.0)}

    @pytest.mark.parametrize(
        ("null", "threshold", "status"),
        [
            ((1.0, 1.5), 0.0, "answered"),
            ((2.0, 1.0), 0.0, "answered"),
            ((2.0, 1.5), 0.0, "no_answer"),
            ((2.0, 1.5), 0.5, "answered"),
            ((0.0, 0.0), -4.0, "no_answer"),
        ],
    )
    def test_no_answer_when_null_beats_the_best_span_by_more_than_the_threshold(
        self, words: Tokenizer, null: tuple[float, float], threshold: float, status: str
    ):
        answered = answer(
            asked("a b c"), FakeReader(words, self.LETTERS, null), self.NULL, threshold
        )
        (row,) = rows(answered)
        assert row["status"] == status
        assert row["null_score"] == sum(null)
        assert row["span_score"] == 3
        assert answered.outcomes[0].counts[status] == 1

    @pytest.mark.parametrize("null", [(2.0, 1.5), (1.0, 1.5)])
    def test_an_improbable_answer_is_below_the_threshold_unless_null_wins(
        self, words: Tokenizer, null: tuple[float, float]
    ):
        reader = FakeReader(words, self.LETTERS, null)
        (best,) = rows(answer(asked("a b c"), reader, self.NULL))
        for minimum, hides in ((best["probability"], False), (best["probability"] + 1e-6, True)):
            decoding = replace(self.NULL, min_probability=minimum)
            answered = answer(asked("a b c"), reader, decoding)
            (row,) = rows(answered)
            status = "no_answer" if sum(null) > 3 else "below_threshold" if hides else "answered"
            assert row["status"] == status
            assert answered.outcomes[0].counts[status] == 1
            shown = [row["answer_text"], row["answer_start"], row["answer_end"]]
            assert shown == (["b", 2, 3] if status == "answered" else [None] * 3)
            kept = ("probability", "span_score", "n_best", "null_probability", "window_index")
            assert [row[name] for name in kept] == [best[name] for name in kept]

    def test_thresholds_of_each_pair(self, words: Tokenizer):
        """Pairs by the order of their first rows: alike but for the thresholds."""
        reader = FakeReader(words, self.LETTERS, (1.0, 1.5))
        windowed = make_windows(make_chunk(asked("a b", "a b c", "b c", "b a")), words, LIMITS)
        predicted = predict_spans(windowed, reader, self.NULL, 200)
        decision = decide(
            predicted.spans,
            {},
            windowed.windows,
            windowed.row_pair,
            Thresholds(np.array([0.0, -0.6, 0.0, -0.6]), np.array([0.1, 0.1, 0.9, 0.9])),
        )
        assert decision.no_answer.tolist() == [False, True, False, True]
        assert decision.below_threshold.tolist() == [False, False, True, False]

    def test_null_has_its_share_of_the_probability(self, words: Tokenizer):
        (row,) = rows(
            answer(asked("a b c"), FakeReader(words, self.LETTERS, (1.0, 1.0)), self.NULL)
        )
        scores = spans_of("a b c", self.LETTERS, 4)
        total = math.fsum(math.exp(score) for score in scores.values()) + math.exp(2)
        assert row["null_probability"] == pytest.approx(math.exp(2) / total, rel=1e-5)
        assert row["probability"] == pytest.approx(math.exp(3) / total, rel=1e-5)

    def test_without_an_answer_the_candidates_stay(self, words: Tokenizer):
        (row,) = rows(
            answer(asked("a b c"), FakeReader(words, self.LETTERS, (9.0, 9.0)), self.NULL)
        )
        assert (row["answer_text"], row["answer_start"], row["answer_end"]) == (None, None, None)
        assert row["n_best"][0]["text"] == "b"
        assert row["probability"] == row["n_best"][0]["probability"]
        assert row["span_score"] == 3
        assert (row["window_index"], row["num_windows"], row["reason"]) == (0, 1, None)

    def test_off_means_that_it_plays_no_part(self, words: Tokenizer):
        with_null, without = (
            rows(answer(asked("a b c"), FakeReader(words, self.LETTERS, null)))[0]
            for null in ((99.0, 99.0), (math.nan, math.nan))
        )
        assert with_null == without
        assert with_null["status"] == "answered"
        assert (with_null["null_score"], with_null["null_probability"]) == (None, None)


class TestRejections:
    LETTERS: ClassVar[Letters] = {"a": (1.0, 0.0), "b": (2.0, 2.0), "d": (0.0, 3.0)}
    CONTEXTS = ("a b", "c a", "d a b")
    """The second is the one in trouble."""

    def check(self, answered: Answered, words: Tokenizer, reason: str, message: str) -> None:
        """The second row is rejected by name; the others are answered exactly as without it."""
        first, second, third = rows(answered)
        alone = rows(
            answer(asked(self.CONTEXTS[0], self.CONTEXTS[2]), FakeReader(words, self.LETTERS))
        )
        assert [first, third] == alone
        assert (second["status"], second["reason"]) == ("rejected", reason)
        assert {name for name, value in second.items() if value is not None} == {"status", "reason"}
        (rejection,) = answered.rejections
        assert (rejection.row, rejection.step, rejection.reason) == (1, "PredictSpans", reason)
        assert message in rejection.message
        assert answered.outcomes[0].counts["rejected"] == 1
        assert answered.outcomes[0].counts["answered"] == 2

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("side", [0, 1])
    def test_non_finite_logits(self, words: Tokenizer, value: float, side: int):
        logits = [0.0, 0.0]
        logits[side] = value
        reader = FakeReader(words, {**self.LETTERS, "c": (logits[0], logits[1])})
        self.check(
            answer(asked(*self.CONTEXTS), reader), words, "non_finite_logits", "not all finite"
        )

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
            (MemoryError("no memory"), "out_of_memory"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
            (RuntimeError("index out of range"), "model_error"),
            (ValueError("odd input"), "model_error"),
        ],
    )
    def test_errors_of_the_network(self, words: Tokenizer, error: Exception, reason: str):
        def refuse(letters: set[str]) -> None:
            if "c" in letters:
                raise error

        answered = answer(asked(*self.CONTEXTS), FakeReader(words, self.LETTERS, trouble=refuse))
        self.check(answered, words, reason, str(error))

    def test_no_admissible_span(self, words: Tokenizer):
        """No tokenizer of the tests gives only empty tokens: here they are made unfit."""
        reader = FakeReader(words, self.LETTERS)
        windowed = make_windows(make_chunk(asked(*self.CONTEXTS)), words, LIMITS)
        passages = windowed.windows.passages
        unfit = passages.can_start.copy()
        unfit[passages.bounds[1] : passages.bounds[2]] = False
        windowed = replace(
            windowed, windows=replace(windowed.windows, passages=replace(passages, can_start=unfit))
        )
        answered = decode_answers(predict_spans(windowed, reader, DECODING, 200), DECODING)
        self.check(
            answered,
            words,
            "no_admissible_span",
            "no token of the context can start and end an answer",
        )

    def test_every_row_of_a_pair_is_rejected(self, words: Tokenizer):
        reader = FakeReader(words, {"c": (math.nan, 0.0)})
        answered = answer(asked("c", "a", "c"), reader)
        assert [row["status"] for row in rows(answered)] == ["rejected", "answered", "rejected"]
        assert [rejection.row for rejection in answered.rejections] == [0, 2]

    def test_one_bad_window_rejects_the_whole_passage(self, words: Tokenizer):
        context = " ".join(["a"] * 40 + ["c"] + ["a"] * 5)
        answered = answer(
            asked(context, "b"), FakeReader(words, {**self.LETTERS, "c": (math.nan, 0.0)})
        )
        assert [row["reason"] for row in rows(answered)] == ["non_finite_logits", None]

    def test_earlier_rejections_come_first(self, words: Tokenizer):
        reader = FakeReader(words, {"c": (math.nan, 0.0)})
        answered = answer(asked("c", None, "a", " "), reader)
        assert [(rejection.row, rejection.reason) for rejection in answered.rejections] == [
            (0, "non_finite_logits"),
            (1, "context_missing"),
            (3, "context_blank"),
        ]
        assert [row["reason"] for row in rows(answered)] == [
            "non_finite_logits",
            "context_missing",
            None,
            "context_blank",
        ]


def test_counts_add_up(words: Tokenizer):
    reader = FakeReader(words, {"c": (math.nan, 0.0), "b": (4.0, 4.0)}, null=(3.0, 3.0))
    decoding = replace(DECODING, null=True)
    answered = answer(asked("c", None, "a", "b", "a", "b " * 40), reader, decoding)
    counts = answered.outcomes[0].counts
    assert counts["rows"] == 6 == counts["answered"] + counts["no_answer"] + counts["rejected"]
    assert (counts["answered"], counts["no_answer"], counts["rejected"]) == (2, 2, 2)
    assert counts["pairs"] == 4
    assert counts["windows"] == 3 + 2
    assert counts["padded_tokens"] >= counts["real_tokens"] > 0


def test_nothing_but_rejections_is_a_whole_table_too(words: Tokenizer):
    answered = answer(asked(None, " "), FakeReader(words))
    assert [row["status"] for row in rows(answered)] == ["rejected"] * 2
    assert np.isnan(answered.predicted.spans.null_score).all()


def test_for_an_audit_alone_no_answers_are_made(words: Tokenizer):
    windowed = make_windows(make_chunk(asked("a b")), words, LIMITS)
    predicted = predict_spans(windowed, FakeReader(words), DECODING, 100)
    assert decode_answers(predicted, DECODING, annotate=False).outcomes == ()
