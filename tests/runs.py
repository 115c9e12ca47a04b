"""Jobs as users run them: write an input, call `run_pipeline.main`, reopen the output."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import run_pipeline

HOUSE = Path(__file__).parent.parent

Annotate = Callable[..., int]
"""The fixture `annotate`."""

EXACT = [
    "answer_text",
    "answer_start",
    "answer_end",
    "window_index",
    "num_windows",
    "status",
    "reason",
    "question_tokens_cut",
]
"""Columns that do not depend on the other rows of a batch, apart from near-ties."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that imports this tree."""
    return {**os.environ, "PYTHONPATH": str(HOUSE), "OMP_NUM_THREADS": "1", **more}


def examples(count: int, first: int = 0) -> pa.Table:
    """Return rows that differ in id, question and context."""
    numbers = range(first, first + count)
    return pa.table(
        {
            "id": [f"row {n}" for n in numbers],
            "question": [f"Who kept lamp {n}?" for n in numbers],
            "context": [
                f"In the year {1800 + n} the keeper Ada lit lamp {n}. "
                f"The sea 🌊 was calm, 灯台 said {n}."
                for n in numbers
            ],
        }
    )


def ada(table: pa.Table, *others: int) -> pa.Table:
    """Give every row the gold `Ada`, and the rows `others` the gold `keeper`."""
    golds = []
    for row, context in enumerate(table["context"].to_pylist()):
        text = "keeper" if row in others else "Ada"
        golds.append({"text": [text], "answer_start": [context.index(text)]})
    return table.append_column("answers", pa.array(golds))


def wait_until(condition: Callable[[], bool], seconds: float = 600) -> None:
    """Wait until a condition holds.

    The limit is for tests that hang: slow machines do not reach it.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.05)


def write_input(path: Path, table: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def run(*arguments: str | Path) -> int:
    """Return the exit code of `run_pipeline.py ARGUMENTS...`, run in this process.

    Its signal handlers are removed afterwards.
    """
    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        return run_pipeline.main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def read_manifest(output: Path) -> dict[str, Any]:
    return json.loads((output / "manifest.json").read_text("utf-8"))


def part_files(output: Path) -> list[Path]:
    return sorted((output / "parts").iterdir())


def read_parts(output: Path) -> pa.Table:
    """Return all parts as one table, in the order of their names. Fails if their schemas differ."""
    return pa.concat_tables([pq.ParquetFile(path).read() for path in part_files(output)])


def read_rejections(output: Path) -> list[dict[str, Any]]:
    folder = output / "rejections"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [row for path in files for row in pq.ParquetFile(path).read().to_pylist()]


def identities(output: Path) -> dict[str, tuple[int, int]]:
    """Return inode and modification time of every part, which change if a part is rewritten."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in part_files(output)}


def content(output: Path) -> dict[str, Any]:
    """Return the output of a run by file name, without its times and retries.

    Two runs at a time are in each other's way: what was retried is counted.
    """
    found: dict[str, Any] = {}
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        name = str(path.relative_to(output))
        if path.suffix == ".parquet":
            found[name] = pq.ParquetFile(path).read().to_pylist()
        elif path.name == "manifest.json":
            found[name] = {
                key: value
                for key, value in json.loads(path.read_bytes()).items()
                if key not in ("steps", "retries")
            }
        else:
            found[name] = path.read_bytes()
    return found
