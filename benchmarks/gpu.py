"""Measure annotate on a CUDA device: windows per second, share of the limit, use and memory.

    python -m benchmarks.gpu --input eval_squad_v1.parquet [--before ../checkout] [--capped]

Networks are the bundled checkpoint, and the shapes of BERT-base and BERT-large with random weights.
The limit is bare forward passes over the same sorted windows. annotate reads and writes Parquet;
its rows are repeated `copies` times. With `--before`, each network is first measured with the code
of another checkout, by this script. With `--capped`, the memory is limited at the end, so that
batches run out of memory, and the answers are compared with those of the unlimited run.

Without a GPU everything is measured on the CPU, which only shows that the script works:

    python -m benchmarks.gpu --input pipeline/bundled/sample.parquet --rows 20 --models tiny \\
        --dtypes float32 --rounds 1
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.machine import describe
from benchmarks.prepared import prepare
from model.checkpoint import LocalFolder
from model.reading.batching import assemble, plan_batches
from model.reading.reader import CheckpointReader
from model.training.data import make_examples, read_training_rows

BUNDLED = Path(__file__).parent.parent / "model" / "bundled"
SHAPES = {
    "tiny": (32, 2, 2, 64),
    "bert-base": (768, 12, 12, 3072),
    "bert-large": (1024, 24, 16, 4096),
}
"""Name of a network -> width, layers, heads and inner width."""

ON_GPU = torch.cuda.is_available()


def random_checkpoint(name: str, folder: str) -> str:
    """Write a seeded checkpoint of one of SHAPES with the bundled tokenizer; return its path."""
    from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

    hidden, layers, heads, inner = SHAPES[name]
    # A fixed seed: the same random weights in every process.
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        vocab_size=30522,
    )
    path = f"{folder}/{name}"
    BertForQuestionAnswering(config).bfloat16().save_pretrained(path)  # half the size
    AutoTokenizer.from_pretrained(BUNDLED).save_pretrained(path)
    return path


class Utilisation:
    """Context manager that samples the GPU's utilisation, in per cent; 0 without a GPU."""

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
        while not self.done.wait(0.1):
            self.samples.append(utilisation())


def utilisation() -> int:
    """Return the GPU's utilisation, in per cent; 0 without one. Needs the package nvidia-ml-py."""
    return torch.cuda.utilization() if ON_GPU else 0


def synchronize() -> None:
    """Wait for the GPU."""
    if ON_GPU:
        torch.cuda.synchronize()


def timed(run: Callable[[], object]) -> float:
    """Return the wall seconds of a call, including its work on the device."""
    synchronize()
    begun = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - begun


def annotate(arguments: list[str]) -> float:
    """Return the seconds of one job from its claim on, without start-up."""
    job, run = prepare(["annotate", *arguments])
    seconds = timed(run)
    manifest = json.loads(Path(job.output, "manifest.json").read_text("utf-8"))
    if manifest["state"] != "complete" or manifest["rows"]["rejected"]:
        raise SystemExit(f"{arguments}: {manifest['state']}, {manifest['rows']}")
    return seconds


def answers(output: str) -> list[tuple]:
    """Return (id, start, end) of each row of an output."""
    tables = [
        pq.read_table(part, columns=["id", "answer_start", "answer_end"])
        for part in sorted(Path(output).glob("parts/*"))
    ]
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


@dataclass(frozen=True)
class Case:
    """A network to measure.

    copies  how often the rows of the corpus are repeated for annotate
    """

    name: str
    model: str
    dtype: str
    copies: int


def distinct_copies(corpus: str, copies: int) -> pa.Table:
    """Return the rows `copies` times, with other questions each time: equal pairs are read once."""
    table = pq.read_table(corpus)
    at = table.schema.get_field_index("question")
    questions = table["question"].to_pylist()
    asked = ([f"{question}{' ?' * copy}" for question in questions] for copy in range(copies))
    return pa.concat_tables(table.set_column(at, "question", pa.array(each)) for each in asked)


