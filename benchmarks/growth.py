"""How time and memory grow, with a network that costs nothing: rows, length of one document, questions, processes.

    python -m benchmarks.growth [--base 2000] [--rounds 3]

Every run is a process of its own; what is timed is the job itself (start-up apart). Medians of the rounds, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe
from benchmarks.synthetic import SAMPLE, write_rows

ROOT = Path(__file__).parent.parent
PARTS = ("rows", "words", "questions", "processes")
_RUN = """
import json, logging, resource, sys, tempfile, time
import torch
from benchmarks.free_reader import run_free
torch.set_num_threads(1)
logging.disable(logging.INFO)
with tempfile.TemporaryDirectory() as folder:
    run_free(["annotate", "--input=bundled", f"--output={folder}/warm", "--limit=5"])
begun = time.perf_counter()
run_free(sys.argv[1:])
print(json.dumps([time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def write_document(path: str, words: int, questions: int) -> None:
    """One document of so many words, with so many different questions."""
    text = " ".join(row for row in pq.read_table(SAMPLE).column("context").to_pylist()).split()
    context = " ".join((text * (words // len(text) + 1))[:words])
    asked = [f"Which name stands beside number {k}?" for k in range(questions)]
    pq.write_table(
        pa.table(
            {
                "id": [str(k) for k in range(questions)],
                "question": asked,
                "context": [context] * questions,
            }
        ),
        path,
    )


def measure(cases: dict[str, list[str]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds and the highest peak (MiB) of each case, in turns."""
    found: dict[str, list[list[float]]] = {name: [] for name in cases}
    for turn in range(rounds):
        for name, arguments in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                ran = subprocess.run(
                    [sys.executable, "-c", _RUN, "annotate", f"--output={folder}/out", *arguments],
                    stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"},
                )  # fmt: skip
            found[name].append(json.loads(ran.stdout.splitlines()[-1]))
            print(
                f"round {turn}: {name}: {found[name][-1][0]:.2f} s, {found[name][-1][1]:.0f} MiB",
                flush=True,
            )
    return {
        name: (statistics.median(run[0] for run in runs), max(run[1] for run in runs))
        for name, runs in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=int, default=2000, help="rows of 1x")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args()
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(
            f"--parts={options.parts}: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}"
        )
    print(json.dumps(describe()))
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts.split(","):
            cases: dict[str, list[str]] = {}
            sizes: dict[str, int] = {}
            if part == "rows":
                for times in (1, 4, 16, 64):
                    path = f"{folder}/{times}x.parquet"
                    write_rows(path, times * options.base)
                    cases[f"{times}x rows"], sizes[f"{times}x rows"] = (
                        [f"--input={path}"],
                        times * options.base,
                    )
            elif part == "words":
                for words in (1000, 10_000, 100_000):
                    path, name = f"{folder}/{words}w.parquet", f"document of {words} words"
                    write_document(path, words, 1)
                    cases[name], sizes[name] = [f"--input={path}"], words
            elif part == "questions":
                for questions in (1, 10, 1000):
                    path, name = (
                        f"{folder}/{questions}q.parquet",
                        f"{questions} questions on 10,000 words",
                    )
                    write_document(path, 10_000, questions)
                    cases[name], sizes[name] = [f"--input={path}"], questions
            else:
                path = f"{folder}/processes.parquet"
                write_rows(path, 32 * options.base)
                for workers in (1, 2):
                    name = f"{workers} processes"
                    cases[name], sizes[name] = [f"--input={path}", "--chunk_rows=500"], 1
                    cases[name] += [
                        "--direct_running_mode=multi_processing",
                        f"--direct_num_workers={workers}",
                    ]
            results = measure(cases, options.rounds)
            first = next(iter(results))
            for name, (seconds, peak) in results.items():
                each = seconds / sizes[name] / (results[first][0] / sizes[first])
                print(f"{name}: {seconds:.2f} s, {each:.3f} of the first per unit, {peak:.0f} MiB, "
                      f"{peak / results[first][1]:.3f} of the first", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
