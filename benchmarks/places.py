"""Measure what --locate adds to annotate, in seconds per 1,000 rows of the sample.

python benchmarks/places.py [--limit 1000]
"""

from __future__ import annotations

import argparse
import time

import pyarrow.parquet as pq

from model import SpanReader
from model.reading.places import ContextLayout
from pipeline.bundled import SAMPLE


def main() -> None:
    """Answer the rows of the sample, then locate the answers, each context's layout once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=1000, help="rows (default: 1000)")
    rows = parser.parse_args().limit
    table = pq.read_table(SAMPLE, columns=["question", "context"]).slice(0, rows)
    questions, contexts = (table.column(name).to_pylist() for name in table.column_names)
    reader = SpanReader.load()
    reader.answer(questions[0], contexts[0])
    began = time.perf_counter()
    answers = reader.answer(questions, contexts)
    answering = time.perf_counter() - began

    # Importing ICU is paid once per process, and shown apart.
    began = time.perf_counter()
    _ = ContextLayout("It rained. Ada lit the lamp.").sentence_ends
    loading = time.perf_counter() - began
    began = time.perf_counter()
    layouts = {context: ContextLayout(context) for context in contexts}
    for answer, context in zip(answers, contexts, strict=True):
        if answer.answer_start is not None and answer.answer_end is not None:
            layout = layouts[context]
            layout.sentence(answer.answer_start, answer.answer_end)
            layout.page(answer.answer_start)
            layout.section_path(answer.answer_start)
    locating = time.perf_counter() - began
    per_thousand = 1000 / len(answers)
    print(f"{len(answers)} rows, {len(layouts)} distinct contexts")
    print(f"answering {answering * per_thousand:.2f} s, locating {locating * per_thousand:.4f} s")
    print(f"per 1,000 rows: locating is {locating / answering:.3%} of answering")
    print(f"loading ICU: {loading:.3f} s, once per process")


if __name__ == "__main__":
    main()
