"""Run the question-answering pipeline of transformers 4.57: write answers, or serve timed runs.

Runs in a separate virtual environment, because transformers removed the pipeline in 5.3:

    python -m venv peer && peer/bin/pip install torch==2.13.0 transformers==4.57.6 pyarrow
    peer/bin/python benchmarks/peer_transformers.py --input gold.parquet \\
        --model model/bundled --output peer.parquet
"""

from __future__ import annotations

import argparse
import time

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from serve import serve
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--output", help="file to write the answers to; without it, serve timed runs for speed.py"
    )
    parser.add_argument("--rows", type=int, default=10**9, help="only the first N rows")
    parser.add_argument("--every_nth", type=int, default=1, help="only every Nth of these")
    parser.add_argument("--batch_size", type=int, default=1)
    options = parser.parse_args()
    # Rows and settings as Spanmill has them by default.
    rows = pq.read_table(options.input).slice(0, options.rows).to_pylist()[:: options.every_nth]
    network = AutoModelForQuestionAnswering.from_pretrained(options.model, dtype=torch.float32)
    answer = pipeline(
        "question-answering", model=network, tokenizer=AutoTokenizer.from_pretrained(options.model)
    )
    asked = [{"question": row["question"], "context": row["context"]} for row in rows]
    settings = {
        "align_to_words": False,
        "max_answer_len": 30,
        "max_question_len": 64,
        "max_seq_len": 384,
        "doc_stride": 128,
    }
    results: list[dict] = []

    def run() -> dict[str, float]:
        results[:] = answer(asked, batch_size=options.batch_size, **settings)
        return {}

    # Timed runs, or one run whose answers are kept.
    if not options.output:
        serve(run)
        return
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    table = pa.table(
        {
            "id": [row["id"] for row in rows],
            "answer_text": [result["answer"] for result in results],
            "answer_start": pa.array([result["start"] for result in results], pa.int32()),
            "answer_end": pa.array([result["end"] for result in results], pa.int32()),
            "score": [result["score"] for result in results],
        }
    )
    pq.write_table(table, options.output)
    print(
        f"{len(rows)} rows in {seconds:.1f} s: {len(rows) / seconds:.2f} rows/s "
        f"at batch size {options.batch_size}"
    )


if __name__ == "__main__":
    main()
