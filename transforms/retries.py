"""Retries: repeats operations on a store that fail with a transient error.

Pauses grow from try to try. Every retry is logged and counted.
"""

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

_PERMANENT = (
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
"""HTTP status codes of time-outs, too many requests, and errors of the server."""

_TRANSIENT_CLASSES = {
    "aiohttp.ClientConnectionError",
    "aiohttp.ClientPayloadError",
    "botocore.HTTPClientError",
    "botocore.IncompleteReadError",
    "botocore.ResponseStreamingError",
    "google.TransportError",
    "httpx.TransportError",
    "httpx2.TransportError",
    "urllib3.HTTPError",
}
"""Package and class of errors that libraries below fsspec raise besides OSError.

They are compared by name, so that none of the libraries needs to be installed.
"""


def is_transient(error: BaseException) -> bool:
    """Return whether an operation on a store that failed with this error may succeed on a retry.

    An OSError without an errno is an unspecified failure of a store, and counts as transient.
    """
    # These may have an errno in the list or a status, but retrying does not change them.
    if isinstance(error, _PERMANENT):
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
    """Return the HTTP status in an error of botocore, aiohttp, gcsfs or the hub's, None without."""
    response = getattr(error, "response", None)
    candidates = [getattr(error, name, None) for name in ("status", "code")]
    candidates.append(getattr(response, "status_code", None))  # huggingface_hub
    if isinstance(response, dict):  # botocore
        candidates.insert(0, response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    # gcsfs has the status in `code`, aiohttp in `status`; both may be something else entirely.
    for status in candidates:
        if isinstance(status, int) and 400 <= status < 600:
            return status
    return None


_lock = threading.Lock()
_unreported = 0


def take_retries() -> int:
    """Return the number of retries of this process since the last call.

    Each retry is reported once, in the next receipt of the process.
    """
    global _unreported
    with _lock:
        taken, _unreported = _unreported, 0
    return taken


def _report(state: tenacity.RetryCallState) -> None:
    """Count and log a retry."""
    global _unreported
    with _lock:
        _unreported += 1
    error = state.outcome.exception() if state.outcome else None
    pause = state.next_action.sleep if state.next_action else 0.0
    _log.warning(
        "%s(%s) failed, retrying (try %d) in %.1f s: %s: %s",
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
    before_sleep=_report,
    reraise=True,
)
"""Six tries within about ten seconds, on top of the retries of s3fs and gcsfs."""


def retried(operation: Callable[P, R]) -> Callable[P, R]:
    """Make an idempotent operation retry after transient errors."""

    @functools.wraps(operation)
    def with_retries(*args: P.args, **kwargs: P.kwargs) -> R:
        return POLICY(operation, *args, **kwargs)

    return with_retries
