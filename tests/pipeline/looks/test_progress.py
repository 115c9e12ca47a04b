"""Progress: counted from the names of parts, shown as a bar in a terminal and as lines in a log."""

from __future__ import annotations

import logging
import os
import pty
import re
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from model.reading.progress import current, working_on
from pipeline.job.options import parse
from pipeline.job.resolve import Job, resolve
from pipeline.looks import count_inputs
from pipeline.looks import progress as module
from pipeline.looks.progress import progress
from tests.runs import examples, wait_until, write_input
from transforms.run_files import RunFiles
from transforms.storage import commit


@pytest.fixture
def job(bert_folder: Path, tmp_path: Path) -> Job:
    """Resolve a job on two files with ten rows in total."""
    write_input(tmp_path / "in" / "a.parquet", examples(6))
    write_input(tmp_path / "in" / "b.parquet", examples(4))
    options, rest = parse(
        ["annotate", f"--input={tmp_path}/in", f"--output={tmp_path}/out", f"--model={bert_folder}"]
    )
    return resolve(options, PipelineOptions(rest))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Return a semaphore that is released each time the parts have been listed.

    The rate and the bar begin from the first listing.
    """
    looks, part_names = threading.Semaphore(0), RunFiles.part_names

    def list_and_tell(files: RunFiles) -> list[str]:
        names = part_names(files)
        looks.release()
        return names

    monkeypatch.setattr(RunFiles, "part_names", list_and_tell)
    return looks


def finish(job: Job, *rows: int) -> None:
    """Commit a part for each number of rows."""
    for place, count in enumerate(rows):
        commit(job.output, b"", "parts", f"000000-a-g00000-r{place:09d}-n{count}.parquet")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "spanmill"]


def test_elsewhere_than_in_a_terminal_there_are_lines(
    job: Job, looks: threading.Semaphore, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, "spanmill"), progress(job):
        assert looks.acquire(timeout=600)
        finish(job, 4, 3)
    (line,) = lines(caplog)
    assert re.fullmatch(r"7 of 10 rows done, \d+\.\d rows/s, \d+ s left", line)


def test_windows_of_a_chunk_count_before_its_part_is_there(
    job: Job, looks: threading.Semaphore, caplog: pytest.LogCaptureFixture
):
    part = "000000-a-g00000-r000000004-n6.parquet"
    with caplog.at_level(logging.INFO, "spanmill"), working_on(part, windows=12):
        with progress(job):
            assert looks.acquire(timeout=600)
            finish(job, 4)
            current().add(6)  # half of the six rows
        commit(job.output, b"", "parts", part)
        with progress(job):  # a committed part counts once
            pass
    half, whole = lines(caplog)
    assert half.startswith("7 of 10 rows done")
    assert whole.startswith("10 of 10 rows done")


def test_a_line_is_written_now_and_then(
    job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_LOG_SECONDS", 0.0)
    monkeypatch.setattr(module, "is_local", lambda _: True)
    wait = module.threading.Event.wait
    monkeypatch.setattr(
        module.threading.Event, "wait", lambda self, pause=None: wait(self, pause and 0.02)
    )
    with caplog.at_level(logging.INFO, "spanmill"), progress(job):
        for rows in ((), (4,), (4, 6)):
            finish(job, *rows)
            said = f"{sum(rows)} of 10 rows done"
            wait_until(lambda said=said: any(line.startswith(said) for line in lines(caplog)))
    found = lines(caplog)
    assert found[-1].startswith("10 of 10 rows done")
    assert "left" not in found[-1]


def test_a_rerun_counts_its_rate_from_what_it_does_itself(
    job: Job, caplog: pytest.LogCaptureFixture
):
    finish(job, 6)
    with caplog.at_level(logging.INFO, "spanmill"), progress(job):
        pass
    assert lines(caplog) == ["6 of 10 rows done, 0.0 rows/s"]


def test_files_that_can_not_be_read_count_for_nothing(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "in" / "b.parquet").write_bytes(b"")
    with caplog.at_level(logging.INFO, "spanmill"), progress(job):
        finish(job, 6)
    assert lines(caplog)[-1].startswith("6 of 6 rows done")


def test_the_rows_of_many_files_are_estimated(
    job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(count_inputs, "_MOST_FOOTERS", 1)
    files = tuple(replace(file, size=1) for file in job.files)
    with (
        caplog.at_level(logging.INFO, "spanmill"),
        progress(replace(job, inputs=replace(job.inputs, files=files))),
    ):
        finish(job, 6)
    assert lines(caplog)[-1].startswith("6 of about 12 rows done")


def test_a_limit_bounds_what_is_planned(job: Job, caplog: pytest.LogCaptureFixture):
    files = tuple(replace(file, rows=2) for file in job.files)
    limited = replace(job, inputs=replace(job.inputs, files=files))
    with caplog.at_level(logging.INFO, "spanmill"), progress(limited):
        finish(job, 2)
    assert lines(caplog)[-1].startswith("2 of 4 rows done")


def test_foreign_files_among_the_parts_do_not_count(job: Job, caplog: pytest.LogCaptureFixture):
    commit(job.output, b"", "parts", ".DS_Store")
    with caplog.at_level(logging.INFO, "spanmill"), progress(job):
        finish(job, 2)
    assert lines(caplog)[-1].startswith("2 of 10 rows done")


def test_it_never_ends_a_run(
    job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(RunFiles, "part_names", lambda _: 1 / 0)
    with caplog.at_level(logging.INFO, "spanmill"), progress(job):
        pass
    assert lines(caplog) == ["progress can't be shown"]


def test_an_error_of_the_run_comes_through(job: Job):
    with pytest.raises(KeyError), progress(job):
        raise KeyError("of the run")


@contextmanager
def terminal() -> Iterator[list[str]]:
    """Make standard error a terminal; the list holds what was shown there at the end."""
    reading, writing = pty.openpty()
    termios.tcsetwinsize(reading, (24, 100))
    shown: list[str] = []
    before = sys.stderr
    try:
        with os.fdopen(writing, "w") as sys.stderr:
            yield shown
    finally:
        sys.stderr = before
        with suppress(OSError):  # Linux raises on reading from a closed terminal
            while piece := os.read(reading, 10_000):
                shown.append(piece.decode(errors="replace"))  # a piece may end inside a character
        os.close(reading)


def test_in_a_terminal_there_is_a_bar(
    job: Job, looks: threading.Semaphore, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, "spanmill"), terminal() as pieces, progress(job):
        assert looks.acquire(timeout=600)
        finish(job, 4, 6)
    shown = "".join(pieces)
    assert "annotate:   0%" in shown
    assert "10/10" in shown
    assert "row/s" in shown
    assert lines(caplog) == []
