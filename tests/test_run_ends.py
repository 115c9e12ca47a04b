"""The ends of runs that meet bad files, an earlier run, a signal or a full disk."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import run_pipeline
from tests.runs import (
    HOUSE,
    Annotate,
    environment,
    examples,
    identities,
    part_files,
    read_manifest,
    read_parts,
    read_rejections,
    run,
    wait_until,
    write_input,
)
from transforms import storage
from transforms.temporary import TEMPORARY


class TestBadFiles:
    def test_later_files_are_refused_one_by_one_and_the_others_done(
        self, tmp_path: Path, annotate: Annotate, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        folder = tmp_path / "in"
        good = write_input(folder / "0.parquet", examples(3))
        (folder / "1-empty.parquet").write_bytes(b"")
        (folder / "2-cut.parquet").write_bytes(good.read_bytes()[:-40])
        (folder / "3-text.parquet").write_text("id,question,context\n" * 20)
        write_input(folder / "4-missing.parquet", examples(3).drop_columns(["context"]))
        write_input(
            folder / "5-type.parquet", examples(3).set_column(1, "question", pa.array([1, 2, 3]))
        )
        write_input(
            folder / "6-other.parquet", examples(3).set_column(0, "id", pa.array([1, 2, 3]))
        )
        write_input(folder / "7.parquet", examples(3, first=5))
        assert annotate(folder, output) == 1
        manifest = read_manifest(output)
        assert manifest["state"] == "incomplete"
        assert manifest["why"] == ["6 files were refused"]
        assert manifest["refused_files"] == 6
        assert manifest["rows"]["planned"] == manifest["rows"]["answered"] == 6
        causes = {Path(failure["path"]).name: failure["error"] for failure in manifest["failures"]}
        assert {failure["step"] for failure in manifest["failures"]} == {"PlanChunks"}
        assert "0 bytes" in causes["1-empty.parquet"]
        assert "magic bytes" in causes["2-cut.parquet"]
        assert "magic bytes" in causes["3-text.parquet"]
        assert "'context' is missing" in causes["4-missing.parquet"]
        assert "'question' is int64, not text" in causes["5-type.parquet"]
        assert "'id' is int64, in the other files it is string" in causes["6-other.parquet"]
        assert read_parts(output).column("id").to_pylist() == [
            f"row {n}" for n in (0, 1, 2, 5, 6, 7)
        ]
        printed = capfd.readouterr().out
        assert all(name in printed for name in causes)

    @pytest.mark.parametrize("content", [b"", b"PAR1 nothing more"])
    def test_nothing_is_written_when_the_first_file_is_bad(
        self,
        tmp_path: Path,
        annotate: Annotate,
        output: Path,
        content: bytes,
        capfd: pytest.CaptureFixture[str],
    ):
        write_input(tmp_path / "in" / "b.parquet", examples(3))
        (tmp_path / "in" / "a.parquet").write_bytes(content)
        assert annotate(tmp_path / "in", output) == 2
        message = capfd.readouterr().err
        assert "refused: --input:" in message
        assert "a.parquet can't be read as Parquet" in message
        assert not output.exists()

    def test_damaged_pages_fail_their_own_row_group_only(
        self, tmp_path: Path, annotate: Annotate, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        path = write_input(
            tmp_path / "a.parquet",
            examples(24),
            row_group_size=8,
            compression="none",
            use_dictionary=False,
        )
        whole = path.read_bytes()
        column = pq.ParquetFile(path).metadata.row_group(1).column(2)
        damaged = bytearray(whole)
        begin = column.data_page_offset
        damaged[begin : begin + column.total_compressed_size] = (
            b"\xff" * column.total_compressed_size
        )
        path.write_bytes(damaged)

        assert annotate(path, output, "--chunk_rows=4") == 1
        manifest = read_manifest(output)
        assert manifest["chunks"] == {"planned": 6, "failed": 2}
        assert manifest["rows"] == {
            "planned": 24,
            "answered": 16,
            "no_answer": 0,
            "below_threshold": 0,
            "rejected": 0,
            "in_failed_chunks": 8,
        }
        assert [
            (failure["path"], failure["row_group"], failure["row_start"], failure["rows"])
            for failure in manifest["failures"]
        ] == [
            (str(path), 1, 0, 4),
            (str(path), 1, 4, 4),
        ]
        assert all(
            failure["step"] == "ReadChunk" and "damaged" in failure["error"]
            for failure in manifest["failures"]
        )
        assert read_parts(output).column("id").to_pylist() == [
            f"row {n}" for n in (*range(8), *range(16, 24))
        ]
        assert f"failed: {path}, row group 1, 4 rows, ReadChunk" in capfd.readouterr().out

        done = identities(output)
        # It retries what failed, and nothing else.
        assert annotate(path, output, "--chunk_rows=4") == 1
        assert identities(output) == done
        path.write_bytes(whole)  # a repaired file is another input
        capfd.readouterr()
        assert annotate(path, output, "--chunk_rows=4") == 2
        assert f"input {path} has changed since" in capfd.readouterr().err
        assert identities(output) == done


class TestReruns:
    def test_committed_chunks_are_left_alone_and_missing_ones_made_again(
        self, tmp_path: Path, annotate: Annotate, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        source = write_input(tmp_path / "a.parquet", examples(20), row_group_size=9)
        assert annotate(source, output, "--chunk_rows=3") == 0
        before, parts, table = read_manifest(output), identities(output), read_parts(output)

        assert annotate(source, output, "--chunk_rows=3") == 0
        assert identities(output) == parts
        assert f"resuming the run in {output}" in capfd.readouterr().err
        after = read_manifest(output)
        for varies in ("steps",):  # a receipt lacks the time of its part's write
            before.pop(varies), after.pop(varies)
        assert after == before

        lost, torn, foreign, *kept = part_files(output)
        lost.unlink()
        torn.write_bytes(torn.read_bytes()[:100])
        write_input(foreign, examples(3))
        assert annotate(source, output, "--chunk_rows=3") == 0
        assert read_parts(output).equals(table)
        assert {path.name: identities(output)[path.name] for path in kept} == {
            path.name: parts[path.name] for path in kept
        }
        assert all(
            identities(output)[path.name] != parts[path.name] for path in (lost, torn, foreign)
        )
        assert read_manifest(output)["content"] == before["content"]

    def test_rejections_of_an_earlier_try_do_not_stay(
        self, tmp_path: Path, annotate: Annotate, output: Path
    ):
        """Memory may run out in one try only: answered rows must not stay among rejections."""
        source = write_input(tmp_path / "a.parquet", examples(2))
        assert annotate(source, output) == 0
        (part,) = part_files(output)
        write_input(output / "rejections" / part.name, pa.table({"id": ["row 1"]}))
        part.unlink()
        assert annotate(source, output) == 0
        assert read_rejections(output) == []

    def test_another_run_is_refused_by_name_and_removed_when_asked(
        self, tmp_path: Path, annotate: Annotate, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        source = write_input(tmp_path / "a.parquet", examples(6))
        assert annotate(source, output, "--chunk_rows=2") == 0
        untouched = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
        assert annotate(source, output, "--chunk_rows=4") == 2
        message = capfd.readouterr().err
        assert "chunk_rows was 2, is 4" in message
        assert "--overwrite" in message
        assert {
            path: path.read_bytes() for path in output.rglob("*") if path.is_file()
        } == untouched
        assert annotate(source, output, "--chunk_rows=4", "--overwrite") == 0
        assert len(part_files(output)) == 2
        assert json.loads((output / "run.json").read_text())["configuration"]["chunk_rows"] == 4

    def test_another_checkpoint_under_the_same_name_is_another_run(
        self, tmp_path: Path, bert_folder: Path, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        source = write_input(tmp_path / "a.parquet", examples(2))
        model = Path(shutil.copytree(bert_folder, tmp_path / "model"))
        arguments = ("annotate", f"--input={source}", f"--output={output}", f"--model={model}")
        assert run(*arguments) == 0
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
        assert run(*arguments) == 2
        assert "model_digest was" in capfd.readouterr().err

    def test_a_changed_input_is_another_run(
        self, tmp_path: Path, annotate: Annotate, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        source = write_input(tmp_path / "in" / "a.parquet", examples(3))
        assert annotate(source.parent, output) == 0
        write_input(tmp_path / "in" / "b.parquet", examples(3))
        assert annotate(source.parent, output) == 2
        assert f"input {tmp_path}/in/b.parquet was not part of it" in capfd.readouterr().err


def heed_signals() -> None:
    """Undo what `nohup` and background jobs of shells set: their processes ignore signals."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


