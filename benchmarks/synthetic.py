"""Make a corpus of any size from the bundled sample, in which every passage is different."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SAMPLE = Path(__file__).parent.parent / "pipeline" / "bundled" / "sample.parquet"


def batches(rows: int) -> Iterator[pa.Table]:
    """Yield the rows of the sample repeatedly, 10,000 at a time, each with a different heading."""
    # Without the sample's few long documents, so that rows take similar times.
    sample = [row for row in pq.read_table(SAMPLE).to_pylist() if len(row["context"]) < 2000]
    for begin in range(0, rows, 10_000):
        made = []
        for k in range(begin, min(begin + 10_000, rows)):
            row = sample[k % len(sample)]
            heading = f"Report {k}. "
            golds = {
                "text": row["answers"]["text"],
                "answer_start": [s + len(heading) for s in row["answers"]["answer_start"]],
            }
            made.append(
                {**row, "id": str(k), "context": heading + row["context"], "answers": golds}
            )
        yield pa.Table.from_pylist(made, schema=pq.read_schema(SAMPLE))


def write_rows(path: str | Path, rows: int) -> None:
    """Write a number of rows in row groups of 10,000."""
    with pq.ParquetWriter(path, pq.read_schema(SAMPLE)) as writer:
        for table in batches(rows):
            writer.write_table(table)
