"""On a CUDA device: windows per second, share of the limit, utilisation and peak memory, for three sizes of network.

    python -m benchmarks.gpu --input eval_squad_v1.parquet [--rows 8000] [--rounds 5]

The limit is bare forward passes over the same sorted windows; annotate is Parquet to Parquet. The bundled checkpoint, and the
shapes of BERT-base and BERT-large with random weights, each in bfloat16 and float16. At the end the memory is capped so that
batches run out of it, and the answers are compared with those of the uncapped run.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import torch

import run_pipeline
from benchmarks.machine import describe
from model.batching import assemble, plan_batches
from model.checkpoint import LocalFolder
from model.reader import CheckpointReader
from model.training_data import make_examples, read_rows

ROOT = Path(__file__).parent.parent
BUNDLED = ROOT / "model" / "bundled"
SHAPES = {"bert-base": (768, 12, 12, 3072), "bert-large": (1024, 24, 16, 4096)}


def random_checkpoint(name: str, folder: str) -> str:
    """A seeded checkpoint of a BERT shape, with the bundled tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

    hidden, layers, heads, inner = SHAPES[name]
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner, vocab_size=30522
    )
    path = f"{folder}/{name}"
    BertForQuestionAnswering(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(BUNDLED).save_pretrained(path)
    return path


class Utilisation:
    """Samples the device's utilisation, in per cent, while it is entered."""

    def __enter__(self) -> Utilisation:
        self.samples: list[int] = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _sample(self) -> None:
        while not self.done.wait(0.05):
            if torch.cuda.is_available():
                self.samples.append(torch.cuda.utilization())

    @property
    def mean(self) -> float:
        return statistics.fmean(self.samples) if self.samples else float("nan")


def timed(run: Callable[[], None]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begun = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def annotate(corpus: str, model: str, dtype: str, output: str) -> None:
    code = run_pipeline.run(["annotate", f"--input={corpus}", f"--output={output}", f"--model={model}", f"--dtype={dtype}"])
    if code:
        raise SystemExit(f"annotate ended with {code}")


def answers(output: str) -> list[tuple]:
    rows = [pq.read_table(part, columns=["id", "answer_start", "answer_end"]) for part in sorted(Path(output).glob("parts/*"))]
    return [tuple(row.values()) for table in rows for row in table.to_pylist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_tokens", type=int, default=65536)
    parser.add_argument("--models", default="bundled,bert-base,bert-large")
    parser.add_argument("--dtypes", default="bfloat16,float16")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    print(json.dumps(describe()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus = f"{folder}/rows.parquet"
        pq.write_table(pq.read_table(options.input).slice(0, options.rows), corpus)
        for name in options.models.split(","):
            model = str(BUNDLED) if name == "bundled" else random_checkpoint(name, folder)
            for dtype in options.dtypes.split(","):
                reader = CheckpointReader(LocalFolder(model), dtype=dtype)
                reader.load()
                windows = make_examples(read_rows(corpus), reader.tokenizer(), 384, 128, 64).windows
                batches = [assemble(windows, chosen) for chosen in plan_batches(windows.lengths, options.batch_tokens)]

                def limit(batches: list = batches, reader: CheckpointReader = reader) -> None:
                    with torch.inference_mode():
                        for batch in batches:
                            reader.logits(batch)

                bare, whole = [], []
                if torch.cuda.is_available():
                    torch.cuda.reset_peak_memory_stats()
                for turn in range(options.rounds + 1):  # the first is to warm up
                    bare.append(timed(limit))
                    with Utilisation() as used:
                        output = f"{folder}/{name}-{dtype}-{turn}"
                        whole.append(timed(partial(annotate, corpus, model, dtype, output)))
                ours, least = statistics.median(whole[1:]), statistics.median(bare[1:])
                peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0
                print(f"{name}, {dtype}: {len(windows) / ours:.0f} windows/s, {ours / least:.3f} of the limit, "
                      f"utilisation {used.mean:.0f} %, peak {peak:.0f} MiB", flush=True)  # fmt: skip
        if torch.cuda.is_available():
            dtype = options.dtypes.split(",")[0]
            torch.cuda.empty_cache()
            room = torch.cuda.memory_allocated() + 600 * 2**20
            torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
            annotate(corpus, str(BUNDLED), dtype, f"{folder}/capped")
            same = sum(a == b for a, b in zip(answers(f"{folder}/capped"), answers(f"{folder}/bundled-{dtype}-0"), strict=True))
            print(f"memory capped: exit code 0, {same} of {options.rows} answers as without the cap")


if __name__ == "__main__":
    main()
