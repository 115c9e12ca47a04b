"""Measure everything apart from the network: windows per second and core, Parquet to Parquet.

    python -m benchmarks.host_side --input eval_squad_v1.parquet [--rows 4000] [--lock] [--steps]
    PYTHONPATH=../checkout python benchmarks/host_side.py ...   # the same with other code

The network costs almost nothing; there is one thread. The second figure is the work that the host
has with a GPU: the time of the thread that runs the steps, without the tokenizer's threads, without
decoding, which a GPU does, and without the fixed costs of a run. `--lock` adds the part of it
during which the thread holds Python's lock, so that no other thread can run Python: extension
modules release it for long operations (`lock_time.c`, which needs a C compiler). `--steps`
profiles one more run and prints where the time of that thread goes.
"""

from __future__ import annotations

import argparse
import cProfile
import ctypes
import json
import logging
import os
import pstats
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.free_reader import run_free
from benchmarks.machine import describe
from model.reading.decoding import DecodeSpans

LOCK_TIME = Path(__file__).with_name("lock_time.c")


def run_with_lock_time() -> None:
    """Run this command once more, with `lock_time.c` loaded."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        sys.exit("--lock: needs a Python that is built with --enable-shared")
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/lock_time.so"
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", library, LOCK_TIME, "-ldl"], check=True
        )
        preloaded = " ".join([library, *os.environ.get("LD_PRELOAD", "").split()])
        environment = {**os.environ, "LD_PRELOAD": preloaded}
        subprocess.run([sys.executable, *sys.orig_argv[1:]], env=environment, check=True)


def has_lock_time() -> bool:
    """Return whether `lock_time.c` is loaded."""
    return hasattr(ctypes.CDLL(None), "seconds_without_lock")


def seconds_of_thread() -> np.ndarray:
    """Return the CPU seconds of this thread, and those with Python's lock; float64 [2].

    The second is nan without `lock_time.c`.
    """
    if not has_lock_time():
        return np.array([time.thread_time(), np.nan])
    without_lock = ctypes.CDLL(None).seconds_without_lock
    without_lock.restype = ctypes.c_double
    seconds = time.thread_time()
    return np.array([seconds, seconds - without_lock()])


def in_thread(run: Callable[[], object]) -> np.ndarray:
    """Return `seconds_of_thread` of a call, without decoding."""
    decoding = np.zeros(2)
    take = DecodeSpans.take

    def timed(*arguments: Any) -> Any:
        nonlocal decoding
        begun = seconds_of_thread()
        pending = take(*arguments)
        decoding = decoding + seconds_of_thread() - begun
        return pending

    with patch.object(DecodeSpans, "take", timed):
        begun = seconds_of_thread()
        run()
        return seconds_of_thread() - begun - decoding


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True)
    parser.add_argument("--stage", default="annotate", choices=["annotate", "audit"])
    parser.add_argument("--rows", type=int, default=10**9, help="only the first N rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_tokens", type=int, default=4096, help="65536 on a GPU")
    parser.add_argument("--tokenizer_processes", type=int, default=0, help="2 on a GPU")
    parser.add_argument("--lock", action="store_true", help="measure time with Python's lock, too")
    parser.add_argument("--steps", action="store_true", help="profile one more run")
    options = parser.parse_args()
    if options.lock and not has_lock_time():
        run_with_lock_time()
        return
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        corpus = f"{folder}/rows.parquet"
        pq.write_table(pq.read_table(options.input).slice(0, options.rows), corpus)

        def once(name: str, *more: str) -> dict:
            arguments = [f"--input={corpus}", f"--output={folder}/{name}", *more]
            if options.tokenizer_processes:  # earlier versions do not have the option
                arguments.append(f"--tokenizer_processes={options.tokenizer_processes}")
            run_free([options.stage, *arguments, f"--batch_tokens={options.batch_tokens}"])
            return json.loads(Path(f"{folder}/{name}/manifest.json").read_text())

        # The first run loads what later runs find in caches.
        manifest = once("warm")
        seconds, beside_gpu = [], []
        for k in range(options.rounds):
            fixed = in_thread(partial(once, f"fixed-{k}", "--limit=1"))
            begun = time.process_time()
            beside_gpu.append(in_thread(partial(once, str(k))) - fixed)
            seconds.append(time.process_time() - begun)
        windows = manifest["windows"]
        speeds = sorted(windows / each for each in seconds)
        print(
            f"{options.stage}, {Path(options.input).stem}: {windows} windows, "
            f"CPU seconds {[round(each, 2) for each in seconds]}"
        )
        print(
            f"{statistics.median(speeds):.0f} windows per second and core "
            f"({speeds[0]:.0f} to {speeds[-1]:.0f})"
        )
        each = np.sort(1e6 * np.array(beside_gpu) / windows, 0)
        for k, name in enumerate(("with a GPU", "of them with Python's lock")):
            if np.isfinite(each[:, k]).all():
                print(
                    f"{name} {np.median(each[:, k]):.1f} microseconds per window "
                    f"({each[0, k]:.1f} to {each[-1, k]:.1f})"
                )
        print(json.dumps(describe()))
        if options.steps:
            profile = cProfile.Profile(time.thread_time)
            profile.runcall(once, "profiled")
            pstats.Stats(profile).sort_stats("cumulative").print_stats(60)


if __name__ == "__main__":
    main()
