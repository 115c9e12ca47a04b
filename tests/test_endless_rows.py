"""Very long rows in a whole run: they are rejected with a reason, their neighbours answered."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pyarrow as pa
import pytest

from model.reading.span_reader import SpanReader
from tests.runs import EXACT, examples, read_parts, read_rejections, write_input
from tests.started import start

pytestmark = pytest.mark.slow


ENDLESS = {
    "a question of 100,000 tokens": (
        "who " * 100_000,
        "In the year 1801 the keeper Ada lit lamp 1.",
    ),
    "a context of 10 MB": ("Who kept the lamp?", "the lamp " * 1_165_000),
    "a context of 10 million words": ("Who kept the lamp?", "the lamps " * 5_000_000),
    "a context of 10 MB without a space": ("Who kept the lamp?", "灯台。" * 1_111_000),
}


def annotate(
    rows: list[dict[str, str]], folder: Path
) -> tuple[dict[str, dict[str, object]], int, float]:
    """Return what was written for each row, by id, with peak memory (MiB) and seconds."""
    source = write_input(folder / "in.parquet", pa.Table.from_pylist(rows))
    began = time.monotonic()
    arguments = ["annotate", f"--input={source}", f"--output={folder}/out", "--dtype=float32"]
    process = start(arguments, folder / "log")
    process.join()
    log = (folder / "log").read_text("utf-8")
    assert process.exitcode == 0, log
    (peak,) = re.findall(r"^peak (\d+) MiB$", log, re.MULTILINE)
    written = read_parts(folder / "out").select(["id", *EXACT]).to_pylist()
    return {row.pop("id"): row for row in written}, int(peak), time.monotonic() - began


def test_neighbours_keep_their_answers_and_memory_is_bounded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    good = examples(4).to_pylist()
    endless = [
        {"id": name, "question": question, "context": context}
        for name, (question, context) in ENDLESS.items()
    ]
    start(["--help"], tmp_path / "log").join()  # starts the server of processes
    alone, usual, _ = annotate(good, tmp_path / "alone")
    mixed = [row for pair in zip(endless, good, strict=True) for row in pair]
    found, peak, seconds = annotate(mixed, tmp_path / "mixed")
    with capfd.disabled():
        print(
            f"\nendless rows: peak {peak} MiB, {usual} MiB without them; {seconds:.1f} s",
            flush=True,
        )

    assert {row["id"]: found[row["id"]] for row in good} == alone
    asked = found.pop("a question of 100,000 tokens")
    assert asked["status"] == "answered"
    assert asked["question_tokens_cut"] == 100_000 - SpanReader.load().limits.max_question
    rejected = [name for name in ENDLESS if "context" in name]
    assert [(found[name]["status"], found[name]["reason"]) for name in rejected] == [
        ("rejected", "too_many_windows")
    ] * 3
    assert [row["id"] for row in read_rejections(tmp_path / "mixed" / "out")] == rejected
    assert peak < usual + 700  # about seven copies of 70 MB of text
