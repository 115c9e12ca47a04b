"""Serve runs of annotate or audit, Parquet to Parquet, without the start-up of the process."""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
from contextlib import redirect_stdout

import run_pipeline
from benchmarks.serve import serve


def run_stage(path: str, model: str, stage: str, *arguments: str) -> dict[str, float]:
    """Run a stage without its report. Raises SystemExit if its exit code is not 0."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        code = run_pipeline.run(
            [stage, f"--input={path}", f"--output={folder}/out", f"--model={model}", *arguments]
        )
    if code:
        raise SystemExit(f"{stage} ended with exit code {code}")
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=f"{__doc__} Other options go to run_pipeline.")
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", required=True)
    options, rest = parser.parse_known_args()
    stage, *rest = rest or ["annotate"]
    logging.disable(logging.INFO)

    serve(lambda: run_stage(options.input, options.model, stage, *rest))


if __name__ == "__main__":
    main()
