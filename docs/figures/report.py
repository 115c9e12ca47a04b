"""Take the picture of an audit's report: the sample's short English passages, two golds wrong.

python docs/figures/report.py docs/report.png

Needs chromium.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq

import run_pipeline
from pipeline.bundled.build import load

PLANTED = {"dialogue-interview-q3": "pear", "sports-wheel-relay-q1": "two"}
"""Texts of wrong golds, by id."""

OTHERS = ("arabic", "chinese", "decomposed", "hindi", "long_")
"""Sources that are left out, by how they begin."""


def planted(row: dict) -> dict:
    """Return a row of the sample, with its gold replaced if it is one of `PLANTED`."""
    wrong = PLANTED.get(row["id"])
    if wrong is None:
        return row
    return {**row, "answers": {"text": [wrong], "answer_start": [row["context"].index(wrong)]}}


def main(picture: str) -> None:
    """Audit the rows and take the picture. Raises SystemExit if the audit fails."""
    rows = [planted(row) for row in load() if not row["source"].startswith(OTHERS)]
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.Table.from_pylist(rows), f"{folder}/sample.parquet")
        code = run_pipeline.run(
            ["audit", f"--input={folder}/sample.parquet", f"--output={folder}/out"]
        )
        if code:
            raise SystemExit(f"audit ended with exit code {code}")
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--hide-scrollbars"),
                *("--window-size=1000,2450", f"--screenshot={picture}"),
                f"file://{folder}/out/report.html",
            ],
            check=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
