"""Measure the time to the first batch: imports, model, planning of 1,000 files of 10 row groups.

    python -m benchmarks.startup [--files 1000] [--rounds 5]

Prints medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.synthetic import SAMPLE

ROOT = Path(__file__).parent.parent
_RUN = """
import time; began = time.time()
import json, os, sys
import run_pipeline
imported = time.time()
import pipeline.job.resolve, model.reading.read_pairs
load = pipeline.job.resolve._reader
def timed(*arguments):
    global loading, loaded
    loading = time.time(); reader = load(*arguments); loaded = time.time()
    return reader
pipeline.job.resolve._reader = timed
def first(*arguments, **named):
    at = time.time()
    figures = {"imports": imported - began, "model": loaded - loading}
    figures["to first batch"] = at - float(os.environ["BEGAN"])
    print(json.dumps(figures), flush=True)
    os._exit(0)
assert model.reading.read_pairs.predict  # what PredictSpans runs the network with
model.reading.read_pairs.predict = first
run_pipeline.main(sys.argv[1:])
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--row_groups", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = pq.read_table(SAMPLE).slice(0, 2 * options.row_groups)
    with tempfile.TemporaryDirectory() as folder:
        for k in range(options.files):
            # Ids are unique over all files, which share their other columns.
            named = rows.set_column(0, "id", pa.array([f"{k}-{row}" for row in range(len(rows))]))
            pq.write_table(named, f"{folder}/{k:05d}.parquet", row_group_size=2)
        runs = []
        for k in range(options.rounds):
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "BEGAN": str(time.time())}
            command = ["annotate", f"--input={folder}/*.parquet", f"--output={folder}/out{k}"]
            finished = subprocess.run(
                [sys.executable, "-c", _RUN, *command],
                stdout=subprocess.PIPE,
                check=True,
                text=True,
                env=environment,
            )
            runs.append(json.loads(finished.stdout.splitlines()[-1]))
            print(runs[-1], flush=True)
    for part in runs[0]:
        values = [run[part] for run in runs]
        print(
            f"{part}: median {statistics.median(values):.2f} s "
            f"({min(values):.2f} to {max(values):.2f})"
        )


if __name__ == "__main__":
    main()
