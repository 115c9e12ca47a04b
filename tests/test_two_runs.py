"""Two runs that write into one output: it is harmless, or one ends; never a mixture."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.runs import content, examples, wait_until, write_input
from tests.started import start


@pytest.fixture
def arguments(tmp_path: Path, bert_folder: Path) -> list[str]:
    write_input(tmp_path / "in.parquet", examples(300), row_group_size=100)
    source, model = f"--input={tmp_path}/in.parquet", f"--model={bert_folder}"
    return ["annotate", source, model, "--dtype=float32"]  # `auto` is timed, in each process


def alone(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Return the output of a run without competition."""
    process = start([*arguments, f"--output={folder}/alone"], folder / "log")
    process.join()
    assert process.exitcode == 0
    return content(folder / "alone")


def test_the_same_run_twice_at_a_time_is_harmless(tmp_path: Path, arguments: list[str]):
    arguments = [*arguments, "--chunk_rows=10"]
    whole = alone(arguments, tmp_path)
    processes = [
        start([*arguments, f"--output={tmp_path}/out"], tmp_path / f"log {n}") for n in (1, 2)
    ]
    for process in processes:
        process.join()
    codes = sorted(process.exitcode for process in processes)
    # The one that ends first may miss the manifest, which the other still has to write.
    assert codes in (
        [0, 0],
        [0, 3],
    )
    assert content(tmp_path / "out") == whole


def test_a_run_whose_output_is_overwritten_ends_and_leaves_nothing(
    tmp_path: Path, arguments: list[str]
):
    other = [*arguments, "--chunk_rows=30", "--n_best=2"]
    whole = alone(other, tmp_path)
    first = start([*arguments, "--chunk_rows=3", f"--output={tmp_path}/out"], tmp_path / "first")
    parts, owner = tmp_path / "out" / "parts", tmp_path / "out" / "run.json"
    wait_until(lambda: parts.exists() and len(list(parts.iterdir())) >= 3)
    os.kill(first.pid, signal.SIGSTOP)  # else it might finish before the second begins
    claimed = owner.read_bytes()
    second = start([*other, f"--output={tmp_path}/out", "--overwrite"], tmp_path / "second")
    wait_until(lambda: owner.exists() and owner.read_bytes() != claimed)
    os.kill(first.pid, signal.SIGCONT)
    for process in (first, second):
        process.join()
    assert first.exitcode == 3
    assert (
        "now belongs to another run: this run writes no more files there"
        in (tmp_path / "first").read_text()
    )
    assert second.exitcode == 0, (tmp_path / "second").read_text()
    assert content(tmp_path / "out") == whole
