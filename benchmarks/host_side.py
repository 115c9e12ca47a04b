"""Measure everything apart from the network: windows per second and core, Parquet to Parquet.

    python -m benchmarks.host_side --input eval_squad_v1.parquet [--rows 4000] [--steps]

The network costs almost nothing; there is one thread. `--steps` profiles one more run and prints
where its time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import logging
import pstats
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch

from benchmarks.free_reader import run_free
from benchmarks.machine import describe


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True)
    parser.add_argument("--stage", default="annotate", choices=["annotate", "audit"])
    parser.add_argument("--rows", type=int, default=10**9, help="only the first N rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", action="store_true", help="profile one more run")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        corpus = f"{folder}/rows.parquet"
        pq.write_table(pq.read_table(options.input).slice(0, options.rows), corpus)

        def once(name: str) -> dict:
            run_free([options.stage, f"--input={corpus}", f"--output={folder}/{name}"])
            return json.loads(Path(f"{folder}/{name}/manifest.json").read_text())

        # The first run loads what later runs find in caches.
        manifest = once("warm")
        seconds = []
        for k in range(options.rounds):
            begun = time.process_time()
            once(str(k))
            seconds.append(time.process_time() - begun)
        windows = manifest["windows"]
        speeds = sorted(windows / each for each in seconds)
        print(
            f"{options.stage}, {Path(options.input).stem}: {windows} windows, "
            f"CPU seconds {[round(each, 2) for each in seconds]}"
        )
        print(
            f"{statistics.median(speeds):.0f} windows per second and core "
            f"({speeds[0]:.0f} to {speeds[-1]:.0f})"
        )
        print(json.dumps(describe()))
        if options.steps:
            profile = cProfile.Profile()
            profile.runcall(once, "profiled")
            pstats.Stats(profile).sort_stats("cumulative").print_stats(60)


if __name__ == "__main__":
    main()
