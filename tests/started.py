"""Processes that start at once, where a new one imports for seconds: forked from a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertForQuestionAnswering  # noqa: F401  # for the forks

import run_pipeline

_context = multiprocessing.get_context("forkserver")


def _run(function: Callable[[], int], log: str, environment: dict[str, str]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.clear()  # the server's, of when it was started
    os.environ.update(environment)
    tempfile.tempdir = None
    torch.set_num_threads(1)
    code = function()
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB", flush=True)
    os._exit(code)


def start(arguments: Sequence[str], log: Path) -> BaseProcess:
    """`run_pipeline.py ARGUMENTS...` in a new process; what it prints, and its peak memory, in a file."""
    return start_function(partial(run_pipeline.main, list(arguments)), log)


def start_function(function: Callable[[], int], log: Path) -> BaseProcess:
    """Any function in a new process with this one's environment; its value is the exit code."""
    _context.set_forkserver_preload([__name__])
    process = _context.Process(target=_run, args=(function, str(log), dict(os.environ)))
    process.start()
    return process
