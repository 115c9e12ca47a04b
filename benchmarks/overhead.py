"""Measure what annotate and its audit add to the time of the network.

    python -m benchmarks.overhead --input eval_squad_v1.parquet --every_nth 4 --rows 2000

Runs the limit, annotate and both audits in turns within one process: processes differ from each
other by 1 % and more, which is as large as the effect.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.method_annotate import run_stage
from benchmarks.method_bare import limit
from benchmarks.speed import HERE, select

MODEL = str(HERE.parent / "model" / "bundled")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, help="Parquet in the input layout")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--every_nth", type=int, default=1)
    parser.add_argument(
        "--one_per_context", action="store_true", help="only the first question of each document"
    )
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/rows.parquet"
        select(options.input, options.rows, options.every_nth, options.one_per_context, Path(path))
        methods: dict[str, Callable[[], object]] = {
            "limit": limit(path, MODEL, dtype="auto", batch_tokens=4096, lanes=0),
            "annotate": partial(run_stage, path, MODEL, "annotate"),
            "annotate --audit": partial(run_stage, path, MODEL, "annotate", "--audit"),
            "audit": partial(run_stage, path, MODEL, "audit"),
        }
        names = list(methods)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(options.rounds + 1):  # the first warms up and is not counted
            # The order rotates, so that no method always runs after the same other one.
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                begun = time.perf_counter()
                methods[name]()
                if turn:
                    seconds[name].append(time.perf_counter() - begun)
                    print(f"round {turn}: {name} {seconds[name][-1]:.2f} s", flush=True)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, of in (
        ("annotate", "limit"),
        ("annotate --audit", "annotate"),
        ("audit", "annotate"),
    ):
        share = medians[name] / medians[of]
        print(f"{name}: {medians[name]:.2f} s, {share:.3f} of {of}")


if __name__ == "__main__":
    main()
