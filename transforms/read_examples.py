"""ReadExamples: the rows that the report shows and that relabelling starts from, read again after all receipts are merged.

Receipts carry places, never passages: what a run lists is small, and known only at its end.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import pyarrow as pa

from model.audit.statistics import WITH_TOKENS, Statistics
from model.reading.texts import NotUTF8, each_value
from transforms.chunk_step import NAMESPACE
from transforms.merge_receipts import Totals
from transforms.records import InputColumns
from transforms.storage import open_parquet

_log = logging.getLogger(NAMESPACE)

Place = tuple[str, int]
"""Path of an input file, and a row in it."""


@dataclass(frozen=True, slots=True)
class Example:
    """The texts of one input row."""

    question: str
    context: str


def read_rows(places: Iterable[Place], columns: list[str]) -> dict[Place, dict[str, Any]]:
    """Some columns of the rows at some places; None for a value that is no UTF-8. Unreadable files are left out."""
    by_path: dict[str, set[int]] = defaultdict(set)
    for path, row in places:
        by_path[path].add(row)
    found: dict[Place, dict[str, Any]] = {}
    for path, rows in sorted(by_path.items()):
        try:
            found.update(_read_file(path, rows, columns))
        except Exception as error:  # a list is no reason to lose a run that is done
            _log.warning(
                "rows of %s can't be read again and are shown without their texts: %s", path, error
            )
    return found


def _read_file(path: str, rows: set[int], columns: list[str]) -> dict[Place, dict[str, Any]]:
    found: dict[Place, dict[str, Any]] = {}
    with open_parquet(path) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            wanted = sorted(row for row in rows if first <= row < first + count)
            begin = first
            for batch in (
                file.iter_batches(1024, row_groups=[group], columns=columns) if wanted else ()
            ):
                here = [row for row in wanted if begin <= row < begin + batch.num_rows]
                taken = batch.take(pa.array([row - begin for row in here], pa.int64()))
                values = [each_value(taken.column(name)) for name in columns]
                for row, *texts in zip(here, *values, strict=True):
                    texts = [None if isinstance(text, NotUTF8) else text for text in texts]
                    found[path, row] = dict(zip(columns, texts, strict=True))
                begin += batch.num_rows
                if begin > wanted[-1]:
                    break
            first += count
    return found


def read_examples(statistics: Statistics, columns: InputColumns) -> dict[Place, Example]:
    """The texts of the examples of highest loss that a report shows, and of all suspects."""
    worst, suspects = (
        [entry[1:3] for entry in ranking.entries]
        for ranking in (statistics.worst, statistics.suspects)
    )
    rows = read_rows([*worst[:WITH_TOKENS], *suspects], [columns.question, columns.context])
    return {
        place: Example(row[columns.question] or "", row[columns.context] or "")
        for place, row in rows.items()
    }


@dataclass
class ReadExamples(beam.PTransform):
    """The one Totals by stage, the audit's with its examples."""

    columns: InputColumns

    def expand(self, totals: beam.PCollection) -> beam.PCollection:
        return totals | beam.Map(_add_examples, self.columns)


def _add_examples(totals: dict[str, Totals], columns: InputColumns) -> dict[str, Totals]:
    audit = totals["audit"]
    if audit.statistics is None:
        return totals
    return {**totals, "audit": replace(audit, examples=read_examples(audit.statistics, columns))}
