"""Measure what the window prior and `--read_windows` bring on long documents.

    python -m benchmarks.read_windows --input eval_long_covid_qa.parquet [--prior 0.5]
    python -m benchmarks.read_windows --input eval_squad_v1.parquet --joined_passages 40 --half held
    python -m benchmarks.read_windows --input eval_long_covid_qa.parquet --every_nth 20 \\
        --timed 1,2,3,5,8,12

The first two run the network once over all windows and print F1 with and without the prior, for
each number of windows to read. `--joined_passages` makes long documents of short passages, of the
half that `model.calibrate` fits on or of the other one. The third runs annotate, in turns.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from model.audit.metrics import grade
from model.checkpoint import LocalFolder, read_settings
from model.reading.batching import Batch
from model.reading.decoding import Decoding
from model.reading.read_pairs import read_windows
from model.reading.reader import CheckpointReader, resolve_dtype
from model.reading.tokenizer import Tokenizer
from model.reading.window_prior import weigh_windows
from model.training.calibration import BATCH_TOKENS
from model.training.data import best_texts, make_examples, read_rows, with_joined_passages

READ = (1, 2, 3, 5, 8, 12, "all")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", default="model/bundled")
    parser.add_argument("--every_nth", type=int, default=1)
    parser.add_argument("--prior", type=float, help="weight (the checkpoint's)")
    parser.add_argument("--joined_passages", type=int, default=0)
    parser.add_argument("--half", choices=["fitted", "held"])
    parser.add_argument("--timed", help="numbers of windows to run annotate with, besides all")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.timed:
        time_annotate(options)
    else:
        print_f1(options)


class ReplayingReader:
    """A reader that keeps the logits of every window, whatever the batches it comes in."""

    def __init__(self, reader: CheckpointReader):
        self.reader = reader
        self.kept: dict[bytes, torch.Tensor] = {}

    def load(self) -> None:
        """Load the other reader."""
        self.reader.load()

    def tokenizer(self) -> Tokenizer:
        """Return the other reader's tokenizer."""
        return self.reader.tokenizer()

    def lanes(self) -> int:
        """Return the other reader's number of lanes."""
        return self.reader.lanes()

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and end logits, float32 [B, L] each, computed once per window."""
        lengths = batch.attention.sum(1).tolist()
        rows = zip(batch.input_ids.numpy(), lengths, strict=True)
        keys = [ids[:length].tobytes() for ids, length in rows]
        if not all(key in self.kept for key in keys):
            computed = torch.stack(self.reader.logits(batch))
            for row, (key, length) in enumerate(zip(keys, lengths, strict=True)):
                self.kept[key] = computed[:, row, :length].clone()
        both = torch.zeros(2, *batch.input_ids.shape)
        for row, (key, length) in enumerate(zip(keys, lengths, strict=True)):
            both[:, row, :length] = self.kept[key]
        return both[0], both[1]


def chosen_rows(options: argparse.Namespace) -> list[dict]:
    """Return the rows with golds, with joined passages if they are asked for."""
    rows = [row for row in read_rows(options.input, given_as="input") if row["answers"]["text"]]
    if options.half:
        fitted = [hashlib.sha256(row["context"].encode()).digest()[0] % 2 == 0 for row in rows]
        wanted = options.half == "fitted"
        rows = [row for row, half in zip(rows, fitted, strict=True) if half == wanted]
    if options.joined_passages:
        rows = with_joined_passages(rows, 1.0, options.joined_passages, seed=0)
    return rows[:: options.every_nth]


def print_f1(options: argparse.Namespace) -> None:
    """Print, for each number of windows to read, their share, and F1 without and with the prior."""
    own = read_settings(Path(options.model))
    weight = own.window_prior if options.prior is None else options.prior
    reader = ReplayingReader(
        CheckpointReader(LocalFolder(options.model), dtype=resolve_dtype("auto", "auto"))
    )
    reader.load()
    rows = chosen_rows(options)
    every = make_examples(rows, reader.tokenizer(), 384, 128, max_question=64).windows
    contexts, golds = [row["context"] for row in rows], [row["answers"]["text"] for row in rows]
    decoding = Decoding(n_best=1, temperature=own.temperature)
    print(f"{len(rows)} rows, {len(every)} windows, weight {weight}")
    for read in reversed(READ):
        scores = []
        for prior in (0.0, weight):
            limits = replace(every.limits, read_windows=read, prior=prior)
            windows = weigh_windows(replace(every, limits=limits))
            _, spans = read_windows(reader, windows, decoding, BATCH_TOKENS)
            texts = best_texts(spans, windows, contexts)
            graded = [grade(text, gold)[1] for text, gold in zip(texts, golds, strict=True)]
            scores.append(100 * float(np.mean(graded)))
        share = 100 * len(windows) / len(every)
        print(f"read {read}: {share:.0f} % of the windows, F1 {scores[0]:.2f}, {scores[1]:.2f}")


def time_annotate(options: argparse.Namespace) -> None:
    """Print the seconds of annotate's steps for each number of windows to read, in turns."""
    counts = ["all", *options.timed.split(",")]
    seconds: dict[str, list[float]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(chosen_rows(options)), rows)
        for turn in range(options.rounds):
            for count in counts:
                output = Path(folder) / f"{count}-{turn}"
                command = [sys.executable, "run_pipeline.py", "annotate", f"--input={rows}"]
                command += [f"--output={output}", f"--model={options.model}"]
                command += [f"--read_windows={count}"]
                subprocess.run(command, check=True, capture_output=True)
                steps = json.loads((output / "manifest.json").read_text())["steps"]
                seconds[count].append(sum(step["seconds"] for step in steps.values()))
    for count, each in seconds.items():
        ratio = median(seconds["all"]) / median(each)
        print(f"read {count}: {median(each):.1f} s, {ratio:.1f} times as fast as all")


if __name__ == "__main__":
    main()
