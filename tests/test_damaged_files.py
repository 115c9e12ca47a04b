"""Damaged and odd files among sound ones: readable rows are answered, the rest is reported."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.damage import ROW_GROUP, ROWS, damaged, odd_tables
from tests.runs import examples, read_manifest, write_input
from tests.started import start


def annotate(folder: Path, model: Path) -> int:
    """Return the exit code of a run in a process of its own, which a damaged file might crash."""
    arguments = [
        f"--input={folder}/in",
        f"--output={folder}/out",
        f"--model={model}",
        "--max_failed_fraction=1",
    ]
    process = start(["annotate", *arguments, f"--chunk_rows={ROW_GROUP // 2}"], folder / "log")
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def check(folder: Path, model: Path, files: dict[str, bytes]) -> tuple[int, int]:
    """Run over these files, with a sound file before and after them.

    Returns the number of refused files, and of files that failed in part.
    """
    (folder / "in").mkdir(parents=True)
    for name in ("0-first", "9-last"):
        write_input(folder / "in" / f"{name}.parquet", examples(ROWS), row_group_size=ROW_GROUP)
    for name, content in files.items():
        (folder / "in" / f"{name}.parquet").write_bytes(content)
    code = annotate(folder, model)
    assert code in (0, 1), f"exit {code}\n{(folder / 'log').read_text()[-3000:]}"
    manifest = read_manifest(folder / "out")
    rows = manifest["rows"]
    assert rows["planned"] == sum(rows.values()) - rows["planned"]
    assert code == 0 or manifest["failures"]
    refused, failed = set(), set()
    for failure in manifest["failures"]:
        name = Path(failure["path"]).stem
        assert name in files, failure  # sound files are not affected
        assert failure["error"], failure
        (refused if failure["row_group"] < 0 else failed).add(name)
    parts: dict[str, int] = {}
    for path in (folder / "out" / "parts").iterdir():
        name = path.name.split("-", 1)[1].split("-g")[0]
        parts[name] = parts.get(name, 0) + pq.ParquetFile(path).metadata.num_rows
    assert parts["0-first"] == parts["9-last"] == ROWS
    assert sum(parts.values()) + rows["in_failed_chunks"] == rows["planned"]
    for name in files.keys() - refused - failed:
        assert (
            parts.get(name, 0)
            == pq.ParquetFile(folder / "in" / f"{name}.parquet").metadata.num_rows
        )
    return len(refused), len(failed)


def test_some_damaged_files(tmp_path: Path, bert_folder: Path):
    files = {
        f"{number:04}-{name}": content
        for number in range(40)
        for name, content in [damaged(number)]
    }
    refused, failed = check(tmp_path, bert_folder, files)
    assert refused >= 10
    assert failed >= 3


def test_odd_files(tmp_path: Path, bert_folder: Path):
    for name, table in odd_tables().items():
        write_input(tmp_path / "odd" / f"{name}.parquet", table)
    files = {
        path.stem.replace(" ", "_"): path.read_bytes() for path in (tmp_path / "odd").iterdir()
    }
    refused, failed = check(tmp_path, bert_folder, files)
    failures = {Path(each["path"]).stem for each in read_manifest(tmp_path / "out")["failures"]}
    assert failures == {"binary_texts", "list_of_texts", "numbers", "no_context"}
    assert (refused, failed) == (4, 0)


@pytest.mark.torture
def test_a_thousand_damaged_files(
    tmp_path: Path, bert_folder: Path, capfd: pytest.CaptureFixture[str]
):
    refused = failed = 0
    for batch in range(12):
        numbers = range(100 * batch + 1000, 100 * batch + 1100)
        files = {
            f"{number:04}-{name}": content
            for number in numbers
            for name, content in [damaged(number)]
        }
        found = check(tmp_path / str(batch), bert_folder, files)
        refused, failed = refused + found[0], failed + found[1]
    logs = [path.read_text("utf-8", "replace") for path in tmp_path.glob("*/log")]
    peaks = [
        int(peak) for log in logs for peak in re.findall(r"^peak (\d+) MiB$", log, re.MULTILINE)
    ]
    with capfd.disabled():
        read = 1200 - refused - failed
        print(
            f"\n1200 damaged files: {refused} refused, {failed} failed in part, {read} read",
            flush=True,
        )
        print(f"peak memory of 12 runs: {min(peaks)} to {max(peaks)} MiB", flush=True)
    assert len(peaks) == 12
    assert max(peaks) < min(peaks) + 500
