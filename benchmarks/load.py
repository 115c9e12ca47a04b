"""Annotate many rows with a network that costs almost nothing; check memory, files, accounting.

    python -m benchmarks.load [--rows 1000000] [--output FOLDER]

The rows are those of the bundled sample, each passage with a different heading. Memory and open
files of the process are sampled every second: both should be as high in the last quarter of the run
as in the second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch

from benchmarks.prepared import prepare
from benchmarks.synthetic import write_rows
from model.reading.batching import Batch
from model.reading.tokenizer import Tokenizer
from tests.checkpoints import build_bert


@dataclass(frozen=True)
class FreeReader:
    """A reader without a network: logits are a hash of the token and its index in the window."""

    folder: Path

    def load(self) -> None:
        """Do nothing: there is no network."""

    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.folder)

    def lanes(self) -> int:
        return 1

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.arange(batch.input_ids.shape[1])
        mixed = batch.input_ids * 2_654_435_761 + index * 40_503
        return (mixed % 1009) / 100.0, (mixed // 7 % 1009) / 100.0


class Watch(threading.Thread):
    """A thread that samples memory (MiB) and open files of this process every second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, int]] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(1.0):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.seen.append(
                (pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd")))
            )

    def quarter(self, number: int) -> dict[str, float]:
        """Return medians over the second (1), third (2) or last (3) quarter of the run."""
        begin = len(self.seen) * number // 4
        seen = self.seen[begin : len(self.seen) * (number + 1) // 4] or self.seen[-1:]
        if not seen:
            raise SystemExit("the run took less than a second: give more --rows")
        memory, files = zip(*seen, strict=True)
        return {
            "memory_mib": round(statistics.median(memory)),
            "open_files": statistics.median(files),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--output", help="folder to work in (a new temporary one)")
    options = parser.parse_args()

    # A corpus, and a checkpoint for its tokenizer.
    folder = Path(options.output or tempfile.mkdtemp(prefix="spanmill-load-"))
    model = build_bert(folder / "model")
    write_rows(folder / "in.parquet", options.rows)

    # One job under observation.
    arguments = [
        "annotate",
        f"--input={folder}/in.parquet",
        f"--output={folder}/out",
        f"--model={model}",
    ]
    _, run = prepare(arguments, lambda _: FreeReader(model))
    watch = Watch()
    watch.start()
    started = time.monotonic()
    run()
    seconds = time.monotonic() - started
    watch.stopped.set()

    # The accounting must equal what was written.
    manifest = json.loads((folder / "out" / "manifest.json").read_text("utf-8"))
    rows = manifest["rows"]
    written = sum(
        pq.ParquetFile(path).metadata.num_rows for path in (folder / "out" / "parts").iterdir()
    )
    outcomes = sum(rows.values()) - rows["planned"]
    print(
        json.dumps(
            {
                "rows": rows,
                "rows_written": written,
                "identity_holds": rows["planned"] == outcomes == written == options.rows,
                "state": manifest["state"],
                "parts": manifest["chunks"]["planned"],
                "seconds": round(seconds),
                "rows_per_second": round(options.rows / seconds),
                **{f"quarter_{number + 1}": watch.quarter(number) for number in (1, 2, 3)},
                "peak_memory_mib": round(max(memory for memory, _ in watch.seen)),
                "most_open_files": max(files for _, files in watch.seen),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
