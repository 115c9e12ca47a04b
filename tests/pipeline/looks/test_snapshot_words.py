"""What snapshots say in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.looks.snapshot import Snapshot
from pipeline.looks.snapshot_words import (
    covered,
    describe_state,
    duration,
    figures,
    outcome_counts,
    share_done,
)

RUNNING = Snapshot(
    "/out",
    state="running",
    stage="annotate",
    parts=12,
    rows=24_000,
    planned_parts=50,
    planned_rows=100_000,
    receipts=10,
    outcomes={"answered": 19_000, "below_threshold": 1000},
    reasons={"question_missing": 7},
    rows_per_second=20.0,
    since_commit=75.4,
)


def test_figures_of_a_run():
    assert dict(figures(RUNNING)) == {
        "rows": "24,000 of 100,000 (24 %)",
        "parts": "12 of 50",
        "speed": "20.0 rows/s",
        "time left": "1 h 3 min",
        "last part": "1 min 15 s ago",
    }
    assert dict(figures(replace(RUNNING, exact=False)))["parts"] == "12 of about 50"
    assert share_done(RUNNING) == 0.24


def test_figures_that_are_unknown():
    unknown = Snapshot("/out", state="running", rows=5, parts=1)
    assert [value for _, value in figures(unknown)] == ["5", "1", "–", "–", "–"]
    assert share_done(unknown) is None


def test_an_estimate_that_was_too_low_does_not_give_more_than_all():
    assert share_done(replace(RUNNING, exact=False, planned_rows=20_000)) == 1.0


def test_the_accounting_and_what_it_covers():
    assert list(outcome_counts(RUNNING)) == [
        ("answered", 19_000),
        ("below threshold", 1000),
        ("reason: question_missing", 7),
    ]
    assert covered(RUNNING) == "rows of 10 parts (2 parts have not been read yet)"
    assert covered(replace(RUNNING, receipts=12, unit="questions")) == "questions of 12 parts"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "running"),
        ({"rows": 100_000}, "running: all parts are there, the last steps are not done"),
        ({"rows": 100_000, "exact": False}, "running"),
        ({"state": "complete"}, "complete"),
        ({"state": "incomplete", "why": ("1 files were refused", "2 chunks failed")},
         "incomplete; 1 files were refused; 2 chunks failed"),
        ({"state": "waiting"}, "waiting for a run to start: there is no run.json yet"),
        ({"trouble": "OSError: gone"}, "can't be read at the moment: OSError: gone"),
    ],
)  # fmt: skip
def test_states(changes: dict, words: str):
    assert describe_state(replace(RUNNING, **changes)) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.6, "1 min"),
        (75, "1 min 15 s"),
        (7260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
        (-3, "0 s"),
    ],
)
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words
