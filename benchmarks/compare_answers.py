"""Compare the answers of an annotate run with a peer's on the same rows: equal spans, EM and F1.

    python -m benchmarks.compare_answers --ours OUT --peer peer.parquet [--one_window 2000]

Also prints the differences.
"""

from __future__ import annotations

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.audit.metrics import grade
from transforms.storage import list_names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", required=True, help="output folder of an annotate run")
    parser.add_argument(
        "--peer", required=True, help="Parquet file of benchmarks/peer_transformers.py"
    )
    parser.add_argument(
        "--one_window", type=int, default=0, help="only the first N rows that have one window"
    )
    parser.add_argument("--show", type=int, default=20, help="number of differences to print")
    options = parser.parse_args()
    parts = [f"{options.ours}/parts/{name}" for name in list_names(f"{options.ours}/parts")]
    ours = pa.concat_tables(
        [pq.read_table(part).replace_schema_metadata() for part in parts]
    ).to_pylist()
    peer = {row["id"]: row for row in pq.read_table(options.peer).to_pylist()}
    rows = [row for row in ours if row["id"] in peer]
    if options.one_window:
        rows = [row for row in rows if row["num_windows"] == 1][: options.one_window]
    equal, scores = 0, []
    for row in rows:
        other = peer[row["id"]]
        golds = row["answers"]["text"]
        scores.append(
            [*grade(row["answer_text"] or "", golds), *grade(other["answer_text"], golds)]
        )
        if (row["answer_start"], row["answer_end"]) == (other["answer_start"], other["answer_end"]):
            equal += 1
        # Rows whose passage is one window must agree, so all of their differences are printed.
        elif len(rows) - equal <= options.show or options.one_window:
            best = [
                (each["text"], each["start_logit"] + each["end_logit"])
                for each in row["n_best"][:2]
            ]
            print(row["id"], "ours", best, "peer", other["answer_text"])
    means = 100 * np.mean(scores, axis=0)
    print(f"{len(rows)} rows: {equal} equal character spans ({100 * equal / len(rows):.2f} %)")
    print(f"EM ours {means[0]:.2f} peer {means[2]:.2f}; F1 ours {means[1]:.2f} peer {means[3]:.2f}")


if __name__ == "__main__":
    main()
