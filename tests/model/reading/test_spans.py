from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.reading.spans import ValidSpans, decode_windows, order_keys
from tests.model.brute_force import Span, log_normaliser

UNBOUNDED = 2**31 - 1


# The order of candidates


@given(
    st.lists(
        st.floats(width=32, allow_nan=False)
        | st.sampled_from([0.0, -0.0, math.inf, -math.inf, 2.0**-149]),
        min_size=1,
    )
)
def test_order_keys_sort_by_score_then_lowest_index(scores: list[float]) -> None:
    index = torch.arange(len(scores))
    keys = order_keys(torch.tensor(scores), index)
    assert keys.argsort(descending=True).tolist() == sorted(
        range(len(scores)), key=lambda k: (-scores[k], k)
    )
    assert len(set(keys.tolist())) == len(scores)


def test_order_keys_distinguish_indices_up_to_32_bits() -> None:
    index = torch.tensor([2**32 - 1, 0, 2**31])
    assert order_keys(torch.zeros(3), index).argsort(descending=True).tolist() == [1, 2, 0]
    assert order_keys(torch.tensor([-0.0, 0.0]), torch.tensor([0, 1])).argsort(
        descending=True
    ).tolist() == [0, 1]


# One window


def decode(start_logits: Any, end_logits: Any, **changes: Any) -> list[tuple[int, int, float]]:
    """Return (start, end, score) of the candidates of one window; by default it owns all spans."""
    logits = torch.tensor([start_logits, end_logits], dtype=torch.float32)
    length = logits.shape[1]
    settings = {
        "max_answer_length": length,
        "n_best": 3,
        "temperature": 1.0,
        "low": -UNBOUNDED,
        "high": UNBOUNDED,
    }
    settings |= {"can_start": [True] * length, "can_end": [True] * length} | changes
    bounds = torch.tensor([[settings.pop("low")], [settings.pop("high")]])
    masks = torch.tensor([settings.pop("can_start"), settings.pop("can_end")])
    spans = ValidSpans(masks[:1], masks[1:], *bounds, settings.pop("max_answer_length"))
    start, end, a, b, _ = decode_windows(logits[:1], logits[1:], spans, **settings)
    valid = a[0] > -math.inf
    return list(
        zip(
            start[0][valid].tolist(),
            end[0][valid].tolist(),
            (a + b)[0][valid].tolist(),
            strict=True,
        )
    )


def test_the_best_spans_of_a_hand_worked_window() -> None:
    assert decode([1, 5, 0], [0, 4, 2]) == [(1, 1, 9), (1, 2, 7), (0, 1, 5)]


def test_a_span_never_ends_before_it_starts() -> None:
    assert decode([0, 0, 9], [9, 0, 0], n_best=1) == [(0, 0, 9)]
    assert decode([0, 0, 9], [8, 0, 1], n_best=1) == [(2, 2, 10)]


def test_equal_scores_go_to_the_lowest_start_then_the_shortest() -> None:
    assert decode([0, 0, 0], [0, 0, 0], n_best=6) == [
        (0, 0, 0),
        (0, 1, 0),
        (0, 2, 0),
        (1, 1, 0),
        (1, 2, 0),
        (2, 2, 0),
    ]
    assert decode([-0.0, 0.0], [-0.0, 0.0], n_best=3) == [(0, 0, 0), (0, 1, 0), (1, 1, 0)]


def test_max_answer_length_counts_tokens() -> None:
    assert decode([9, 0, 0], [0, 0, 9], max_answer_length=2)[0] == (0, 0, 9)
    assert decode([9, 0, 0], [0, 0, 9], max_answer_length=3)[0] == (0, 2, 18)


def test_only_owned_spans_count() -> None:
    assert decode([9, 0, 0], [9, 0, 0], low=1, high=3, n_best=4) == [
        (0, 1, 9),
        (0, 2, 9),
        (1, 1, 0),
    ]


def test_fewer_spans_than_n_best() -> None:
    assert decode([1, 1], [1, 1], can_start=[False, True], n_best=5) == [(1, 1, 2)]
    assert decode([1, 1], [1, 1], can_start=[False, False], n_best=5) == []
    assert decode([1], [2], n_best=50, max_answer_length=400) == [(0, 0, 3)]


def test_log_mass_is_minus_infinity_where_no_span_is_owned() -> None:
    logits, mask, bound = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), torch.tensor([0])
    spans = ValidSpans(mask, ~mask, -bound - 9, bound + 9, max_answer_length=2)
    *_, log_mass = decode_windows(logits, logits, spans, n_best=1, temperature=1.0)
    assert log_mass.tolist() == [-math.inf]


@st.composite
def single_windows(draw: st.DrawFn) -> dict[str, Any]:
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    level = st.integers(-2, 2).map(float) if draw(st.booleans()) else st.floats(-30, 30, width=32)

    def table(values: st.SearchStrategy) -> list[list[Any]]:
        return [[draw(values) for _ in range(length)] for _ in range(rows)]

    lows = [draw(st.sampled_from([-UNBOUNDED, 0, 2, 5])) for _ in range(rows)]
    longest = draw(st.integers(1, length + 2))
    own = draw(
        st.sampled_from(
            [
                None,
                [[draw(st.integers(1, longest))] for _ in range(rows)],
                table(st.integers(0, longest)),
            ]
        )
    )
    return {
        "start_logits": torch.tensor(table(level)),
        "end_logits": torch.tensor(table(level)),
        "can_start": torch.tensor(table(st.booleans())),
        "can_end": torch.tensor(table(st.booleans())),
        "owned_low": torch.tensor(lows),
        "owned_high": torch.tensor(
            [draw(st.sampled_from([low + 1, low + 4, UNBOUNDED])) for low in lows]
        ),
        "max_answer_length": longest,
        "longest": None if own is None else torch.tensor(own),
        "n_best": draw(st.integers(1, 12)),
        "temperature": draw(st.sampled_from([0.5, 1.0, 2.0])),
    }


@given(single_windows())
def test_decoding_equals_brute_force(window: dict[str, Any]) -> None:
    spans = ValidSpans(*(window[name] for name in ValidSpans._fields))
    settings = {name: window[name] for name in ("n_best", "temperature")}
    start, end, start_logit, end_logit, log_mass = decode_windows(
        window["start_logits"], window["end_logits"], spans, **settings
    )
    n_best = window["n_best"]
    rows, length = window["start_logits"].shape
    for row in range(rows):
        own = window["longest"]
        most = torch.tensor(window["max_answer_length"]) if own is None else own[row]
        longest = most.expand(length).tolist()
        a, b, can_start, can_end, low, high = (
            window[name][row].tolist()
            for name in (
                "start_logits",
                "end_logits",
                "can_start",
                "can_end",
                "owned_low",
                "owned_high",
            )
        )
        spans = [
            Span(i, j, a[i], b[j], 0)
            for i in range(length)
            for j in range(i, min(i + longest[i], length))
            if can_start[i] and can_end[j] and low <= i + j < high
        ]
        best = sorted(spans, key=lambda span: (-span.score, span.start, span.end))[:n_best]
        kept = len(best)
        assert start[row, :kept].tolist() == [span.start for span in best]
        assert end[row, :kept].tolist() == [span.end for span in best]
        assert start_logit[row].tolist() == [span.start_logit for span in best] + [-math.inf] * (
            n_best - kept
        )
        assert end_logit[row].tolist() == [span.end_logit for span in best] + [-math.inf] * (
            n_best - kept
        )
        expected = log_normaliser([span.score for span in spans], window["temperature"])
        assert log_mass[row].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
