"""Retries: which errors are transient, how often operations are retried, and the count."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import fsspec.exceptions
import pytest
from huggingface_hub.errors import HfHubHTTPError

from transforms import retries
from transforms.retries import is_transient, retried, take_retries


class _Told(Exception):
    """An error with an HTTP status, in one of the forms that libraries use."""

    def __init__(self, **told: Any):
        super().__init__("odd")
        for name, value in told.items():
            setattr(self, name, value)


def of_library(module: str, name: str, base: type[Exception] = Exception) -> Exception:
    """Return an error of a class of that name, as a library that is not installed raises it."""
    return type(name, (base,), {"__module__": module})("odd")


def of_hub(status: int) -> HfHubHTTPError:
    """Return an error of the Hugging Face hub's library, which is an OSError without an errno."""
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError("odd", response=response)


TRANSIENT = [
    *(
        OSError(number, "odd")
        for number in (errno.EIO, errno.ECONNRESET, errno.ETIMEDOUT, errno.EBUSY, errno.ESTALE)
    ),
    ConnectionResetError(errno.ECONNRESET, "odd"),
    OSError("a store's own"),
    TimeoutError(),
    fsspec.exceptions.FSTimeoutError(),
    *(_Told(code=code) for code in (408, 429, 500, 503)),
    _Told(status=502),
    _Told(response={"ResponseMetadata": {"HTTPStatusCode": 503}}),
    of_hub(429),
    of_library("httpx2", "ConnectError", type(of_library("httpx2", "TransportError"))),
    of_library("aiohttp.client_exceptions", "ClientPayloadError"),
    of_library(
        "aiohttp.client_exceptions",
        "ServerDisconnectedError",
        type(of_library("aiohttp.x", "ClientConnectionError")),
    ),
    of_library(
        "botocore.exceptions",
        "ReadTimeoutError",
        type(of_library("botocore.exceptions", "HTTPClientError")),
    ),
]

LASTING = [
    FileNotFoundError("gone"),
    FileExistsError(errno.EEXIST, "there"),
    PermissionError(errno.EACCES, "odd"),
    IsADirectoryError(),
    OSError(errno.ENOSPC, "full"),
    OSError(errno.EDQUOT, "full"),
    OSError(errno.EROFS, "odd"),
    OSError(errno.ENAMETOOLONG, "odd"),
    *(_Told(code=code) for code in (400, 401, 403, 404, 412)),
    _Told(response={"ResponseMetadata": {"HTTPStatusCode": 403}}),
    of_hub(403),
    of_library("mylib", "ClientPayloadError"),
    ValueError("odd"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_faults_that_may_pass(error: BaseException):
    assert is_transient(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_faults_that_stay(error: BaseException):
    assert not is_transient(error)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the list of pauses, none of which is made. The count of retries starts at zero."""
    made: list[float] = []
    monkeypatch.setattr(retries.POLICY, "sleep", made.append)
    take_retries()
    return made


def failing(times: int, error: BaseException) -> Callable[[str], str]:
    """Return an operation that fails this many times."""
    left = [error] * times

    @retried
    def fetch(path: str) -> str:
        """Fetch the path."""
        if left:
            raise left.pop()
        return f"content of {path}"

    return fetch


def test_a_fault_that_passes_is_outlived_and_told(
    pauses: list[float], caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, "spanmill"):
        assert failing(3, OSError(errno.EIO, "odd"))("/a/b") == "content of /a/b"
    assert len(pauses) == 3
    assert all(0 <= pause <= 20 for pause in pauses)
    assert [record.message.split(" in ")[0] for record in caplog.records] == [
        f"fetch(/a/b) failed, retrying (try {number})" for number in (2, 3, 4)
    ]
    assert "odd" in caplog.text
    assert take_retries() == 3
    assert take_retries() == 0


def test_pauses_grow(pauses: list[float], monkeypatch: pytest.MonkeyPatch):
    """Pauses are random, so that workers do not retry in step; their upper bound doubles."""
    monkeypatch.setattr("tenacity.wait.random.uniform", lambda low, high: high)
    failing(5, TimeoutError())("a")
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2])


def test_a_fault_that_stays_is_raised_as_it_is(pauses: list[float]):
    fault = TimeoutError("odd")
    with pytest.raises(TimeoutError) as raised:
        failing(100, fault)("a")
    assert raised.value is fault
    assert len(pauses) == 5
    assert take_retries() == 5


def test_another_error_is_raised_at_once(pauses: list[float]):
    with pytest.raises(PermissionError):
        failing(1, PermissionError())("a")
    assert pauses == []


def test_the_operation_keeps_its_name_and_words():
    fetch = failing(0, ValueError())
    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Fetch the path.")
