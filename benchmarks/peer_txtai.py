"""Serve runs of txtai's Questions pipeline, which works with transformers 5.

It takes one row at a time, with the whole context in one input. Needs `pip install txtai==9.14.0`.
"""

from __future__ import annotations

import argparse

import pyarrow.parquet as pq
from serve import serve
from txtai.pipeline import Questions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    rows = pq.read_table(options.input, columns=["question", "context"]).to_pylist()
    answer = Questions(options.model, gpu=False)

    def run() -> dict[str, float]:
        failed = 0
        for row in rows:
            try:
                answer([row["question"]], [row["context"]])
            except TypeError:  # txtai's own, for an answer that ends in the question
                failed += 1
        return {"rows that raised": failed}

    serve(run)


if __name__ == "__main__":
    main()
