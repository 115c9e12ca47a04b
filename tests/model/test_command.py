"""What commands print, refuse and return, with streams that are closed, full or not read."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model.checkpoint import CheckpointError
from model.command import argument, option, run_command, say
from model.settings import SettingError, number, whole


def full() -> io.TextIOBase:
    return open("/dev/full", "w")


def unread() -> io.TextIOBase:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


class TestSay:
    def test_it_prints(self, capfd: pytest.CaptureFixture[str]):
        assert say("灯台") is None
        assert say("a", end="") is None
        assert capfd.readouterr().out == "灯台\na"

    @pytest.mark.parametrize(
        ("stream", "why"), [(full, "No space left"), (unread, "Broken pipe")], ids=["full", "pipe"]
    )
    def test_a_stream_that_fails_does_so_once(
        self, stream: Callable[[], io.TextIOBase], why: str, monkeypatch: pytest.MonkeyPatch
    ):
        opened = stream()
        monkeypatch.setattr(sys, "stdout", opened)
        assert why in str(say("the end"))
        assert say("and more") is None  # nobody reads it
        opened.close()

    def test_a_closed_stream(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(sys, "stdout", None)
        assert "closed" in str(say("the end"))
        closed = io.StringIO()
        closed.close()
        monkeypatch.setattr(sys, "stdout", closed)
        assert "closed" in str(say("the end"))

    def test_what_the_encoding_lacks_is_escaped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        with open(tmp_path / "said", "w", encoding="ascii") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            assert say("to 灯台") is None
        assert (tmp_path / "said").read_text() == "to \\u706f\\u53f0\n"


class TestRunCommand:
    def test_what_is_returned_is_printed(self, capfd: pytest.CaptureFixture[str]):
        assert run_command(lambda: "figures") == 0
        assert capfd.readouterr() == ("figures\n", "")

    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (
                SettingError("epochs=0: must be above 0"),
                2,
                "refused: --epochs=0: must be above 0\n",
            ),
            (CheckpointError("x has no config.json"), 2, "refused: x has no config.json\n"),
            (KeyError("odd"), 3, "KeyError: 'odd'\n"),
            (KeyboardInterrupt(), 130, ""),
        ],
    )
    def test_how_it_ends(
        self, error: BaseException, code: int, message: str, capfd: pytest.CaptureFixture[str]
    ):
        def work() -> str:
            raise error

        assert run_command(work) == code
        printed = capfd.readouterr()
        assert printed.out == ""
        assert printed.err.endswith(message)
        assert (code == 2) == printed.err.startswith("refused: ")

    def test_a_result_that_can_not_be_printed_is_there(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ):
        with open("/dev/full", "w") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            assert run_command(lambda: "figures") == 0
        assert (
            "the result can't be printed: standard output: No space left" in capfd.readouterr().err
        )


def test_an_option_is_blamed_for_what_it_names(tmp_path: Path):
    for error, message in (
        (
            FileNotFoundError(2, "No such file or directory", "/in/a"),
            "train=/in/a: No such file or directory",
        ),
        (
            PermissionError(13, "Permission denied", "/in/b"),
            r"train=/in/a: Permission denied \(/in/b\)",
        ),
        (CheckpointError("no config.json"), "train=/in/a: no config.json"),
        (SettingError("epochs=0: must be above 0"), "^epochs=0"),
    ):
        with pytest.raises(SettingError, match=message), option("train", "/in/a"):
            raise error


@pytest.mark.parametrize(
    ("kind", "text"), [(int, "1.5"), (int, "11"), (float, "0"), (float, "nan"), (float, "x")]
)
def test_what_is_out_of_bounds_is_named(kind: Callable[[str], float], text: str):
    with pytest.raises(
        argparse.ArgumentTypeError, match=f"'{text}' is not a .*number from 1 to 10"
    ):
        argument((whole if kind is int else number)(1, 10))(text)


def test_what_is_within_bounds():
    assert argument(whole(1, 10))("10") == 10
    assert argument(number(0.5, 10))("0.5") == 0.5
