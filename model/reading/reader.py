"""The reader: what gives start and end logits for batches, behind a contract of four methods."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from model.backends.cpu_network import int8_is_faster, multiplies_bfloat16
from model.backends.lanes import lanes_of
from model.checkpoint import CheckpointError, Location, digest, read_settings, refuse_unsafe
from model.reading.batching import Batch
from model.reading.network import Network
from model.reading.tokenizer import Tokenizer
from model.reading.tokenizer_processes import TokenizerProcesses
from model.settings import BOTH, flag, one_of, setting, text, whole

_log = logging.getLogger("spanmill")

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}


@dataclass(frozen=True)
class ModelSettings:
    """Which checkpoint, and how its network runs."""

    model: str = setting(
        "bundled",
        text("DIR_OR_ID"),
        "folder, URL or hub id[@revision] of a question-answering checkpoint",
    )
    device: str = setting(
        "auto",
        text("DEVICE", r"auto|cpu|cuda(:[0-9]+)?", "auto, cpu, cuda or cuda:N"),
        "device of the network; auto is CUDA if available",
    )
    dtype: str = setting(
        "auto",
        one_of(auto="auto", **{name: name for name in DTYPES}),
        "number format of the network; auto is bfloat16 where the device computes in it at full "
        "speed, else int8 on a CPU that is faster in it if the checkpoint tolerates it, else "
        "float32; int8 is for the linear layers",
        identity=BOTH,
    )
    compile: bool = setting(
        False,
        flag(),
        "compile the network with torch.compile: slower to start, faster on long runs",
    )
    batch_tokens: int = setting(
        4096,
        whole(1, 10**8),
        "padded tokens per batch",
        unset="4096 on a CPU, 65536 on CUDA",
        identity=BOTH,
    )
    tokenizer_processes: int = setting(
        0,
        whole(0, 64),
        "extra processes that tokenize for the one that feeds the device; with 0, it tokenizes",
        unset="2 on CUDA, 0 on a CPU and where workers are processes or on other machines",
    )


class Reader(Protocol):
    """What the prediction loop needs of a model.

    Readers are picklable values; two are equal if they load the same network in the same way.
    """

    def load(self) -> None:
        """Load the network; idempotent. Raises CheckpointError or TokenizerError."""
        ...

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer without loading the network. Raises TokenizerError."""
        ...

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return raw start and end logits, float32 [B, L] each, on the reader's device.

        Up to `lanes()` threads call this at once.
        """
        ...

    def lanes(self) -> int:
        """Return how many batches may be computed at a time (see `model.backends.lanes`)."""
        ...


AnyReader = TypeVar("AnyReader", bound=Reader)

_shared: dict[Any, Any] = {}
"""A reader -> the first one of this process that equals it."""
_shared_lock = threading.Lock()


def shared(reader: AnyReader) -> AnyReader:
    """Return this process's one reader that equals `reader`.

    Through it all threads and steps share one loaded network.
    """
    with _shared_lock:
        return _shared.setdefault(reader, reader)


@dataclass(frozen=True)
class CheckpointReader:
    """Any `AutoModelForQuestionAnswering` checkpoint with a fast tokenizer and safetensors weights.

    location  where the checkpoint is
    digest    SHA-256 (hex) of its files, checked when it is loaded; "" for no check
    device    "auto" (CUDA if there is one that works), "cpu", "cuda" or "cuda:N"
    dtype     of the encoder: "float32", "bfloat16", "float16" or "int8", which is its linear layers
              in int8 and all else in float32; the start and end heads always compute in float32
    compile   whether to pass the network through torch.compile if that works
    tokenizer_processes  how many processes tokenize; 0: this one does
    """

    location: Location
    digest: str = ""
    device: str = "auto"
    dtype: str = "float32"
    compile: bool = False
    tokenizer_processes: int = 0

    def __getstate__(self) -> dict[str, Any]:
        # Pickle the fields only, never the cached network.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def folder(self) -> Path:
        """Return the checkpoint's local folder, fetched if necessary. Raises CheckpointError."""
        folder = self.location.folder()
        refuse_unsafe(folder)
        if self.digest and digest(folder) != self.digest:
            raise CheckpointError(
                f"the checkpoint in {folder} is not the one that this run was started with"
            )
        return folder

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        position = read_settings(self.folder).passage_position
        if not self.tokenizer_processes:
            return Tokenizer(self.folder, position)
        return TokenizerProcesses(self.folder, position, self.tokenizer_processes)

    @cached_property
    def _network(self) -> Network:
        network = Network(
            self.folder, resolve_device(self.device), DTYPES[self.dtype], self.compile
        )
        network.try_on(self._tokenizer)
        return network

    def load(self) -> None:
        """Load the network; idempotent. Raises CheckpointError or TokenizerError."""
        # From Python 3.12 on `cached_property` does not lock: two threads would load two networks.
        with _shared_lock:
            _ = self._network

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer without loading the network. Raises TokenizerError."""
        with _shared_lock:
            return self._tokenizer

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return raw start and end logits, float32 [B, L] each, on the reader's device."""
        return self._network(batch)

    def lanes(self) -> int:
        """Return how many batches may be computed at a time; 1 for a network with state."""
        return lanes_of(self._network.device) if self._network.stateless else 1

    def positions(self) -> int | None:
        """Return the most tokens of a window that the network takes; None without a limit."""
        return self._network.positions

    def padding(self) -> int | None:
        """Return the token id that the network takes for padding; None if its config names none."""
        return self._network.padding


