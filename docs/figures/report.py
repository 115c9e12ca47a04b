"""Take a picture of a suspect in an audit's report: a wrong gold among those of the sample.

python docs/figures/report.py docs/report.png

Needs chromium and chromedriver. The audit reads the sample's short English passages.
"""

from __future__ import annotations

import sys
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
from selenium.webdriver import Chrome, ChromeOptions

import run_pipeline
from pipeline.bundled.build import load_sources

SUSPECT, WRONG = "dialogue-interview-q3", "pear"
"""The row with a wrong gold, and the gold's text."""

OTHERS = ("arabic", "chinese", "decomposed", "hindi", "long_")
"""Sources that are left out, by how they begin."""


def planted(row: dict) -> dict:
    """Return a row of the sample, with its gold replaced if it is the suspect."""
    if row["id"] != SUSPECT:
        return row
    return {**row, "answers": {"text": [WRONG], "answer_start": [row["context"].index(WRONG)]}}


def main(picture: str) -> None:
    """Audit the rows and take the picture. Raises SystemExit if the audit fails."""
    rows = [planted(row) for row in load_sources() if not row["source"].startswith(OTHERS)]
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.Table.from_pylist(rows), f"{folder}/sample.parquet")
        code = run_pipeline.run(
            ["audit", f"--input={folder}/sample.parquet", f"--output={folder}/out"]
        )
        if code:
            raise SystemExit(f"audit ended with exit code {code}")
        options = ChromeOptions()
        for argument in ("headless", "no-sandbox", "window-size=900,1400", "hide-scrollbars"):
            options.add_argument(f"--{argument}")
        with Chrome(options) as browser:
            browser.get(f"file://{folder}/out/report.html")
            listed = f"//*[@id='suspect-list']//details[contains(., '{SUSPECT}')]"
            suspect = browser.find_element("xpath", listed)
            browser.execute_script("arguments[0].open = true", suspect)
            suspect.screenshot(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
