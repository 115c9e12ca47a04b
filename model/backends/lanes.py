"""Lanes: threads that each work on a batch of their own, so that no core waits for another within one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")

MOST_LANES = 8
"""On a CPU: each holds a batch in memory, and Python itself runs one thread at a time."""


def lanes_of(device: torch.device) -> int:
    """How many batches to work on at a time, at most.

    On a CPU one for each of torch's threads, up to MOST_LANES. On a GPU one: it is given batch after batch without waiting for
    any, and two threads that do so wait for each other at every operation (Python runs one at a time).
    """
    return min(threads_of_process(), MOST_LANES) if device.type == "cpu" else 1


def threads_of_process() -> int:
    """With how many threads torch computes, asked in a new one, while no lanes work.

    While they do, their share is what torch knows, and a thread that meets torch then keeps it until it calls `in_lanes`.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def in_lanes(task: Callable[[Item], object], waiting: list[Item], lanes: int) -> None:
    """Calls `task` with every item that waits, the last first, in up to so many threads at once; tasks may add items.

    Lanes share torch's threads; there are as many as leave the fewest of them idle. One lane is the caller's own thread. What
    a task raises ends all lanes, and is raised once they have ended; so does an interrupt of the caller. One call at a time:
    lanes change what is the process's.
    """

    def work() -> None:
        while True:
            try:
                item = waiting.pop()
            except IndexError:
                return
            try:
                task(item)
            except BaseException:
                waiting.clear()
                raise

    if not waiting:
        return
    threads = threads_of_process()
    torch.set_num_threads(threads)
    lanes = max(
        range(1, max(1, lanes) + 1), key=lambda count: (count * max(1, threads // count), count)
    )
    if lanes == 1:
        work()
        return
    pool = ThreadPoolExecutor(
        lanes, "lane", lambda: torch.set_num_threads(max(1, threads // lanes))
    )
    try:
        running = [pool.submit(work) for _ in range(lanes)]
        wait(running)
    except BaseException:
        waiting.clear()
        raise
    finally:
        pool.shutdown()
        torch.set_num_threads(threads)  # lanes changed what is the process's of this setting
    for lane in running:
        lane.result()
