"""The formulas of docs/scale.md agree with plans, simulated work, and a real manifest."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.runs import HOUSE
from transforms.merge_receipts import Totals
from transforms.plan_chunks import ChunkSize, plan_file
from transforms.records import ChunkRun, InputFile
from transforms.write_manifest import manifest

WORKERS = 10


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    return runpy.run_path(str(HOUSE / "benchmarks" / "plan_scale.py"))


@pytest.fixture(scope="module")
def folder(benchmark: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return forty files of 500 rows in two row groups."""
    made = tmp_path_factory.mktemp("corpus") / "in"
    benchmark["link_files"](made, 40, 500)
    return made


def planned(folder: Path, size: ChunkSize) -> list[ChunkRun]:
    files = enumerate(sorted(folder.iterdir()))
    listed = [
        InputFile(place, str(path), path.stat().st_size, "", path.name) for place, path in files
    ]
    return [run for file in listed for run in plan_file(file, pq.read_metadata(file.path), size)]


@pytest.mark.parametrize(
    "size",
    [ChunkSize(100, 2**20), ChunkSize(2048, 2**20), ChunkSize(2048, 2000), ChunkSize(7, 2**20, 4)],
)
def test_chunks(folder: Path, size: ChunkSize):
    by_formula = 0
    for path in folder.iterdir():
        metadata = pq.read_metadata(path)
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            step = min(size.rows, size.bytes // (group.total_byte_size / group.num_rows))
            by_formula += math.ceil(group.num_rows / step)
    runs = planned(folder, size)
    assert sum(len(run.chunks) for run in runs) == by_formula
    assert max(len(run.chunks) for run in runs) <= 16
    assert sum(chunk.rows for run in runs for chunk in run.chunks) == 40 * 500


@pytest.mark.parametrize("uneven", [False, True])
def test_hours_lie_between_the_work_of_a_worker_and_that_with_the_tail(
    benchmark: dict[str, Any], folder: Path, uneven: bool
):
    plan = enumerate(planned(folder, ChunkSize(100, 2**20)))
    runs = [
        sum(chunk.rows for chunk in run.chunks) * (1.0 + place % 7 if uneven else 1.0)
        for place, run in plan
    ]
    share, longest = sum(runs) / WORKERS, max(runs)
    assert share <= benchmark["makespan"](runs, WORKERS) <= share + longest
    slowed = sum(runs) / (WORKERS - 0.9)
    assert slowed <= benchmark["slow_worker"](runs, WORKERS) <= slowed + 10 * longest


def test_the_figures_of_a_trial_give_back_its_own_seconds():
    """The formula is R t / (v (1 - o)), with all values from the manifest."""
    totals = Totals(chunks=1, seconds={"PredictSpans": 80.0, "ReadChunk": 20.0})
    totals.counts.update(rows=500, answered=500, real_tokens=100_000, padded_tokens=125_000)
    trial = manifest("annotate", totals, {}, 0.5)
    rows = trial["rows"]["planned"]
    tokens_per_row = trial["tokens"]["real"] / rows
    network = trial["steps"]["PredictSpans"]
    outside = 1 - network["seconds"] / sum(step["seconds"] for step in trial["steps"].values())
    assert rows * tokens_per_row / (network["tokens_per_second"] * (1 - outside)) == pytest.approx(
        100.0
    )
