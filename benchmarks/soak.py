"""Run jobs on a store with faults for some minutes: each must end as a run without faults does.

    python -m benchmarks.soak [--minutes 30] [--seed 1]

Each run has a fault of a random kind at a random operation (tests/faults.py) and is restarted until
it is complete. Prints the ends of runs, retries, and memory and open files before and after.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.checkpoints import build_bert
from tests.faults import KINDS, Fault, FaultyFileSystem
from tests.runs import examples, run

ROWS = 400


def content() -> dict[str, str]:
    """Return the names of all files, with the content digest for manifests and "" for others."""
    files = FaultyFileSystem.store
    manifests = {
        name: json.loads(file.getvalue())["content"]
        for name, file in files.items()
        if name.endswith("/manifest.json")
    }
    return {**dict.fromkeys(files, ""), **manifests}


def usage() -> dict[str, float]:
    """Return memory and open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20),
        "open_files": len(os.listdir("/proc/self/fd")),
    }


def clear() -> None:
    """Remove the output from the store."""
    for name in [name for name in FaultyFileSystem.store if name.startswith("/bucket/out/")]:
        del FaultyFileSystem.store[name]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    choose = random.Random(options.seed)

    # The input in the store, and a tiny checkpoint.
    model = build_bert(Path(tempfile.mkdtemp(prefix="spanmill-soak-")))
    sink = io.BytesIO()
    golds = pa.array([{"text": ["Ada"], "answer_start": [28]}] * ROWS)
    pq.write_table(examples(ROWS).append_column("answers", golds), sink, row_group_size=150)
    FaultyFileSystem().pipe_file("/bucket/in/a.parquet", sink.getvalue())
    arguments = ["annotate", "--audit", f"--model={model}", "--chunk_rows=40"]
    arguments += ["--input=faulty://bucket/in/*.parquet", "--output=faulty://bucket/out"]

    def once(*more: str) -> int:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return run(*arguments, *more)

    # A run without faults: the expected content, and the number of operations.
    FaultyFileSystem.fault = counting = Fault("none", 0)
    assert once() == 0
    expected, operations = content(), len(counting.done)

    # Runs with a fault each.
    ends: Counter[str] = Counter()
    retries = runs = 0
    before = usage()
    until = time.monotonic() + 60 * options.minutes
    while time.monotonic() < until:
        clear()
        kind = choose.choice(KINDS)
        FaultyFileSystem.fault = Fault(kind, choose.randint(1, operations))
        code = once()
        FaultyFileSystem.fault = None
        ends[f"{kind}: exit {code}"] += 1
        # A rerun resumes; if it is refused, run.json was damaged and the output starts anew.
        if code and once() == 2:
            assert once("--overwrite") == 0
        assert content() == expected, f"{kind} in run {runs}"
        retries += json.loads(FaultyFileSystem.store["/bucket/out/manifest.json"].getvalue())[
            "retries"
        ]
        runs += 1
    print(
        json.dumps(
            {
                "runs": runs,
                "retries": retries,
                "ends": dict(sorted(ends.items())),
                "before": before,
                "after": usage(),
            }
        )
    )


if __name__ == "__main__":
    main()
