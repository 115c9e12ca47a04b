"""Runs that are killed and restarted at random: equal content, and no part computed twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.runs import HOUSE, content, examples, run, write_input
from tests.started import start

ROWS = 240


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an input in several row groups, with golds, some rows rejected; and a question list."""
    table = examples(ROWS).set_column(
        1, "question", pa.array(["Who?" if n % 7 else None for n in range(ROWS)])
    )
    table = table.append_column(
        "answers", pa.array([{"text": ["Ada"], "answer_start": [28]}] * ROWS)
    )
    folder = tmp_path_factory.mktemp("kills")
    (folder / "questions.csv").write_text("question\nWho lit it?\nWhen?\n", "utf-8")
    return write_input(folder / "in.parquet", table, row_group_size=70)


def arguments_of(stage: str, source: Path, output: Path, model: Path) -> list[str]:
    return [
        *stage.split(),
        f"--input={source}",
        f"--output={output}",
        f"--model={model}",
        "--chunk_rows=6",
        "--dtype=float32",  # `auto` is timed, in each process
    ]


def committed(output: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of every part, which change if a part is rewritten."""
    folder = output / "parts"
    return (
        {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
        if folder.exists()
        else {}
    )


def kill_again_and_again(
    start_run: Callable[[], Any],
    stop: Callable[[Any, float], bool],
    output: Path,
    kills: int,
    seconds: float,
    seed: int,
) -> dict[str, int]:
    """Start a run and stop it within `seconds`, until `kills` runs were stopped, one with parts.

    A run that ends before is checked and its output cleared, and the next one starts from nothing.

    stop  ends a run after a number of seconds; returns whether it was still running
    """
    moments = random.Random(seed)
    figures = {"kills": 0, "runs that completed": 0, "kills after the first part": 0}
    kept: dict[str, tuple[int, int]] = {}
    while figures["kills"] < kills or not figures["kills after the first part"]:
        if stop(start_run(), moments.uniform(0, seconds)):
            figures["kills"] += 1
            figures["kills after the first part"] += bool(committed(output))
        else:
            figures["runs that completed"] += 1
            assert (output / "manifest.json").exists()
        assert kept.items() <= committed(output).items()  # no part is computed twice
        if (output / "manifest.json").exists():
            shutil.rmtree(output)
        kept = committed(output)
    return figures


def forked(
    arguments: list[str], log: Path
) -> tuple[Callable[[], Any], Callable[[Any, float], bool]]:
    """Return how a run is started in one process and killed as a whole."""

    def stop(process: Any, seconds: float) -> bool:
        process.join(seconds)
        if process.exitcode is not None:
            assert process.exitcode == 0, log.read_text()
            return False
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        return bool(process.exitcode == -signal.SIGKILL)

    return (lambda: start(arguments, log)), stop


def workers_of(process: int) -> list[int]:
    """Return Beam's worker processes below a process."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(path.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
            command = path.joinpath("cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == process:
            found += workers_of(int(path.name))
            if b"sdk_worker_main" in command and not command.startswith(b"/bin/sh"):
                found.append(int(path.name))
    return found


def in_processes(
    arguments: list[str], output: Path, log: Path
) -> tuple[Callable[[], Any], Callable[[Any, float], bool]]:
    """Return how a run with two workers is started, and one killed once it writes parts."""
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    command = [sys.executable, str(HOUSE / "run_pipeline.py"), *arguments, *options]
    environment = {**os.environ, "PYTHONPATH": str(HOUSE), "OMP_NUM_THREADS": "1"}

    def start_run() -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    def stop(process: subprocess.Popen[bytes], seconds: float) -> bool:
        before = committed(output)
        while process.poll() is None and (
            committed(output) == before or not workers_of(process.pid)
        ):
            time.sleep(0.05)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            workers = workers_of(process.pid)
            if workers:
                os.kill(random.choice(workers), signal.SIGKILL)
            try:
                code = process.wait(600)  # a run whose worker has died must end
            finally:
                process.kill()
        assert code in (0, 3), log.read_text()
        return code == 3

    return start_run, stop


def undisturbed(
    stage: str, source: Path, folder: Path, model: Path
) -> tuple[dict[str, Any], float]:
    """Return the output of such a run, and the seconds it takes in a process that is ready."""
    start(["--help"], folder / "log").join()  # starts the server of processes
    began = time.monotonic()
    process = start(arguments_of(stage, source, folder / "whole", model), folder / "log")
    process.join()
    assert process.exitcode == 0, (folder / "log").read_text()
    return content(folder / "whole"), time.monotonic() - began


def torment(
    stage: str,
    kills: int,
    source: Path,
    folder: Path,
    model: Path,
    seed: int,
    processes: bool = False,
) -> dict[str, int]:
    stage = stage.format(source.parent / "questions.csv")
    whole, seconds = undisturbed(stage, source, folder, model)
    output = folder / "out"
    arguments = arguments_of(stage, source, output, model)
    if processes:
        start_run, stop = in_processes(arguments, output, folder / "log")
        seconds /= 2
    else:
        start_run, stop = forked(arguments, folder / "log")
    figures = kill_again_and_again(start_run, stop, output, kills, seconds, seed)
    assert run(*arguments) == 0
    mine = content(output)
    assert mine.keys() == whole.keys()  # no temporary file is left, no file is missing
    assert mine == whole
    return figures


@pytest.mark.parametrize(
    ("stage", "kills"),
    [("annotate", 4), ("audit", 2), ("annotate --audit", 2), ("annotate --questions={}", 2)],
)
def test_a_few_kills(stage: str, kills: int, source: Path, tmp_path: Path, bert_folder: Path):
    torment(stage, kills, source, tmp_path, bert_folder, seed=5)


@pytest.mark.torture
@pytest.mark.parametrize("stage", ["annotate", "audit"])
def test_a_hundred_kills(
    stage: str, source: Path, tmp_path: Path, bert_folder: Path, capfd: pytest.CaptureFixture[str]
):
    figures = torment(stage, 100, source, tmp_path, bert_folder, seed=6)
    with capfd.disabled():
        print(f"\n{stage}: {figures}", flush=True)
    assert figures["kills after the first part"] >= 30


@pytest.mark.torture
@pytest.mark.parametrize("stage", ["annotate", "audit"])
def test_workers_that_are_killed(
    stage: str, source: Path, tmp_path: Path, bert_folder: Path, capfd: pytest.CaptureFixture[str]
):
    figures = torment(stage, 10, source, tmp_path, bert_folder, seed=7, processes=True)
    with capfd.disabled():
        print(f"\n{stage}, single workers: {figures}", flush=True)
