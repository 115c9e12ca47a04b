"""WriteManifest: a run is complete unless rows, chunks, files or too many rows are lost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.transforms.fakes import claimed
from tests.transforms.report.samples import ABOUT
from transforms.accounting import StageOutput
from transforms.merge_receipts import Totals
from transforms.retries import retried, take_retries
from transforms.write_manifest import manifest, write_manifests


def totals(
    answered: int = 0,
    no_answer: int = 0,
    rejected: int = 0,
    lost: int = 0,
    below_threshold: int = 0,
    **others: Any,
) -> Totals:
    """Return totals of rows by status; `lost` rows have none."""
    counts = Counter(
        answered=answered,
        no_answer=no_answer,
        below_threshold=below_threshold,
        rejected=rejected,
    )
    return Totals(chunks=2, counts=counts + Counter(rows=counts.total() + lost), **others)


def state(of: Totals, max_failed_fraction: float = 0.5) -> tuple[str, list[str]]:
    made = manifest("annotate", of, {}, max_failed_fraction)
    return made["state"], made["why"]


def test_complete():
    assert state(totals(8, 1, 1)) == ("complete", [])
    assert state(Totals()) == ("complete", [])
    assert state(Totals(), 0.0) == ("complete", [])


@pytest.mark.parametrize(
    ("of", "allowed", "why"),
    [
        (totals(9, refused_files=2), 1, "2 files were refused"),
        (totals(9, failed_chunks=1, failed_rows=3), 1, "1 chunks failed"),
        (totals(9, failed_steps=["WriteAudit"]), 1, "WriteAudit failed"),
        (totals(9, lost=1), 1, "1 rows are not accounted for"),
        (totals(9, lost=-1), 1, "-1 rows are not accounted for"),
        (
            totals(4, rejected=6),
            0.5,
            "6 of 10 rows were rejected or failed, more than --max_failed_fraction=0.5",
        ),
        (
            totals(9, rejected=1),
            0,
            "1 of 10 rows were rejected or failed, more than --max_failed_fraction=0",
        ),
    ],
)
def test_incomplete_says_why(of: Totals, allowed: float, why: str):
    assert state(of, allowed) == ("incomplete", [why])


@pytest.mark.parametrize(("rejected", "expected"), [(5, "complete"), (6, "incomplete")])
def test_the_allowed_share_itself_is_allowed(rejected: int, expected: str):
    assert state(totals(10 - rejected, rejected=rejected))[0] == expected


def test_rows_in_failed_chunks_count_towards_the_share():
    _, why = state(totals(4, rejected=2, failed_chunks=1, failed_rows=4))
    assert why == [
        "1 chunks failed",
        "6 of 10 rows were rejected or failed, more than --max_failed_fraction=0.5",
    ]


def test_rows_planned_are_the_sum_of_what_became_of_them():
    of = totals(5, 3, 2, below_threshold=4, failed_chunks=1, failed_rows=7)
    rows = manifest("annotate", of, {}, 1)["rows"]
    assert rows == {
        "planned": 21,
        "answered": 5,
        "no_answer": 3,
        "below_threshold": 4,
        "rejected": 2,
        "in_failed_chunks": 7,
    }


def test_the_audit_accounts_by_its_own_statuses():
    of = Totals(counts=Counter(rows=10, scored=4, null_scored=3, unreachable=2, rejected=1))
    made = manifest("audit", of, {}, 0.5)
    assert made["rows"] == {
        "planned": 10,
        "scored": 4,
        "null_scored": 3,
        "unreachable": 2,
        "rejected": 1,
        "in_failed_chunks": 0,
    }
    assert made["state"] == "complete"


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_parts_that_were_lost_or_are_of_another_run_are_told(parts: int):
    """A store may lose a write that it reported; a worker of another run may write late."""
    made = manifest("annotate", totals(9), {}, 0.5, parts)
    assert made["why"] == [
        f"the output has {parts} parts, but 2 chunks were finished: parts were lost, or belong to "
        "another run"
    ]
    assert manifest("annotate", totals(9), {}, 0.5, 2)["state"] == "complete"


def test_a_failed_chunk_may_have_a_part_of_the_other_stage():
    of = totals(9, failed_chunks=1, failed_rows=3)
    assert [manifest("annotate", of, {}, 1, parts)["why"] for parts in (1, 2)] == [
        ["1 chunks failed"]
    ] * 2


def test_lost_rejections_are_told():
    lost = manifest("annotate", totals(9, rejecting=2), {}, 1, 2, 1)
    assert lost["why"] == [
        "the output has 1 files of rejections, but 2 were written: some were lost"
    ]
    assert manifest("annotate", totals(9, rejecting=2), {}, 1, 2, 2)["state"] == "complete"


def test_retries_are_told(tmp_path: Path):
    about = {"configuration": {}}
    take_retries()
    failing = iter([OSError("odd"), None])

    @retried
    def operation() -> None:
        error = next(failing)
        if error:
            raise error

    operation()
    write_manifests({"annotate": Totals(retries=3)}, (StageOutput(claimed(tmp_path), about),), 0.5)
    assert json.loads((tmp_path / "manifest.json").read_text("utf-8"))["retries"] == 4


def test_figures():
    of = totals(3)
    of.counts.update(real_tokens=200, padded_tokens=250, windows=5, pairs=3, question_tokens_cut=4)
    of.seconds.update(PredictSpans=2.0, ReadChunk=0.0)
    of.reasons.update(z=1, a=2)
    of.content = 255
    made = manifest("annotate", of, {"stage": "annotate"}, 1)
    assert made["tokens"] == {"real": 200, "padded": 250, "padding": 0.25}
    assert (made["windows"], made["distinct_pairs"], made["question_tokens_cut"]) == (5, 3, 4)
    assert made["steps"] == {
        "PredictSpans": {"seconds": 2.0, "tokens_per_second": 100},
        "ReadChunk": {"seconds": 0.0, "tokens_per_second": 0},
    }
    assert list(made["reasons"].items()) == [("a", 2), ("z", 1)]
    assert made["content"] == "0" * 30 + "ff"
    assert list(made)[:3] == ["state", "why", "stage"]
    assert manifest("annotate", Totals(), {}, 1)["tokens"]["padding"] == 0


def test_a_price_gives_the_cost():
    seconds = {"ReadChunk": 360.0, "PredictSpans": 3240.0}
    of, priced = totals(400, 90, 10, seconds=seconds), {"price_per_hour": 0.6}
    made = manifest("annotate", of, priced, 0.5)
    assert made["cost"] == {"worker_hours": 1.0, "total": 0.6, "per_1000_rows": 1.2}
    listed = manifest("annotate", of, {**priced, "questions": 2}, 0.5)
    assert listed["cost"]["per_1000_questions"] == 1.2  # asks are counted in place of rows
    assert manifest("annotate", Totals(), priced, 0.5)["cost"]["per_1000_rows"] == 0.0
    assert "cost" not in manifest("annotate", of, {}, 0.5)


def test_failures_are_listed_and_the_rest_counted():
    of = totals(1, failed_chunks=5, failed_rows=5, refused_files=2)
    of.failures = [("/in/a.parquet", 1, 4, 2, "ReadChunk", "odd")]
    made = manifest("annotate", of, {}, 1)
    place = {"path": "/in/a.parquet", "row_group": 1, "row_start": 4, "rows": 2}
    assert made["failures"] == [{**place, "step": "ReadChunk", "error": "odd"}]
    assert made["failures_not_listed"] == 6


def test_every_stage_has_its_own_file(tmp_path: Path):
    about = {**ABOUT, "who": "größe"}
    audit = StageOutput(claimed(tmp_path / "audit", "audit"), about)
    outputs = (audit, StageOutput(claimed(tmp_path), about))
    of = {"audit": Totals(counts=Counter(rows=2, scored=2)), "annotate": totals(1, lost=1)}
    assert write_manifests(of, outputs, 0.5) == "incomplete"
    assert json.loads((tmp_path / "manifest.json").read_text("utf-8"))["state"] == "incomplete"
    assert (
        json.loads((tmp_path / "audit" / "manifest.json").read_text("utf-8"))["rows"]["scored"] == 2
    )
    assert "größe" in (tmp_path / "manifest.json").read_text("utf-8")
    assert {path.name for path in tmp_path.rglob("*.json")} == {"run.json", "manifest.json"}, (
        "and nothing else"
    )
