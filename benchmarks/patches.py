"""Measure what each patch of Beam or of the process saves: whole runs with all patches, and with all but one, in turns.

    python -m benchmarks.patches --input eval_squad_v1.parquet [--rows 2000] [--rounds 7]

Each run is a separate process of `annotate --audit` with a network that costs almost nothing; the
cases run in turns. CPU seconds of the whole process are compared, because they depend least on the
load of the machine, and so are wall seconds, because one patch shortens a sleep. "nothing, again"
undoes nothing: its difference is noise.
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
    "nothing": ("", ""),
    "nothing, again": ("", ""),
    "any patch of gc": (
        "import gc; gc.disable = gc.freeze = lambda: None; gc.set_threshold = lambda *counts: None",
        "",
    ),
    "gc.disable": ("import gc; gc.disable = lambda: None", ""),
    "gc.freeze": ("import gc; gc.freeze = lambda: None", ""),
    "gc.set_threshold": ("import gc; gc.set_threshold = lambda *counts: None", ""),
    "sampler": ("", "import pipeline.job.runners as r; r._end_bundles_at_once = lambda: None"),
    "sizes": (
        "",
        "import pipeline.job.runners as r; "
        "r._Unmeasured.from_type_hint = classmethod(lambda c, h, r: 1 / 0)",
    ),
    "options": ("", "import pipeline.job.options as o; del o.BeamOptions.view_as"),
    "type checks": (
        "",
        """
import pipeline.job.runners as r
make_runner = r.make_runner
def checked(options):
    runner = make_runner(options)
    options.view_as(r.TypeOptions).pipeline_type_check = True
    return runner
run_pipeline.make_runner = checked
""",
    ),
}
"""Name -> code that undoes a patch, before and after `run_pipeline` is imported."""

_RUN = """
import sys
{before}
import run_pipeline
from benchmarks.free_reader import FreeReader
from model.reading.reader import CheckpointReader
CheckpointReader.logits = FreeReader.logits
CheckpointReader.lanes = FreeReader.lanes
{after}
sys.exit(run_pipeline.main(sys.argv[1:]))
"""


def run(undo: tuple[str, str], corpus: str, output: str) -> tuple[float, float]:
    """Return CPU and wall seconds of one run."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = _RUN.format(before=undo[0], after=undo[1])
    command = [sys.executable, "-c", code, "annotate", "--audit"]
    command += [f"--input={corpus}", f"--output={output}"]
    subprocess.run(
        command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True)
    parser.add_argument("--rows", type=int, default=2000, help="the first N rows")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in UNDO}
    with tempfile.TemporaryDirectory() as folder:
        corpus = f"{folder}/rows.parquet"
        pq.write_table(pq.read_table(options.input).slice(0, options.rows), corpus)
        for turn in range(-1, options.rounds):
            for number, (name, undo) in enumerate(UNDO.items()):
                measured = run(undo, corpus, f"{folder}/{turn}-{number}")
                if turn >= 0:  # the first round warms caches
                    seconds[name].append(measured)
    base = [statistics.median(each) for each in zip(*seconds["nothing"], strict=True)]
    print(f"all patches: {base[0]:.2f} s CPU, {base[1]:.2f} s wall")
    for name, runs in seconds.items():
        cells = []
        for clock, unit in enumerate(("CPU", "wall")):
            saved = [
                one[clock] - all_[clock] for one, all_ in zip(runs, seconds["nothing"], strict=True)
            ]
            difference = statistics.median(each[clock] for each in runs) - base[clock]
            paired = statistics.median(saved)
            cells.append(
                f"{difference:+.2f} s {unit} "
                f"(in pairs {paired:+.2f}, {min(saved):+.2f} to {max(saved):+.2f})"
            )
        print(f"without {name}: {', '.join(cells)}")


if __name__ == "__main__":
    main()
