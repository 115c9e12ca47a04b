"""Plan a corpus of many files, and simulate the work on the plan: figures for docs/scale.md.

    python -m benchmarks.plan_scale [--files 100000] [--rows 10000] [--workers 100]

The files are links to a few real Parquet files. They are listed, run.json is claimed and read by
ranges, every footer is read and every chunk spec is made, as in a job. Only the work on chunks is
simulated: a free worker gets the next run, as with a runner, with a time per row and several kinds
of skew.
"""

from __future__ import annotations

import argparse
import heapq
import os
import pickle
import random
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.job.identity import claim, input_ranges
from pipeline.job.options import parse
from pipeline.job.resolve import Job, resolve
from transforms.plan_chunks import list_files, plan_chunks


def link_files(folder: Path, files: int, rows: int) -> None:
    """Make a number of links to four real files, each with `rows` rows in two row groups."""
    folder.mkdir()
    sentence = "the keeper lit the lamp and wrote the hour into her book at dusk ."
    words = sentence.split(" ")
    for kind in range(4):
        draw = random.Random(kind)
        texts = [" ".join(draw.choices(words, k=20)) for _ in range(rows)]
        table = pa.table(
            {
                "id": [str(row) for row in range(rows)],
                "question": ["Who lit the lamp?"] * rows,
                "context": texts,
            }
        )
        pq.write_table(table, folder / f"{kind:07d}.parquet", row_group_size=-(-rows // 2))
    for number in range(4, files):
        os.link(folder / f"{number % 4:07d}.parquet", folder / f"{number:07d}.parquet")


def memory() -> str:
    """Return the peak memory so far, in words."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB at most so far"


def plan(job: Job) -> Iterator[int]:
    """Yield the rows of every planned run, then print what planning took."""
    started = time.perf_counter()
    runs = chunks = rows = shuffled = slowest = 0
    for listed in input_ranges(job):
        began = time.perf_counter()
        for file in list_files(listed):
            for run in plan_chunks(
                file, job.inputs.expected, job.inputs.texts, job.work.chunk_size
            ):
                runs += 1
                chunks += len(run.chunks)
                # Only a sample, because pickling is the runner's time and not planning's.
                if runs % 100 == 1:
                    shuffled += len(pickle.dumps(run)) / len(run.chunks)
                size = sum(chunk.rows for chunk in run.chunks)
                rows += size
                yield size
        slowest = max(slowest, time.perf_counter() - began)
    seconds = time.perf_counter() - started
    per_chunk = shuffled / -(-runs // 100)
    print(
        f"planned: {rows} rows, {chunks} chunks, {runs} runs in {seconds:.1f} s "
        f"({chunks / seconds:.0f} chunks/s), {memory()}"
    )
    print(
        f"  one of {len(input_ranges(job))} ranges takes {slowest:.2f} s at most; "
        f"{per_chunk:.0f} bytes per chunk are shuffled"
    )


def makespan(runs: Iterable[float], workers: int) -> float:
    """Return the seconds until all runs are done; the first free worker takes the next."""
    free = [0.0] * workers
    for seconds in runs:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def simulate(sizes: list[int], workers: int, row_seconds: float) -> None:
    """Print hours by the formula, without and with its tail, and by simulation, for each skew."""
    total = sum(sizes) * row_seconds
    ideal = total / workers
    draw = random.Random(0)
    uneven = [size * row_seconds * draw.lognormvariate(-0.5, 1.0) for size in sizes]
    scale = total / sum(uneven)
    # The giant file's row groups are runs of the usual size.
    half, largest = sum(sizes) // 2, max(sizes)
    giant = [largest] * (half // largest)
    cases = {
        "even rows": [size * row_seconds for size in sizes],
        "uneven documents (lognormal, sigma 1)": [seconds * scale for seconds in uneven],
        "one worker at a tenth of the speed": [size * row_seconds for size in sizes],
        "one file with half the rows, many row groups": [size * row_seconds / 2 for size in sizes]
        + [size * row_seconds for size in giant],
        "one file with half the rows, not cut into runs": [
            half * row_seconds,
            *(size * row_seconds / 2 for size in sizes),
        ],
    }
    print(
        f"formula without its tail: rows x seconds per row / workers = {ideal / 3600:.2f} h "
        f"on {workers} workers"
    )
    for name, runs in cases.items():
        straggler = "tenth" in name
        seconds = slow_worker(runs, workers) if straggler else makespan(runs, workers)
        # One worker at a tenth of the speed is a tenth of a worker, and its run is the tail.
        share, longest = (
            (total / (workers - 0.9), 10 * max(runs)) if straggler else (ideal, max(runs))
        )
        by_formula = f"{share / 3600:.2f} to {(share + longest) / 3600:.2f} h by the formula"
        print(
            f"  {name}: {seconds / 3600:.2f} h, {100 * (seconds / ideal - 1):+.1f} %, "
            f"{by_formula}, longest run {longest:.0f} s"
        )


def slow_worker(runs: list[float], workers: int) -> float:
    """Return the makespan if one worker takes ten times as long for everything."""
    free = [(0.0, worker) for worker in range(workers)]
    for seconds in runs:
        at, worker = free[0]
        heapq.heapreplace(free, (at + seconds * (10 if worker == 0 else 1), worker))
    return max(at for at, _ in free)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=10_000, help="rows per file")
    parser.add_argument("--chunk_rows", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument(
        "--row_seconds", type=float, default=0.01, help="a worker's time per row, simulated"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        link_files(Path(folder) / "in", given.files, given.rows)
        arguments = [
            f"--input={folder}/in",
            f"--output={folder}/out",
            f"--chunk_rows={given.chunk_rows}",
        ]
        options, rest = parse(["annotate", *arguments, f"--max_num_workers={given.workers}"])
        started = time.perf_counter()
        job = resolve(options, PipelineOptions(rest))
        seconds = time.perf_counter() - started
        print(
            f"launcher: {len(job.files)} files listed, model loaded in {seconds:.1f} s, {memory()}"
        )
        started = time.perf_counter()
        claim(job, overwrite=False)
        seconds = time.perf_counter() - started
        size = os.path.getsize(f"{folder}/out/run.json")
        print(
            f"launcher: run.json of {size / 2**20:.1f} MiB claimed in {seconds:.1f} s, {memory()}"
        )
        sizes = list(plan(job))
    simulate(sizes, given.workers, given.row_seconds)


if __name__ == "__main__":
    main()
