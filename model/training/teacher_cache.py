"""Stored probabilities of a teacher: computed once per window, read in later epochs and trainings.

A store is a folder of shards, one per teacher. Each shard is an .npz file that holds the
probabilities of some thousands of windows in float16, each under a digest of the tokens that the
teacher reads. So a stored window serves every training in which the same question is asked of the
same tokens, whatever the other windows are. Shards are written whole, under names of their own:
several trainings may share a store, and a killed one keeps the shards that it wrote.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.reading.windows import Windows

_log = logging.getLogger("spanmill.train")

SHARD_WINDOWS, SHARD_SECONDS = 4096, 300.0
"""A shard is written at this number of windows, or this many seconds after its first."""

_KEY_BYTES = 16


def store_name(digest: str, null: bool) -> str:
    """Return the name of the folder for a teacher.

    digest  of the teacher's files, its tokenizer's included (see `model.checkpoint.digest`)
    null    whether the null option is one of the outcomes
    """
    return f"{digest[:16]}-{'null' if null else 'spans'}"


def window_keys(windows: Windows) -> list[bytes]:
    """Return a digest of the question tokens and the context tokens of each window."""
    questions, passages = windows.questions, windows.passages
    asked = windows.pair_question[windows.pair].tolist()
    base = passages.bounds[windows.pair_passage[windows.pair]]
    keys = []
    bounds = zip((base + windows.start).tolist(), (base + windows.stop).tolist(), strict=True)
    for question, (start, stop) in zip(asked, bounds, strict=True):
        ids = np.concatenate([questions[question], [-1], passages.ids[start:stop]])
        content = ids.astype("<i4").tobytes()
        keys.append(hashlib.blake2b(content, digest_size=_KEY_BYTES).digest())
    return keys


@dataclass(frozen=True, slots=True)
class _Shard:
    """The probabilities of W windows, dense or sparse; window k has m_k outcomes for each side.

    keys       uint8 [W, 16]
    outcomes   int64 [W], m_k
    values     float16, dense [sum of 2 m_k], sparse only those that are not 0
    positions  uint16 or uint32, index of each value among the outcomes; empty if dense
    counts     int64 [2 W], values of each side of each window; empty if dense
    """

    keys: np.ndarray
    outcomes: np.ndarray
    values: np.ndarray
    positions: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, keys: Sequence[bytes], probabilities: Sequence[np.ndarray]) -> _Shard:
        """Return the smaller of the two forms of probabilities, float16 [2, m_k] each."""
        outcomes = np.array([each.shape[1] for each in probabilities], np.int64)
        values = np.concatenate([each.reshape(-1) for each in probabilities])
        kept = np.flatnonzero(values)
        sides = np.repeat(outcomes, 2)
        begin = np.cumsum(sides) - sides
        positions = np.arange(len(values)) - np.repeat(begin, sides)
        narrow = np.min_scalar_type(int(outcomes.max(initial=0)))
        narrow = np.dtype(np.uint32) if narrow.itemsize > 2 else np.dtype(np.uint16)
        named = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY_BYTES)
        nothing = np.zeros(0, np.int64)
        if len(kept) * (2 + narrow.itemsize) + 8 * len(sides) >= 2 * len(values):
            return cls(named, outcomes, values, nothing.astype(narrow), nothing)
        counts = np.bincount(np.repeat(np.arange(len(sides)), sides)[kept], minlength=len(sides))
        return cls(named, outcomes, values[kept], positions[kept].astype(narrow), counts)

    @classmethod
    def read(cls, path: Path) -> _Shard:
        """Read a shard. Raises ValueError, OSError, KeyError or BadZipFile for a damaged one."""
        with np.load(path, allow_pickle=False) as arrays:
            shard = cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        held = shard.counts.sum() if len(shard.counts) else 2 * shard.outcomes.sum()
        if len(shard.values) != held or shard.keys.shape != (len(shard.outcomes), _KEY_BYTES):
            raise ValueError("its arrays do not match")
        return shard

    def ends(self) -> np.ndarray:
        """Return the index in `values` at which each side of each window ends, int64 [2 W]."""
        return np.cumsum(self.counts if len(self.counts) else np.repeat(self.outcomes, 2))

    def write(self, path: Path) -> None:
        """Write the file in one step: a killed process leaves none, or the whole."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez(file, **{name: getattr(self, name) for name in self.__dataclass_fields__})
        os.replace(temporary, path)


class ProbabilityStore:
    """The stored probabilities of one teacher, by window key; float16 [2, outcomes] each."""

    def __init__(self, folder: Path, description: dict[str, object]):
        """Open a store, or begin one; skip damaged shards with a warning.

        The description goes into the store's teacher.json for people to read.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "teacher.json").write_text(json.dumps(description, indent=2))
        self._folder = folder
        self._shards: list[tuple[_Shard, np.ndarray]] = []
        self._at: dict[bytes, tuple[int, int]] = {}
        self._waiting: dict[bytes, np.ndarray] = {}
        self._since = 0.0
        for path in sorted(folder.glob("shard-*.npz")):
            try:
                self._hold(_Shard.read(path))
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                _log.warning("%s is damaged, and its windows are recomputed: %s", path, error)

    def __len__(self) -> int:
        return len(self._at) + len(self._waiting)

    def __contains__(self, key: bytes) -> bool:
        return key in self._at or key in self._waiting

    def __getitem__(self, key: bytes) -> np.ndarray:
        """Return the probabilities of a window. Raises KeyError if it has none."""
        if key in self._waiting:
            return self._waiting[key]
        which, row = self._at[key]
        shard, ends = self._shards[which]
        begin = int(ends[2 * row - 1]) if row else 0
        middle, end = ends[2 * row : 2 * row + 2].tolist()
        if not len(shard.counts):
            return shard.values[begin:end].reshape(2, -1)
        whole = np.zeros((2, int(shard.outcomes[row])), np.float16)
        for side, (low, high) in enumerate([(begin, middle), (middle, end)]):
            whole[side, shard.positions[low:high]] = shard.values[low:high]
        return whole

    def __setitem__(self, key: bytes, probabilities: np.ndarray) -> None:
        """Store the probabilities of a window; write a shard if it is time to."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting[key] = probabilities.astype(np.float16)
        late = time.monotonic() - self._since > SHARD_SECONDS
        if late or len(self._waiting) >= SHARD_WINDOWS:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet on disk as a shard; no-op if everything is."""
        if not self._waiting:
            return
        shard = _Shard.of(list(self._waiting), list(self._waiting.values()))
        name = hashlib.blake2b(shard.keys.tobytes(), digest_size=8).hexdigest()
        shard.write(self._folder / f"shard-{name}.npz")
        self._hold(shard)
        self._waiting = {}

    def _hold(self, shard: _Shard) -> None:
        """Make the windows of a shard available."""
        for row, key in enumerate(shard.keys):
            self._at[key.tobytes()] = len(self._shards), row
        self._shards.append((shard, shard.ends()))
