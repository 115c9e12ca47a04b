"""Measure what each patch of Beam or of the process saves.

Whole runs with all patches and with all but one take turns.

    python -m benchmarks.patches --input eval_squad_v1.parquet [--rows 2000] [--rounds 7]
    python -m benchmarks.patches --input eval_squad_v1.parquet --rows 30 --waits

Each run is a process of its own, of `annotate --audit` with a network that costs nothing. Compared
are CPU seconds of the whole process, since they depend least on what else the machine does; wall
seconds are printed too. "nothing, again" undoes nothing: its difference is noise.

--waits: seconds that the ends of bundles wait for Beam's sampling thread, with one thread and two.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent

UNDO = {
    "nothing": "",
    "nothing, again": "",
    "without_collections": "import gc; gc.disable = gc.freeze = lambda: None",
    "gc.disable": "import gc; gc.disable = lambda: None",
    "gc.freeze": "import gc; gc.freeze = lambda: None",
    "end_bundles_at_once": """
from pipeline.job import patches
patches.end_bundles_at_once = lambda: None
""",
}
"""What is undone, and the code that does, before `run_pipeline` is imported."""

_RUN = """
import sys
import run_pipeline
from benchmarks.free_reader import FreeReader
from model.reading.reader import CheckpointReader
CheckpointReader.logits = FreeReader.logits
CheckpointReader.lanes = FreeReader.lanes
sys.exit(run_pipeline.main(sys.argv[1:]))
"""

_WAITS = """
import atexit, time
from apache_beam.runners.worker.statesampler import StateSampler
stop, waits = StateSampler.stop, []
def timed(self):
    begun = time.perf_counter()
    stop(self)
    waits.append(time.perf_counter() - begun)
StateSampler.stop = timed
atexit.register(lambda: print(f"waited {sum(waits):.3f} s at {len(waits)} ends", flush=True))
"""

_THREADS = {
    "one thread": [],
    "two threads, three chunks": [
        "--direct_running_mode=multi_threading",
        "--direct_num_workers=2",
        "--chunk_rows=10",
    ],
}


def run(code: str, corpus: str, output: str, *more: str) -> tuple[float, float, str]:
    """Return CPU and wall seconds of one run, and the last line that it printed."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", f"{code}\n{_RUN}", "annotate", "--audit", *more]
    command += [f"--input={corpus}", f"--output={output}"]
    done = subprocess.run(
        command, check=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - begun, done.stdout.decode().splitlines()[-1]


def compare_waits(corpus: str, folder: str, rounds: int) -> None:
    """Print how long the ends of bundles wait, with Beam's period and with ours."""
    for threads, more in _THREADS.items():
        for turn in range(rounds):
            for name in ("nothing", "end_bundles_at_once"):
                output = f"{folder}/{threads}-{turn}-{name}"
                last = run(_WAITS + UNDO[name], corpus, output, *more)[2]
                print(f"{threads}, without {name}: {last}")


def compare_runs(corpus: str, folder: str, rounds: int) -> None:
    """Print the medians of whole runs, and of their differences in each round."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in UNDO}
    for turn in range(-1, rounds):
        for number, (name, undo) in enumerate(UNDO.items()):
            cpu, wall, _ = run(undo, corpus, f"{folder}/{turn}-{number}")
            if turn >= 0:  # the first round warms caches
                seconds[name].append((cpu, wall))
    base = [statistics.median(each) for each in zip(*seconds["nothing"], strict=True)]
    print(f"all patches: {base[0]:.2f} s CPU, {base[1]:.2f} s wall")
    for name, runs in seconds.items():
        cells = []
        for clock, unit in enumerate(("CPU", "wall")):
            saved = [
                one[clock] - whole[clock]
                for one, whole in zip(runs, seconds["nothing"], strict=True)
            ]
            difference = statistics.median(each[clock] for each in runs) - base[clock]
            cells.append(
                f"{difference:+.2f} s {unit} (in pairs {statistics.median(saved):+.2f}, "
                f"{min(saved):+.2f} to {max(saved):+.2f})"
            )
        print(f"without {name}: {', '.join(cells)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True)
    parser.add_argument("--rows", type=int, default=2000, help="the first N rows")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--waits", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = f"{folder}/rows.parquet"
        pq.write_table(pq.read_table(options.input).slice(0, options.rows), corpus)
        compare = compare_waits if options.waits else compare_runs
        compare(corpus, folder, options.rounds)


if __name__ == "__main__":
    main()
