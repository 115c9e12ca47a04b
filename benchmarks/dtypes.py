"""Compare dtypes on the same rows: the speed of annotate, and the answers with those of float32.

    python -m benchmarks.dtypes --input eval_squad_v1.parquet --rows 500 --rounds 3

One thread, in turns within one process. `faster` divides float32's CPU seconds by a dtype's in the
same turn. `equal` is the share of rows with the same span, `clear` the same among rows whose two
best spans are at least 0.3 apart in float32, `F1` the change. To simulate a core with AVX2 on
another, set ONEDNN_MAX_CPU_ISA=AVX2 and ATEN_CPU_CAPABILITY=avx2.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import statistics
import tempfile
import time
from contextlib import redirect_stdout

import pyarrow.parquet as pq
import torch

import run_pipeline
from benchmarks.machine import describe
from benchmarks.split import MODEL
from model.audit.metrics import grade
from model.try_int8 import GradedAnswers, compare
from transforms.storage import list_names


def compare_rows(rows: list[dict], reference: list[dict]) -> str:
    """Return how the answers of a dtype differ from those of float32."""
    answered = [
        GradedAnswers(
            [(row["answer_start"], row["answer_end"]) for row in given],
            [[each["start_logit"] + each["end_logit"] for each in row["n_best"]] for row in given],
            [grade(row["answer_text"] or "", row["answers"]["text"])[1] for row in given],
        )
        for given in (rows, reference)
    ]
    found = compare(*answered)
    return (
        f"equal {found.equal:.2f} %, clear {found.clear_equal:.2f} % of {found.clear_rows}, "
        f"F1 {found.f1_change:+.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, help="Parquet with golds")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--rows", type=int, default=10**9)
    parser.add_argument("--every_nth", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", default="float32,int8,bfloat16", help="float32 comes first")
    parser.add_argument("annotate", nargs="*", help="options of annotate, after --")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    limits = {name: os.environ.get(name) for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")}
    print(json.dumps({**describe(), **limits}))
    names = options.dtypes.split(",")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        corpus = f"{folder}/rows.parquet"
        table = pq.read_table(options.input)
        table = table.take(list(range(0, len(table), options.every_nth))[: options.rows])

        def run(dtype: str, output: str) -> None:
            arguments = [f"--input={corpus}", f"--output={output}", f"--dtype={dtype}"]
            arguments += [f"--model={options.model}", *options.annotate]
            with redirect_stdout(io.StringIO()):
                if code := run_pipeline.run(["annotate", *arguments]):
                    raise SystemExit(f"annotate ended with exit code {code}")

        pq.write_table(table.slice(0, 20), corpus)
        for name in names:  # load each once
            run(name, f"{folder}/warm-{name}")
        pq.write_table(table, corpus)
        for turn in range(options.rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                begun = time.process_time()
                run(name, f"{folder}/{turn}-{name}")
                seconds[name].append(time.process_time() - begun)

        def answers(name: str) -> list[dict]:
            parts = f"{folder}/0-{name}/parts"
            return [
                row
                for part in list_names(parts)
                for row in pq.read_table(f"{parts}/{part}").to_pylist()
            ]

        reference = answers(names[0])
        for name in names:
            faster = [a / b for a, b in zip(seconds[names[0]], seconds[name], strict=True)]
            print(
                f"{name}: {len(reference) / statistics.median(seconds[name]):.1f} rows per second, "
                f"{statistics.median(faster):.2f} times as fast ({min(faster):.2f} to "
                f"{max(faster):.2f}); {compare_rows(answers(name), reference)}"
            )


if __name__ == "__main__":
    main()
