"""Serve the limit: bare forward passes over the same windows, in batches made beforehand.

Windows are sorted over the whole input. By default each core computes its own batch, in lanes as in
annotate; `--lanes 1` computes one batch at a time on all cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.serve import serve
from model.backends.lanes import in_lanes
from model.checkpoint import LocalFolder, read_settings
from model.reading.batching import assemble, plan_batches
from model.reading.reader import CheckpointReader, resolve_dtype
from model.training.data import make_examples, read_training_rows


def limit(
    path: str, model: str, dtype: str, batch_tokens: int, lanes: int
) -> Callable[[], dict[str, float]]:
    """Return a function that passes all windows through the network.

    Tokens and batches are made before.

    lanes  number of batches at a time; 0 for as many as annotate computes
    """
    dtype = resolve_dtype(dtype, "auto", read_settings(Path(model)).int8)  # as annotate does
    reader = CheckpointReader(LocalFolder(model), dtype=dtype)
    reader.load()
    windows = make_examples(read_training_rows(path), reader.tokenizer(), 384, 128, 64).windows
    batches = [assemble(windows, chosen) for chosen in plan_batches(windows.lengths, batch_tokens)]

    def run() -> dict[str, float]:
        in_lanes(torch.inference_mode()(reader.logits), batches[::-1], lanes or reader.lanes())
        return {"windows": len(windows)}

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch_tokens", type=int, default=4096)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--lanes", type=int, default=0)
    options = parser.parse_args()
    serve(limit(options.input, options.model, options.dtype, options.batch_tokens, options.lanes))


if __name__ == "__main__":
    main()
