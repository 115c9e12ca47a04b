"""Memory settings: the user's stay, and other C libraries have none."""

from __future__ import annotations

import ctypes
import logging
import os

import pytest

from model.backends.memory import keep_memory, return_memory


@pytest.fixture(autouse=True)
def nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES":
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "calls"), [("MALLOC_ARENA_MAX", 0), ("GLIBC_TUNABLES", 0), ("UNRELATED", 3)]
)
def test_memory_settings_of_the_user_stay(
    monkeypatch: pytest.MonkeyPatch, name: str, calls: int
) -> None:
    made: list[tuple[int, int]] = []
    library = type("Library", (), {"mallopt": staticmethod(lambda *given: made.append(given))})
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setenv(name, "1")
    keep_memory()
    assert len(made) == calls


@pytest.mark.parametrize(
    "error", [OSError("no such library"), AttributeError("mallopt"), TypeError("bad argument type")]
)
def test_other_c_libraries_have_no_memory_settings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def open_library(_: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", open_library)
    with caplog.at_level(logging.INFO, "spanmill"):
        keep_memory()
        return_memory()  # no-op
    assert "this C library has no mallopt" in caplog.text


def test_free_memory_is_returned_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """No padding stays at the top of the heap: the argument is 0."""
    made: list[int] = []
    library = type("Library", (), {"malloc_trim": staticmethod(made.append)})
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    return_memory()
    assert made == [0]