class TestEnds:
    def start(self, folder: Path, bert_folder: Path, **how: Any) -> subprocess.Popen[bytes]:
        """Start a long run in a process and working directory of its own, with relative paths.

        Returns once it writes parts.
        """
        arguments = (
            "--input=in.parquet",
            "--output=out",
            f"--model={bert_folder}",
            "--chunk_rows=4",
        )
        command = [sys.executable, str(HOUSE / "run_pipeline.py"), "annotate", *arguments]
        done = len(part_files(folder / "out")) if (folder / "out" / "parts").exists() else 0
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stderr=subprocess.PIPE, **how
        )
        self.wait_for(process, folder / "out", done + 3)
        return process

    def wait_for(self, process: subprocess.Popen[bytes], output: Path, parts: int) -> None:
        def writes() -> bool:
            assert process.poll() is None, process.returncode
            return (output / "parts").exists() and len(part_files(output)) >= parts

        wait_until(writes)

    def test_a_signal_ends_a_run_at_once_and_the_next_one_goes_on(
        self, tmp_path: Path, bert_folder: Path, annotate: Annotate, monkeypatch: pytest.MonkeyPatch
    ):
        rows = 800
        write_input(tmp_path / "in.parquet", examples(rows))
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)):
            started = time.monotonic()
            process = self.start(tmp_path, bert_folder, preexec_fn=heed_signals)
            process.send_signal(number)
            signalled = time.monotonic()
            _, errors = process.communicate(timeout=600)
            assert process.returncode == code
            # The imports alone take seconds, on a busy machine more.
            assert time.monotonic() - signalled < signalled - started
            assert f"interrupted by {number.name}: run the same command again" in errors.decode()
            assert b"Traceback" not in errors
            assert not (tmp_path / "out" / "manifest.json").exists()
        kept = identities(tmp_path / "out")
        assert 9 <= len(kept) < rows / 4
        monkeypatch.chdir(tmp_path)
        assert annotate("in.parquet", "out", "--chunk_rows=4") == 0
        assert read_parts(tmp_path / "out").column("id").to_pylist() == [
            f"row {n}" for n in range(rows)
        ]
        assert identities(tmp_path / "out").items() >= kept.items()
        assert not (tmp_path / "out" / TEMPORARY).exists()

    def test_nohup_is_respected_and_no_one_needs_to_listen(self, tmp_path: Path, bert_folder: Path):
        """An exception of a handler would be taken for the failure of a chunk."""
        write_input(tmp_path / "in.parquet", examples(1600))

        def ignore_hangups() -> None:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

        process = self.start(tmp_path, bert_folder, preexec_fn=ignore_hangups)
        process.stderr.close()
        process.send_signal(signal.SIGHUP)
        self.wait_for(process, tmp_path / "out", len(part_files(tmp_path / "out")) + 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=600) == 143
        assert not (tmp_path / "out" / "manifest.json").exists()

    @pytest.mark.parametrize("closed", [None, "/dev/full"])
    def test_a_run_has_finished_whether_that_can_be_printed_or_not(
        self,
        tmp_path: Path,
        annotate: Annotate,
        output: Path,
        closed: str | None,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ):
        source = write_input(tmp_path / "a.parquet", examples(2))
        with monkeypatch.context() as patch:
            # Not a `with` statement: None is one of the cases, and the end must not flush again.
            stream = open(closed, "w") if closed else None  # noqa: SIM115
            patch.setattr(sys, "stdout", stream)
            assert annotate(source, output) == 0
            if stream:
                stream.close()  # its buffer must not fail again
        assert read_manifest(output)["state"] == "complete"
        why = "No space left on device" if closed else "it is closed"
        message = (
            f"the summary of the run can't be printed on standard output ({why}): "
            f"read {output}/manifest.json"
        )
        assert message in capfd.readouterr().err

    def test_streams_that_are_closed_are_no_place_for_files(
        self, tmp_path: Path, bert_folder: Path
    ):
        """The next file that is opened would get the descriptor of a closed stream."""
        source = write_input(tmp_path / "a.parquet", examples(2))
        arguments = (
            "annotate",
            f"--input={source}",
            f"--output={tmp_path}/out",
            f"--model={bert_folder}",
        )
        streams = ", ".join(f"'/proc/self/fd/{number}'" for number in range(3))
        script = (
            "import os, sys, run_pipeline; "
            "print(run_pipeline.main(sys.argv[1:]), os.listdir('/proc/self/fd')[:3], "
            f"*map(os.path.realpath, ({streams})), file=open('found', 'w'))"
        )
        command = f"exec {shlex.join([sys.executable, '-c', script, *arguments])} <&- >&- 2>&-"
        subprocess.run(command, shell=True, cwd=tmp_path, env=environment(), timeout=300)
        code, *_, zero, one, two = (tmp_path / "found").read_text().split()
        assert (code, zero, one, two) == ("0", "/dev/null", "/dev/null", "/dev/null")

    def test_a_full_disk_ends_the_run_and_leaves_what_is_done(
        self,
        tmp_path: Path,
        annotate: Annotate,
        output: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ):
        """The system call reports a full disk, since a test cannot fill one."""
        source = write_input(tmp_path / "a.parquet", examples(12))
        move, moved = os.replace, []

        def fill_up(source: str, target: str) -> None:
            if len(moved) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            moved.append(target)
            move(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(storage.os, "replace", fill_up)
            assert annotate(source, output, "--chunk_rows=3") == 3
        message = capfd.readouterr().err
        assert "did not finish" in message
        assert "No space left on device" in message
        assert not (output / "manifest.json").exists()
        assert len(part_files(output)) == 2
        kept = identities(output)
        assert annotate(source, output, "--chunk_rows=3") == 0
        assert identities(output).items() >= kept.items()
        assert read_manifest(output)["rows"]["answered"] == 12

    def test_a_crash_that_is_no_exception_exits_with_3(
        self, tmp_path: Path, annotate: Annotate, output: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A panic of a Rust library is an example.

        Python's own exit code, 1, would mean that the run has finished.
        """

        def crash(*_: object, **__: object) -> None:
            raise type("PanicException", (BaseException,), {})("index out of bounds")

        source = write_input(tmp_path / "a.parquet", examples(2))
        with monkeypatch.context() as patch:
            patch.setattr(run_pipeline, "build", crash)
            assert annotate(source, output) == 3
        assert annotate(source, output) == 0

    def test_an_output_that_can_not_be_written_is_refused(
        self, tmp_path: Path, annotate: Annotate, capfd: pytest.CaptureFixture[str]
    ):
        source = write_input(tmp_path / "a.parquet", examples(2))
        (tmp_path / "file").write_text("in the way")
        assert annotate(source, tmp_path / "file" / "out") == 2
        assert f"--output={tmp_path}/file/out can't be written" in capfd.readouterr().err
