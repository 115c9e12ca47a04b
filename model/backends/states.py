"""A cache of what lower layers made of texts, bounded in bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future

import torch

Compute = Callable[[list[int]], Sequence[torch.Tensor]]


class StateCache:
    """States by key, each computed by one lane; the oldest are dropped beyond `most_bytes`.

    A dropped state is recomputed when it is asked for again.
    """

    def __init__(self, most_bytes: int):
        self._most_bytes, self._bytes = most_bytes, 0
        self._lock = threading.Lock()
        self._states: dict[bytes, Future[torch.Tensor]] = {}
        # States that were computed together may be views of one tensor: they are dropped together.
        self._blocks: deque[tuple[list[bytes], int]] = deque()

    def take(self, keys: Sequence[bytes], compute: Compute) -> list[torch.Tensor]:
        """Return the state of each key; several lanes may call this at once.

        compute  returns the states of `keys[k]` for each k of a list: those that neither the cache
                 has nor another lane is computing

        Raises what `compute` raises. If another lane fails, its states are computed here.
        """
        while True:
            with self._lock:
                missing: dict[bytes, int] = {}
                for k, key in enumerate(keys):
                    if key not in self._states:
                        self._states[key] = Future()
                        missing[key] = k
                waited = [self._states[key] for key in keys]
            # Compute before waiting, so that no two lanes wait for each other.
            if missing:
                self._fill(missing, compute)
            try:
                return [each.result() for each in waited]
            except CancelledError:
                continue

    def _fill(self, missing: dict[bytes, int], compute: Compute) -> None:
        """Compute the states of missing keys; on an error, leave them to the next caller."""
        try:
            states = compute(list(missing.values()))
        except BaseException:
            with self._lock:
                abandoned = [self._states.pop(key) for key in missing]
            for each in abandoned:
                each.cancel()
            raise
        with self._lock:
            for key, state in zip(missing, states, strict=True):
                self._states[key].set_result(state)
            size = sum(state.numel() * state.element_size() for state in states)
            self._blocks.append((list(missing), size))
            self._bytes += size
            self._drop(self._most_bytes)

    def forget(self) -> None:
        """Drop all states; those that lanes are computing stay."""
        with self._lock:
            self._drop(0)

    def _drop(self, most_bytes: int) -> None:
        """Drop the oldest blocks until the others have at most `most_bytes`; needs the lock."""
        while self._bytes > most_bytes:
            dropped, size = self._blocks.popleft()
            self._bytes -= size
            for key in dropped:
                del self._states[key]
