"""Measure what each patch of Beam or of the process saves: runs with all patches, and without one.

    python -m benchmarks.patches --input eval_squad_v1.parquet [--rows 2000] [--rounds 5]

Each run is a separate process of `annotate --audit` with a network that costs almost nothing; the
cases run in turns. CPU seconds of the whole process are compared, because they depend least on the
load of the machine; wall seconds are also printed.
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
    "collections of garbage": """
import gc
gc.disable = gc.freeze = lambda: None
gc.set_threshold = lambda *counts: None
""",
    "period of the sampler of steps": """
import pipeline.job.runners as r
r._end_bundles_at_once = lambda: None
""",
    "sizes of elements": """
import pipeline.job.runners as r
r._Unmeasured.from_type_hint = classmethod(lambda c, h, r: 1 / 0)
""",
    "options parsed once": """
import pipeline.job.options as o
del o.BeamOptions.view_as
""",
    "type checks": """
import pipeline.job.runners as r
make_runner = r.make_runner
def checked(options):
    runner = make_runner(options)
    options.view_as(r.TypeOptions).pipeline_type_check = True
    return runner
r.make_runner = checked
""",
}
"""Patch -> code that undoes it before `run_pipeline` is imported."""

_RUN = """
import sys
import run_pipeline
from benchmarks.free_reader import FreeReader
from model.reading.reader import CheckpointReader
CheckpointReader.logits = FreeReader.logits
CheckpointReader.lanes = FreeReader.lanes
sys.exit(run_pipeline.main(sys.argv[1:]))
"""


def run(undo: str, corpus: str, output: str) -> tuple[float, float]:
    """Return CPU and wall seconds of one run."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-c",
        f"{undo}\n{_RUN}",
        "annotate",
        "--audit",
        f"--input={corpus}",
        f"--output={output}",
    ]
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
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in UNDO}
    with tempfile.TemporaryDirectory() as folder:
        corpus = f"{folder}/rows.parquet"
        pq.write_table(pq.read_table(options.input).slice(0, options.rows), corpus)
        for turn in range(options.rounds):
            for name, undo in UNDO.items():
                seconds[name].append(run(undo, corpus, f"{folder}/{turn}-{name.replace(' ', '-')}"))
    base = [statistics.median(each) for each in zip(*seconds["nothing"], strict=True)]
    print(f"all patches: {base[0]:.2f} s CPU, {base[1]:.2f} s wall")
    for name, runs in seconds.items():
        cpu, wall = (statistics.median(each) for each in zip(*runs, strict=True))
        print(f"without {name}: {cpu - base[0]:+.2f} s CPU, {wall - base[1]:+.2f} s wall")


if __name__ == "__main__":
    main()