def measure(case: Case, corpus: str, folder: str, options: argparse.Namespace) -> None:
    """Measure a network in turns; print medians of the rounds for each number of threads."""
    name, dtype, copies = case.name, case.dtype, case.copies
    reader = CheckpointReader(LocalFolder(case.model), dtype=dtype)
    reader.load()
    windows = make_examples(read_training_rows(corpus), reader.tokenizer(), 384, 128, 64).windows
    batches = [
        assemble(windows, chosen) for chosen in plan_batches(windows.lengths, options.batch_tokens)
    ]
    repeated = f"{folder}/{copies}.parquet"
    pq.write_table(distinct_copies(corpus, copies), repeated, row_group_size=4096)

    # The two methods.

    @torch.inference_mode()
    def limit() -> None:
        for batch in batches:
            reader.logits(batch)

    def whole(threads: int, turn: int, *more: str) -> float:
        if threads > 1:
            more += ("--direct_running_mode=multi_threading", f"--direct_num_workers={threads}")
        arguments = [f"--input={repeated}", f"--output={folder}/{name}-{dtype}-{threads}-{turn}"]
        arguments += [f"--model={case.model}", f"--dtype={dtype}"]
        return annotate([*arguments, f"--batch_tokens={options.batch_tokens}", *more])

    # Warm up, then measure both in turns.
    limit()
    whole(1, -1, "--limit=2000")
    counts = [int(count) for count in options.threads.split(",")]
    bare: list[float] = []
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    used: dict[int, list[int]] = {count: [] for count in counts}
    peak = dict.fromkeys(counts, 0)
    utilisation()  # raises now, not in a thread, if its package is missing
    for turn in range(options.rounds):
        bare.append(timed(limit))
        for count in counts:
            if ON_GPU:
                torch.cuda.reset_peak_memory_stats()
            with Utilisation() as sampled:
                seconds[count].append(whole(count, turn))
            used[count] += sampled.samples or [0]
            peak[count] = max(peak[count], torch.cuda.max_memory_allocated())

    best = len(windows) / statistics.median(bare)
    print(
        f"{name}, {dtype}: the limit {best:.0f} windows/s ({[round(each, 3) for each in bare]})",
        flush=True,
    )
    for count in counts:
        rate = copies * len(windows) / statistics.median(seconds[count])
        print(
            f"{name}, {dtype}, {count} threads: {rate:.0f} windows/s, "
            f"{rate / best:.3f} of the limit, utilisation {statistics.fmean(used[count]):.0f} %, "
            f"peak {peak[count] / 2**20:.0f} MiB, "
            f"seconds {[round(each, 2) for each in seconds[count]]}",
            flush=True,
        )


def compare_capped(corpus: str, folder: str) -> None:
    """Print how many answers stay the same when the memory of the device is capped."""
    arguments = [f"--input={corpus}", f"--model={BUNDLED}", "--dtype=bfloat16"]
    annotate([*arguments, f"--output={folder}/free"])
    torch.cuda.empty_cache()
    before = torch.cuda.memory_stats()["num_ooms"]
    # 300 MiB above what the model takes: enough for small batches, too little for large ones.
    room = torch.cuda.memory_reserved() + 300 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
    annotate([*arguments, f"--output={folder}/capped"])
    free, capped = (answers(f"{folder}/{output}") for output in ("free", "capped"))
    same = sum(a == b for a, b in zip(capped, free, strict=True))
    ran_out = torch.cuda.memory_stats()["num_ooms"] - before
    print(
        f"memory capped: {ran_out} allocations failed, {same} of {len(free)} answers as without "
        "the cap"
    )


def measure_both(options: argparse.Namespace) -> None:
    """Measure each network with the code of `--before` and with this one, in separate processes."""
    passed = {"input": Path(options.input).absolute()}
    for name in ("rows", "rounds", "batch_tokens", "dtypes", "threads", "copies"):
        passed[name] = getattr(options, name)
    arguments = [f"--{name}={value}" for name, value in passed.items()]
    for model in options.models.split(","):
        for code in (Path(options.before).absolute(), BUNDLED.parents[1]):
            print(f"{model} with the code in {code.name}:", flush=True)
            subprocess.run(
                [sys.executable, __file__, *arguments, f"--models={model}"],
                env={**os.environ, "PYTHONPATH": str(code)},
                check=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True)
    parser.add_argument("--rows", type=int, default=8000, help="only the first N rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch_tokens", type=int, default=65536)
    parser.add_argument("--models", default="bundled,bert-base,bert-large")
    parser.add_argument("--dtypes", default="bfloat16")
    parser.add_argument(
        "--threads", default="2", help="numbers of threads of the runner, measured in turns"
    )
    parser.add_argument(
        "--copies",
        default="bundled=4,bert-base=2,bert-large=1",
        help="how often rows are repeated, by network, so that runs take seconds",
    )
    parser.add_argument("--before", help="a checkout of the version to compare with")
    parser.add_argument("--capped", action="store_true", help="measure limited memory, too")
    options = parser.parse_args()
    if options.before and options.capped:
        parser.error("--capped measures one version: leave out --before")
    if options.before:
        measure_both(options)
        return
    logging.disable(logging.INFO)
    copies = dict(each.split("=") for each in options.copies.split(","))
    print(json.dumps(describe()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus = f"{folder}/rows.parquet"
        pq.write_table(pq.read_table(options.input).slice(0, options.rows), corpus)
        for name in options.models.split(","):
            model = str(BUNDLED) if name == "bundled" else random_checkpoint(name, folder)
            for dtype in options.dtypes.split(","):
                case = Case(name, model, dtype, int(copies.get(name, 1)))
                measure(case, corpus, folder, options)
        if options.capped:
            compare_capped(corpus, folder)


if __name__ == "__main__":
    main()
