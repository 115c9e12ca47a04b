"""Compare annotate with Beam's RunInference by CPU seconds, in turns within one process.

    OMP_NUM_THREADS=1 python -m benchmarks.run_inference --input eval_squad_v1.parquet --rows 100

All methods read and write Parquet. The first turn warms up and is not counted; figures are medians.
Unlike `benchmarks.speed`, which measures wall time on an idle machine, this also works on a busy
one.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.method_annotate import run_stage
from benchmarks.method_run_inference import answer, bucketed, save_state

MODEL = str(Path(__file__).parent.parent / "model" / "bundled")


def methods(path: str, folder: str) -> dict[str, Callable[[], object]]:
    """Return the compared methods by name; `folder` has the network's `state.pt`."""

    def annotate(dtype: str) -> Callable[[], object]:
        return lambda: run_stage(path, MODEL, "annotate", f"--dtype={dtype}")

    def inference(dtype: str, max_batch_size: int) -> Callable[[], object]:
        batching = bucketed(max_batch_size) if max_batch_size else {}
        return lambda: answer(path, MODEL, folder, dtype, batching)

    return {
        "annotate, float32": annotate("float32"),
        "annotate, bfloat16": annotate("bfloat16"),
        "RunInference, float32, as documented": inference("float32", 0),
        "RunInference, float32, by length, batches of 8": inference("float32", 8),
        "RunInference, float32, by length, batches of 32": inference("float32", 32),
        "RunInference, bfloat16, by length, batches of 8": inference("bfloat16", 8),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True)
    parser.add_argument("--rows", type=int, default=100, help="taken evenly from the input")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        table = pq.read_table(options.input)
        step = max(1, table.num_rows // options.rows)
        path = f"{folder}/rows.parquet"
        pq.write_table(table.take(list(range(0, table.num_rows, step))[: options.rows]), path)
        save_state(MODEL, f"{folder}/state.pt")
        compared = methods(path, folder)
        seconds: dict[str, list[float]] = {name: [] for name in compared}
        for turn in range(options.turns + 1):
            for name, run in compared.items():
                begun = time.process_time()
                run()
                seconds[name].append(time.process_time() - begun)
                print(f"turn {turn}: {name} {seconds[name][-1]:.2f} s", flush=True)
    reference = statistics.median(seconds["annotate, float32"][1:])
    print("\n| method | CPU seconds | of annotate, float32 |\n|---|---|---|")
    for name, values in seconds.items():
        median = statistics.median(values[1:])
        print(f"| {name} | {median:.2f} | {median / reference:.2f} |")


if __name__ == "__main__":
    main()
