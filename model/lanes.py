"""Lanes: threads that each work on a batch of their own, so that no core waits for another within one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

MOST_LANES = 8
"""On a CPU: more, and Python itself, which runs one thread at a time, would keep them waiting."""


def lanes_of(device: torch.device) -> int:
    """How many batches to work on at a time.

    On a CPU one for each of torch's threads, at most MOST_LANES. On a GPU two: while it computes one, the host lays out the
    next and takes in the one before.
    """
    return min(torch.get_num_threads(), MOST_LANES) if device.type == "cpu" else 2


def in_lanes(work: Callable[[], None], lanes: int) -> None:
    """Runs `work` in so many threads at once, which share torch's threads evenly; in the caller's own thread for one.

    Returns when all have ended; raises what the first of them raised.
    """
    if lanes <= 1:
        work()
        return
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(lanes, "lane", lambda: torch.set_num_threads(max(1, threads // lanes))) as pool:
        running = [pool.submit(work) for _ in range(lanes)]
    torch.set_num_threads(threads)  # a part of the setting is the process's
    for lane in running:
        lane.result()
