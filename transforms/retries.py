"""Retries: an operation on a store that failed for the moment is tried again after growing pauses, logged, and counted."""

from __future__ import annotations

import errno
import functools
import logging
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import tenacity

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("spanmill")

_LASTING = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)

_TRANSIENT_ERRNOS = {
    getattr(errno, f"E{name}")
    for name in (
        *(
            "AGAIN",
            "BUSY",
            "INTR",
            "IO",
            "STALE",
            "PIPE",
            "TIMEDOUT",
            "CONNABORTED",
            "CONNREFUSED",
            "CONNRESET",
        ),
        *("HOSTDOWN", "HOSTUNREACH", "NETDOWN", "NETRESET", "NETUNREACH"),
        "NOTEMPTY",  # another process wrote into a folder while it was being removed
    )
}

_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
"""HTTP: time-outs, too many requests, faults of the server."""

_TRANSIENT_CLASSES = {
    "aiohttp.ClientConnectionError",
    "aiohttp.ClientPayloadError",
    "botocore.HTTPClientError",
    "botocore.IncompleteReadError",
    "botocore.ResponseStreamingError",
    "google.TransportError",
    "urllib3.HTTPError",
}
"""Package and class of what the libraries beneath s3fs, gcsfs and their like raise beside OSError; none is imported here."""


def is_transient(error: BaseException) -> bool:
    """Whether an operation on a store that failed like this may succeed if it is tried again.

    An OSError without an errno is a store's word for "it did not work", and is tried again too.
    """
    if isinstance(error, _LASTING):
        return False
    status = _http_status(error)
    if status is not None:
        return status in _TRANSIENT_STATUS
    if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno is None):
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS:
        return True
    return any(
        f"{kind.__module__.split('.')[0]}.{kind.__name__}" in _TRANSIENT_CLASSES
        for kind in type(error).__mro__
    )


def _http_status(error: BaseException) -> int | None:
    """The HTTP status that an error of botocore, aiohttp or gcsfs tells."""
    response = getattr(error, "response", None)
    told = (
        response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(response, dict)
        else None
    )
    for status in (told, *(getattr(error, name, None) for name in ("status", "code"))):
        if isinstance(status, int) and 400 <= status < 600:
            return status
    return None


_lock = threading.Lock()
_untold = 0


def take_retries() -> int:
    """How many retries this process has made since the last call: each is told once, by whichever receipt comes next."""
    global _untold
    with _lock:
        taken, _untold = _untold, 0
    return taken


def _tell(state: tenacity.RetryCallState) -> None:
    global _untold
    with _lock:
        _untold += 1
    error = state.outcome.exception() if state.outcome else None
    pause = state.next_action.sleep if state.next_action else 0.0
    _log.warning(
        "%s(%s) failed, try %d follows in %.1f s: %s: %s",
        getattr(state.fn, "__name__", "operation"),
        ", ".join(argument for argument in state.args if isinstance(argument, str)),
        state.attempt_number + 1,
        pause,
        type(error).__name__,
        error,
    )


POLICY = tenacity.Retrying(
    retry=tenacity.retry_if_exception(is_transient),
    wait=tenacity.wait_random_exponential(multiplier=0.2, max=20),
    stop=tenacity.stop_after_attempt(6),
    before_sleep=_tell,
    reraise=True,
)
"""Six tries within some ten seconds, beyond what s3fs and gcsfs do themselves."""


def retried(operation: Callable[P, R]) -> Callable[P, R]:
    """Makes an operation try again after transient faults: only for one that may be done twice."""

    @functools.wraps(operation)
    def with_retries(*args: P.args, **kwargs: P.kwargs) -> R:
        return POLICY(operation, *args, **kwargs)

    return with_retries