def resolve_device(device: str) -> torch.device:
    """Return the torch device of `--device`. Raises ValueError for one that isn't there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and _cuda_computes() else "cpu")
    # torch accepts any index here and fails later.
    resolved = torch.device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return resolved


@cache
def _cuda_computes() -> bool:
    """Return whether the first CUDA device can multiply matrices.

    A device may be present that this build of torch has no code for, or that other processes use
    exclusively.
    """
    try:
        torch.ones(8, 8, device="cuda").mm(torch.ones(8, 8, device="cuda")).cpu()
    # A torch that was built without CUDA raises AssertionError.
    except (RuntimeError, AssertionError) as error:
        _log.warning(
            "--device auto: using the CPU, because the CUDA device can't be used (%s)",
            str(error).splitlines()[0],
        )
        return False
    return True


def resolve_dtype(dtype: str, device: str, tolerates_int8: bool = False) -> str:
    """Return the dtype of `--dtype`: for auto, the one that is faster than float32 on the device.

    tolerates_int8  whether int8 may be taken, after bfloat16, which changes fewer answers
    """
    if dtype != "auto":
        return dtype
    resolved = resolve_device(device)
    if bfloat16_is_faster(resolved):
        return "bfloat16"
    return "int8" if tolerates_int8 and resolved.type == "cpu" and int8_is_faster() else "float32"


@cache
def bfloat16_is_faster(device: torch.device) -> bool:
    """Return whether bfloat16 is full-speed on a GPU, or much faster than float32 on a CPU.

    The instruction set of a CPU doesn't decide this: with AVX-512 BF16, bfloat16 is much faster on
    one vendor's cores and much slower on another's (benchmarks/LOG.md), and oneDNN may be
    configured not to use it. So this times one product of an encoder's size. On a loaded machine
    two calls in different processes may disagree.
    """
    # Older GPUs emulate bfloat16, which is slow.
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without these instructions a CPU emulates it too; no need to time that.
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    if not multiplies_bfloat16():
        return False
    # The least of several turns is closest to what an idle core takes.
    least = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(7):
        for dtype in least:
            tokens = torch.zeros(512, 384, dtype=dtype)
            weights = torch.zeros(1536, 384, dtype=dtype)
            started = time.perf_counter()
            torch.nn.functional.linear(tokens, weights)
            least[dtype] = min(least[dtype], time.perf_counter() - started)
    # The margin keeps cores that are about as fast in both from changing their answer.
    return least[torch.bfloat16] < 0.8 * least[torch.float32]
