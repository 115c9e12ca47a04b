"""Measure how time and memory grow with rows, length of a document, questions and processes.

    python -m benchmarks.growth [--base 2000] [--rounds 3]

The network costs almost nothing. Each run is a separate process, and only the job is timed, without
start-up. Prints medians of rounds in turns.
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
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.perf_counter() - begun, peak]))
"""


def write_document(path: str, words: int, questions: int) -> None:
    """Write one document of a number of words with a number of different questions."""
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
    """Run the cases in turns. Return the median seconds and the highest peak (MiB) of each.

    cases  name -> arguments of annotate
    """
    one_thread = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **one_thread}
    figures: dict[str, list[list[float]]] = {name: [] for name in cases}
    # Turns spread the load of the machine evenly over the cases.
    for turn in range(rounds):
        for name, arguments in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                finished = subprocess.run(
                    [sys.executable, "-c", _RUN, "annotate", f"--output={folder}/out", *arguments],
                    stdout=subprocess.PIPE,
                    check=True,
                    text=True,
                    cwd=ROOT,
                    env=environment,
                )
            seconds, peak = json.loads(finished.stdout.splitlines()[-1])
            figures[name].append([seconds, peak])
            print(f"round {turn}: {name}: {seconds:.2f} s, {peak:.0f} MiB", flush=True)
    return {
        name: (statistics.median(each[0] for each in runs), max(each[1] for each in runs))
        for name, runs in figures.items()
    }


def make_cases(part: str, base: int, folder: str) -> dict[str, tuple[int, list[str]]]:
    """Write the inputs of one part. Return name -> (size, arguments of annotate)."""
    cases: dict[str, tuple[int, list[str]]] = {}
    if part == "rows":
        for times in (1, 4, 16, 64):
            path = f"{folder}/{times}x.parquet"
            write_rows(path, times * base)
            cases[f"{times}x rows"] = times * base, [f"--input={path}"]
    elif part == "words":
        for words in (1000, 10_000, 100_000):
            path = f"{folder}/{words}w.parquet"
            write_document(path, words, 1)
            cases[f"document of {words} words"] = words, [f"--input={path}"]
    elif part == "questions":
        for questions in (1, 10, 1000):
            path = f"{folder}/{questions}q.parquet"
            write_document(path, 10_000, questions)
            cases[f"{questions} questions on 10,000 words"] = questions, [f"--input={path}"]
    else:
        path = f"{folder}/processes.parquet"
        write_rows(path, 32 * base)
        shared = f"--input={path}", "--chunk_rows=500", "--direct_running_mode=multi_processing"
        for workers in (1, 2):
            cases[f"{workers} processes"] = 1, [*shared, f"--direct_num_workers={workers}"]
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=int, default=2000, help="rows of the smallest case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args()
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(
            f"--parts={options.parts}: {', '.join(sorted(unknown))} not among {', '.join(PARTS)}"
        )
    print(json.dumps(describe()))
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts.split(","):
            cases = make_cases(part, options.base, folder)
            arguments = {name: each for name, (_, each) in cases.items()}
            results = measure(arguments, options.rounds)
            first = next(iter(results))
            first_seconds, first_peak = results[first]
            for name, (seconds, peak) in results.items():
                per_unit = seconds / cases[name][0] / (first_seconds / cases[first][0])
                print(
                    f"{name}: {seconds:.2f} s, {per_unit:.3f} of the first per unit, "
                    f"{peak:.0f} MiB, {peak / first_peak:.3f} of the first",
                    flush=True,
                )


if __name__ == "__main__":
    main()
