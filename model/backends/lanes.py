"""Lanes: threads that each compute a batch of their own.

Cores that share one batch wait for each other after every operation; lanes do not.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")

MOST_LANES = 8
"""Most lanes on a CPU: each has a batch in memory, and only one runs Python code at a time."""


def lanes_of(device: torch.device) -> int:
    """Return how many batches to compute at a time, at most.

    On a CPU one per torch thread, up to MOST_LANES. On a GPU 1: one thread queues batches without
    waiting for them, and a second one would only compete for Python's interpreter lock.
    """
    return min(threads_of_process(), MOST_LANES) if device.type == "cpu" else 1


def threads_of_process() -> int:
    """Return how many threads torch computes with; call it while no lanes run.

    Lanes reduce the number for the process. A thread that first uses torch while lanes run keeps
    the reduced number until it calls `in_lanes`, so this asks in a new thread.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def in_lanes(task: Callable[[Item], object], waiting: list[Item], lanes: int) -> None:
    """Call `task` with every item of `waiting`, the last first, in up to `lanes` threads at once.

    Empties `waiting`; a task may append to it. Lanes share torch's threads, and their number is the
    one that leaves the fewest of these idle. A single lane runs in the caller's thread.

    An exception in a task stops all lanes and is raised after they have ended. An interrupt of the
    caller stops them too. Not reentrant: changes torch's process-wide thread count.
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

    def used_threads(count: int) -> int:
        return count * max(1, threads // count)

    # Among numbers of lanes that use as many threads, more lanes wait less for each other.
    lanes = max(range(1, max(1, lanes) + 1), key=lambda count: (used_threads(count), count))
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
        torch.set_num_threads(threads)  # the lanes reduced the process's number
    # Raise what a task raised.
    for lane in running:
        lane.result()
