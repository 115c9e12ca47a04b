"""Measure the peak memory of annotate or audit over 10,000 and 100,000 rows.

    python -m benchmarks.memory [--stage annotate] [--rows 10000,100000]

Every passage is different. The network is tiny and seeded, so that this takes minutes; its memory
is the same for both sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.synthetic import write_rows
from tests.checkpoints import build_bert

_RUN = """
import json, resource, sys, run_pipeline
code = run_pipeline.main(sys.argv[1:])
print(json.dumps([code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", default="annotate", choices=["annotate", "audit"])
    parser.add_argument("--rows", default="10000,100000")
    options = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        model = build_bert(Path(folder) / "model")
        for rows in map(int, options.rows.split(",")):
            corpus = f"{folder}/{rows}.parquet"
            write_rows(corpus, rows)
            command = [
                options.stage,
                "--input",
                corpus,
                "--output",
                f"{folder}/out{rows}",
                "--model",
                str(model),
            ]
            # A new process for each size, because the peak is that of its whole life.
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
            ran = subprocess.run(
                [sys.executable, "-c", _RUN, *command],
                stdout=subprocess.PIPE,
                check=True,
                text=True,
                env=environment,
            )
            code, kilobytes = json.loads(ran.stdout.splitlines()[-1])
            peaks.append(kilobytes / 1024)
            print(
                f"{options.stage}, {rows} rows: exit code {code}, peak {peaks[-1]:.0f} MiB",
                flush=True,
            )
    print(f"last over first: {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
