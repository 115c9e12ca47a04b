"""Measure what the window prior and `--read_windows` bring on long documents.

    python -m benchmarks.read_windows --input eval_long_covid_qa.parquet --timed_nth 20
    python -m benchmarks.read_windows --input eval_squad_v1.parquet --joined_passages 40 \\
        --half held --every_nth 26 --timed_nth 4

Each prints one table. F1 of all settings comes from one pass of the network over all windows, and
the seconds from runs of annotate over some of the rows, in turns. `--joined_passages` makes long
documents of short passages, of the half that `model.calibrate` fits on or of the other one.
"""

from __future__ import annotations

import argparse
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
from model.reading.read_pairs import predict_passages
from model.reading.reader import CheckpointReader, resolve_dtype
from model.reading.tokenizer import Tokenizer
from model.reading.window_prior import weigh_windows
from model.training.calibration import BATCH_TOKENS, is_fitted
from model.training.data import best_texts, make_examples, read_training_rows, with_joined_passages

READ = ("all", 12, 8, 5, 3, 2, 1)


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
    parser.add_argument("--timed_nth", type=int, help="run annotate on every nth of these rows")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = chosen_rows(options)
    seconds = time_annotate(options, rows[:: options.timed_nth]) if options.timed_nth else {}
    measured = measure_f1(options, rows)
    print("| --read_windows | windows read | F1, prior off | with prior | seconds | faster |")
    print("|---|---|---|---|---|---|")
    for count, (windows, off, on) in measured.items():
        line = f"| {count} | {windows} | {off:.2f} | {on:.2f} |"
        if seconds:
            line += f" {seconds[count]:.1f} | {seconds['all'] / seconds[count]:.1f}x |"
        print(line)


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
    rows = [
        row for row in read_training_rows(options.input, given_as="input") if row["answers"]["text"]
    ]
    if options.half:
        rows = [row for row in rows if is_fitted(row["context"]) == (options.half == "fitted")]
    if options.joined_passages:
        rows = with_joined_passages(rows, 1.0, options.joined_passages, seed=1)
    return rows[:: options.every_nth]


def measure_f1(
    options: argparse.Namespace, rows: list[dict]
) -> dict[str, tuple[int, float, float]]:
    """Return, by `--read_windows`, the number of windows read, and F1 without and with prior."""
    own = read_settings(Path(options.model))
    weight = own.window_prior if options.prior is None else options.prior
    reader = ReplayingReader(
        CheckpointReader(LocalFolder(options.model), dtype=resolve_dtype("auto", "auto", own.int8))
    )
    reader.load()
    every = make_examples(rows, reader.tokenizer(), 384, 128, max_question=64).windows
    contexts, golds = [row["context"] for row in rows], [row["answers"]["text"] for row in rows]
    decoding = Decoding(n_best=1, temperature=own.temperature)
    print(f"{len(rows)} rows, {len(every)} windows, weight {weight}")
    measured = {}
    for read in READ:
        scores = []
        for prior in (0.0, weight):
            limits = replace(every.limits, read_windows=read, prior=prior)
            windows = weigh_windows(replace(every, limits=limits))
            _, spans = predict_passages(reader, windows, decoding, BATCH_TOKENS)
            texts = best_texts(spans, windows, contexts)
            graded = [grade(text, gold)[1] for text, gold in zip(texts, golds, strict=True)]
            scores.append(100 * float(np.mean(graded)))
        measured[str(read)] = len(windows), scores[0], scores[1]
    return measured


def time_annotate(options: argparse.Namespace, rows: list[dict]) -> dict[str, float]:
    """Return the median seconds of annotate's steps for each number of windows, in turns."""
    seconds: dict[str, list[float]] = {str(read): [] for read in READ}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        for turn in range(options.rounds):
            for count, measured in seconds.items():
                output = Path(folder) / f"{count}-{turn}"
                command = [sys.executable, "run_pipeline.py", "annotate", f"--input={path}"]
                command += [f"--output={output}", f"--model={options.model}"]
                command += [f"--read_windows={count}"]
                subprocess.run(command, check=True, capture_output=True)
                steps = json.loads((output / "manifest.json").read_text())["steps"]
                measured.append(sum(step["seconds"] for step in steps.values()))
    return {count: median(measured) for count, measured in seconds.items()}


if __name__ == "__main__":
    main()
