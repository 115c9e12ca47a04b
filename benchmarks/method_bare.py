"""The limit: bare forward passes over the same windows, sorted over the whole input, batches made beforehand.

By default in lanes, as annotate computes: every core a batch of its own. `--lanes 1` is one batch at a time on all cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from benchmarks.serve import serve
from model.backends.lanes import in_lanes
from model.checkpoint import LocalFolder
from model.reading.batching import assemble, plan_batches
from model.reading.reader import CheckpointReader, resolve_dtype
from model.training.data import make_examples, read_rows


def limit(
    path: str, model: str, dtype: str, batch_tokens: int, lanes: int
) -> Callable[[], dict[str, float]]:
    """The function that passes all windows through the network; tokens and batches are made before. 0 lanes: annotate's."""
    reader = CheckpointReader(LocalFolder(model), dtype=resolve_dtype(dtype, "auto"))
    reader.load()
    windows = make_examples(read_rows(path), reader.tokenizer(), 384, 128, 64).windows
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
