"""ReadExamples: reads the texts of the rows that the report and the relabel files show.

Receipts carry the positions of rows, never their passages, because the few rows to show are known
only once all receipts are merged.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import pyarrow as pa

from model.audit.statistics import WITH_TOKENS, Statistics
from model.reading.texts import NotUTF8, each_value
from transforms.chunk_step import NAMESPACE
from transforms.claim import Output
from transforms.merge_receipts import Totals, closing
from transforms.parquet_files import open_parquet
from transforms.records import InputColumns
from transforms.run_files import RunFiles
from transforms.storage import read

_log = logging.getLogger(NAMESPACE)

RowPlace = tuple[str, int]
"""Path of a Parquet file, and a row in it."""


@dataclass(frozen=True, slots=True)
class Example:
    """The texts of one input row."""

    question: str
    context: str


def read_rows(places: Iterable[RowPlace], columns: list[str]) -> dict[RowPlace, dict[str, Any]]:
    """Return some columns of the rows at some places, by place.

    A value that is not UTF-8 becomes None. The rows of unreadable files are left out.
    """
    by_path: dict[str, set[int]] = defaultdict(set)
    for path, row in places:
        by_path[path].add(row)
    rows_by_place: dict[RowPlace, dict[str, Any]] = {}
    for path, rows in sorted(by_path.items()):
        try:
            rows_by_place.update(_read_file(path, rows, columns))
        except Exception as error:  # the run itself is complete without these texts
            _log.warning(
                "can't read rows of %s, which are shown without their texts: %s", path, error
            )
    return rows_by_place


def _read_file(path: str, rows: set[int], columns: list[str]) -> dict[RowPlace, dict[str, Any]]:
    """Return some columns of some rows of a file. Skips row groups without these rows."""
    rows_by_place: dict[RowPlace, dict[str, Any]] = {}
    with open_parquet(path) as file:
        group_start = 0
        for group in range(file.metadata.num_row_groups):
            group_end = group_start + file.metadata.row_group(group).num_rows
            wanted = sorted(row for row in rows if group_start <= row < group_end)
            begin, group_start = group_start, group_end
            if not wanted:
                continue
            for batch in file.iter_batches(1024, row_groups=[group], columns=columns):
                in_batch = [row for row in wanted if begin <= row < begin + batch.num_rows]
                # Convert only these rows to Python: a batch may hold large contexts.
                taken = batch.take(pa.array([row - begin for row in in_batch], pa.int64()))
                values = [each_value(taken.column(name)) for name in columns]
                for row, *texts in zip(in_batch, *values, strict=True):
                    texts = [None if isinstance(text, NotUTF8) else text for text in texts]
                    rows_by_place[path, row] = dict(zip(columns, texts, strict=True))
                begin += batch.num_rows
                if begin > wanted[-1]:
                    break  # the rest of the row group is not needed
    return rows_by_place


def copies_in(folder: str) -> dict[str, str]:
    """Return the Parquet copies that a run has of its input files: path of the file -> copy."""
    files = RunFiles(folder)
    inputs = json.loads(read(files.run))["inputs"]
    return {entry["path"]: files.copy(entry["copy"]) for entry in inputs if "copy" in entry}


def read_examples(
    statistics: Statistics, columns: InputColumns, copies: Mapping[str, str]
) -> dict[RowPlace, Example]:
    """Return the texts of all suspects and of the examples of highest loss that a report shows.

    copies  path of an input file -> path of the Parquet file that is read in its place
    """
    # Entries begin with their score; path and row follow.
    entries = [*statistics.worst.entries[:WITH_TOKENS], *statistics.suspects.entries]
    listed = [entry[1:3] for entry in entries]
    places = {(copies.get(path, path), row): (path, row) for path, row in listed}
    rows = read_rows(places, [columns.question, columns.context])
    return {
        places[place]: Example(row[columns.question] or "", row[columns.context] or "")
        for place, row in rows.items()
    }


@dataclass
class ReadExamples(beam.PTransform):
    """The Totals by stage -> the same, the totals of the audit with their examples.

    folder  the one that --output names, with the run's copies of input files
    """

    columns: InputColumns
    output: Output
    folder: str

    def expand(self, totals: beam.PCollection) -> beam.PCollection:
        return totals | beam.Map(_add_examples, self.columns, self.output, self.folder)


def _add_examples(
    totals: dict[str, Totals], columns: InputColumns, output: Output, folder: str
) -> dict[str, Totals]:
    audit = totals["audit"]
    if audit.statistics is None:
        return totals
    with closing(audit, "ReadExamples", output):
        examples = read_examples(audit.statistics, columns, copies_in(folder))
        audit = replace(audit, examples=examples)
    return {**totals, "audit": audit}
