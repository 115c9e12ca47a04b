"""Processes that start at once, forked from a server that has imported everything.

A new process would import for seconds.
"""

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
from transformers import (  # noqa: F401  # for the forked processes
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertForQuestionAnswering,
)

import run_pipeline

_context = multiprocessing.get_context("forkserver")


def _run(function: Callable[[], int], log: str, environment: dict[str, str]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.clear()  # of the server, from when it was started
    os.environ.update(environment)
    tempfile.tempdir = None
    torch.set_num_threads(1)
    code = function()
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB", flush=True)
    os._exit(code)


def start(arguments: Sequence[str], log: Path) -> BaseProcess:
    """Run `run_pipeline.py ARGUMENTS...` in a new process.

    Its output and its peak memory go to a file.
    """
    return start_function(partial(run_pipeline.main, list(arguments)), log)


def start_function(function: Callable[[], int], log: Path) -> BaseProcess:
    """Run a function in a new process with this one's environment.

    Its value is the exit code.
    """
    _context.set_forkserver_preload([__name__])
    process = _context.Process(target=_run, args=(function, str(log), dict(os.environ)))
    process.start()
    return process
