"""Runs in processes of their own that start at once: forked from a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertForQuestionAnswering  # noqa: F401  # for the forks

import run_pipeline

_context = multiprocessing.get_context("forkserver")


def _run(arguments: Sequence[str], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    torch.set_num_threads(1)
    code = run_pipeline.main(arguments)
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB", flush=True)
    os._exit(code)


def start(arguments: Sequence[str], log: Path) -> BaseProcess:
    """`run_pipeline.py ARGUMENTS...` in a new process; what it prints, and its peak memory, in a file."""
    _context.set_forkserver_preload([__name__])
    process = _context.Process(target=_run, args=(list(arguments), str(log)))
    process.start()
    return process
