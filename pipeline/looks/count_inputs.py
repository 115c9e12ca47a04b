"""Count what a run will read, from the footers of its input files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pyarrow.parquet as pq

from transforms.parquet_files import open_parquet
from transforms.records import InputFile

_MOST_FOOTERS = 100
"""Number of files whose footers are read; the totals of more files are estimated by size."""

Count = Callable[[InputFile, pq.FileMetaData], int]
"""Counts something of an input file."""


def rows_of(file: InputFile, metadata: pq.FileMetaData) -> int:
    """Return the rows of a file that a run reads."""
    return int(metadata.num_rows) if file.rows is None else file.rows


def count_inputs(files: Sequence[InputFile], *counts: Count) -> tuple[list[int], bool]:
    """Return the total of each count over all files, and whether the totals are exact.

    For many files they are estimated from some and the sizes of all. A file that can't be read
    counts for nothing.
    """
    counted = files[:: max(1, math.ceil(len(files) / _MOST_FOOTERS))]
    totals = [0] * len(counts)
    for file in counted:
        try:
            with open_parquet(file.parquet) as opened:
                found = [count(file, opened.metadata) for count in counts]
        except Exception:  # planning refuses the file by name
            continue
        totals = [total + more for total, more in zip(totals, found, strict=True)]
    size = sum(file.size for file in counted)
    if len(counted) == len(files) or not size:
        return totals, len(counted) == len(files)
    share = sum(file.size for file in files) / size
    return [round(total * share) for total in totals], False
