"""Errors of a device: what they mean, and how a computation that may fail is run."""

from __future__ import annotations

from collections.abc import Callable

import torch


def error_of(compute: Callable[[], None]) -> BaseException | None:
    """Run a computation and return the Exception or the panic that it raised, or None.

    The exception has no traceback, which would keep the batch in memory. An error that says that
    the device is lost is raised, like an interrupt.
    """
    try:
        compute()
    except BaseException as error:
        if device_lost(error) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    return None


def reason_of(error: BaseException, otherwise: str) -> tuple[str, str]:
    """Return the reason of a computation that failed and a message.

    The reason is "out_of_memory" or `otherwise`.
    """
    reason = "out_of_memory" if out_of_memory(error) else otherwise
    return reason, f"{type(error).__name__}: {error}"


def is_panic(error: BaseException) -> bool:
    """Return whether a Rust library (the tokenizer) panicked, which raises a BaseException."""
    return type(error).__name__ == "PanicException"


def out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of the host or of the device is full."""
    # Torch has no exception of its own for a CPU's memory, nor for pinned memory.
    messages = "can't allocate memory", "CUDA error: out of memory"
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        message in str(error) for message in messages
    )


def of_values(error: BaseException) -> bool:
    """Return whether an error comes from the values of a computation, so that it would come again.

    Errors of the machine may not, nor RuntimeError, which torch raises for most of them.
    """
    return isinstance(error, ArithmeticError | LookupError | TypeError | ValueError)


def device_lost(error: BaseException) -> bool:
    """Return whether the device will fail every computation from now on."""
    return isinstance(error, getattr(torch, "AcceleratorError", ())) and not out_of_memory(error)


def free_memory(error: BaseException) -> None:
    """Return cached memory to the GPU if the error is one of memory."""
    if out_of_memory(error) and torch.cuda.is_available():
        torch.cuda.empty_cache()
