"""The result of a command, or its refusal, on streams that may fail."""

from __future__ import annotations

import os
import sys

import pyarrow as pa
import pytest

from pipeline.job.options import Refused
from pipeline.looks.result import print_refusal, print_result
from transforms.storage import StorageError


def test_a_result_is_printed_without_control_characters(capsys: pytest.CaptureFixture[str]):
    assert print_result(lambda: "one\n\x1b[2Jtwo") == 0
    assert capsys.readouterr().out == "one\n\\x1b[2Jtwo\n"


@pytest.mark.parametrize("error", [Refused("--rows=1\x07"), OSError("--rows=1\x07")])
def test_a_refusal_is_printed_on_standard_error(
    error: Exception, capsys: pytest.CaptureFixture[str]
):
    def work() -> str:
        raise error

    assert print_result(work) == 2
    assert capsys.readouterr() == ("", "refused: --rows=1\\x07\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Refused("no\x07"), "no\\x07"),
        (StorageError("no store"), "no store"),
        (OSError("no disk"), "out can't be read: no disk"),
        (pa.ArrowInvalid("no page"), "out can't be read: no page"),
    ],
)
def test_an_output_that_can_not_be_read_is_named(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
):
    assert print_refusal(error, "out") == 2
    assert capsys.readouterr() == ("", f"refused: {said}\n")


def test_other_errors_are_raised():
    with pytest.raises(ZeroDivisionError):
        print_result(lambda: str(1 // 0))


@pytest.mark.parametrize(("pipe", "code"), [(True, 0), (False, 3)])
def test_a_closed_pipe_has_read_enough_and_a_full_disk_has_not(
    pipe: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if pipe:
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert print_result(lambda: "text") == code
    assert ("No space left" in capsys.readouterr().err) == (not pipe)
