"""The accounting in words: it adds up, names failures, and fits on a screen."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pipeline.looks.summary import accounting, audit_figures
from tests.transforms.report.samples import ABOUT
from transforms.merge_receipts import Totals
from transforms.write_audit import audit_report
from transforms.write_manifest import manifest


def printed(**values: Any) -> str:
    counts = Counter(
        rows=10,
        answered=4,
        no_answer=1,
        below_threshold=2,
        rejected=3,
        windows=12,
        pairs=9,
        real_tokens=1000,
        padded_tokens=1100,
    )
    return accounting(
        manifest("annotate", Totals(**{"chunks": 2, "counts": counts, **values}), {}, 0.5), "/out"
    )


def test_a_complete_run():
    lines = printed(
        reasons=Counter(question_blank=3), seconds=Counter(ReadChunk=1, PredictSpans=3)
    ).splitlines()
    assert lines == [
        "10 rows = 4 answered + 1 no answer + 2 below threshold + 3 rejected + 0 in failed chunks",
        "  question_blank: 3",
        "12 windows of 9 distinct pairs, 1000 tokens, 10.0 % padding",
        "4.0 s of work: PredictSpans 75 %, ReadChunk 25 %",
        "complete: /out",
    ]


def test_of_windows_that_were_left_unread_the_number_of_the_others_is_printed():
    text = printed(counts=Counter(windows=12, windows_read=5, pairs=9))
    assert "12 windows of 9 distinct pairs, 5 of them read, " in text


def test_nothing_of_a_file_steers_the_terminal():
    """Names of files, and messages about their content, may have any characters."""
    failures = [("/in/\x1b[2J.parquet", -1, 0, 0, "PlanChunks", "no column '\x9b31m\u202egnp\r'")]
    text = printed(refused_files=1, failures=failures)
    assert all(each.isprintable() or each == "\n" for each in text)
    assert "failed: /in/\\x1b[2J.parquet" in text


def test_retries_are_told_where_there_were_any():
    assert "3 retries after faults of the store" in printed(retries=3).splitlines()


def test_the_sum_is_that_of_the_rows():
    first = printed(failed_chunks=1, failed_rows=4).splitlines()[0]
    planned, parts = first.split(" rows = ")
    assert int(planned) == sum(int(part.split()[0]) for part in parts.split(" + ")) == 14


def test_failures_say_where_and_why_and_a_file_has_no_row_group():
    failures = [
        ("/in/a.parquet", 2, 0, 4, "ReadChunk", "OSError: odd"),
        ("/in/b.parquet", -1, 0, 0, "PlanChunks", "no Parquet"),
    ]
    lines = printed(failed_chunks=1, failed_rows=4, refused_files=1, failures=failures).splitlines()
    assert "failed: /in/a.parquet, row group 2, 4 rows, ReadChunk: OSError: odd" in lines
    assert "failed: /in/b.parquet, 0 rows, PlanChunks: no Parquet" in lines
    assert lines[-3:] == ["incomplete: /out", "  1 files were refused", "  1 chunks failed"]


def test_of_many_failures_the_first_are_shown_and_the_rest_counted():
    failures = [("/in/a.parquet", group, 0, 1, "ReadChunk", "odd") for group in range(50)]
    text = printed(failed_chunks=70, failed_rows=70, failures=failures)
    assert text.count("failed: ") == 20
    assert "... and 50 more failures (see /out/manifest.json)" in text


def test_nothing_done_is_no_division_by_zero():
    assert accounting(manifest("annotate", Totals(), {}, 0.5), "/out").splitlines() == [
        "0 rows = 0 answered + 0 no answer + 0 below threshold + 0 rejected + 0 in failed chunks",
        "0 windows of 0 distinct pairs, 0 tokens, 0.0 % padding",
        "complete: /out",
    ]


@pytest.mark.parametrize(
    ("totals", "why"),
    [
        (
            Totals(reasons=Counter(gold_misaligned=2, answers_missing=1), failed_rows=4),
            "1 answers_missing, 2 gold_misaligned, 4 in failed chunks",
        ),
        (Totals(), "there are no rows"),
    ],
)
def test_an_audit_that_scored_nothing_says_why(totals: Totals, why: str):
    assert audit_figures(audit_report(totals, ABOUT)) == f"nothing was scored: {why}"
