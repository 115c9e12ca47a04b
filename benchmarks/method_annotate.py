"""Spanmill's annotate, Parquet to Parquet, everything included; only the start-up of the process is apart."""

from __future__ import annotations

import argparse
import logging
import tempfile

import run_pipeline
from benchmarks.serve import serve


def main() -> None:
    parser = argparse.ArgumentParser(description=f"{__doc__} Other options go to run_pipeline.")
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", required=True)
    options, rest = parser.parse_known_args()
    stage, *rest = rest or ["annotate"]
    logging.disable(logging.INFO)

    def run() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            code = run_pipeline.run(
                [stage, f"--input={options.input}", f"--output={folder}/out", f"--model={options.model}", *rest]
            )
        if code:
            raise SystemExit(f"annotate ended with {code}")
        return {}

    serve(run)


if __name__ == "__main__":
    main()
