"""Choose the rows of a run to show: by id, by loss, or spread over all of them.

Only the columns that are shown, and only the row groups that hold chosen rows, are read.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.formats.finished import FinishedRun, as_rows
from pipeline.formats.where import WhereError, parse_where
from pipeline.job.options import Refused
from transforms.parquet_files import open_dataset
from transforms.records import rows_of_part

_MOST_OF_ONE_ID = 100


class Chooser:
    """Reads chosen rows of a run.

    columns  names of the columns that the rows have; the run may lack some
    where    condition that rows must meet, see `pipeline.formats.where`; None for all rows

    Raises Refused for an invalid condition.
    """

    def __init__(self, run: FinishedRun, columns: Sequence[str], where: str | None = None):
        self.run, self.columns = run, [name for name in run.columns if name in columns]
        self.dataset = open_dataset([run.files.part(part) for part in run.parts])
        try:
            self.where = parse_where(where, self.dataset.schema) if where is not None else None
        except WhereError as error:
            hint = ""
            if run.question_answers:
                hint = "; `pipeline.convert flatten` makes columns of the answers to the questions"
            raise Refused(f"--where={error}{hint}") from error

    def by_id(self, wanted: str) -> list[dict[str, Any]]:
        """Return the rows with this id, at most 100. Raises Refused if the run kept no ids."""
        column = self.run.input("id")
        if column is None:
            raise Refused(
                f"--id={wanted}: the run did not keep the column "
                f"{self.run.configuration['id_column']!r}"
            )
        # Ids are compared in their own type, so that statistics of row groups can exclude parts.
        kind = self.dataset.schema.field(column).type
        try:
            value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
            value = pa.scalar(wanted).cast(value_type)
        except pa.ArrowException as error:
            raise Refused(f"--id={wanted}: ids are {kind}") from error
        return list(as_rows(self._scanner(pc.field(column) == value).head(_MOST_OF_ONE_ID)))

    def worst(self, count: int) -> list[dict[str, Any]]:
        """Return the `count` rows of highest loss, the highest first.

        Reads the column of losses first, then only the row groups that hold the highest.
        Raises Refused for a run without losses.
        """
        loss = self.run.output("nll")
        if loss not in self.run.columns:
            folder = self.run.folder
            raise Refused(
                f"--worst={count}: {folder} has no losses; an audit has "
                f"(annotate --audit writes it to {folder}/audit)"
            )
        # First pass: the lowest of the highest losses is the threshold of the second.
        highest: list[float] = []
        for batch in self._scanner(pc.field(loss).is_valid(), [loss]).to_batches():
            highest = heapq.nlargest(count, [*highest, *batch.column(0).to_pylist()])
        if not highest:
            return []
        batches = self._scanner(pc.field(loss) >= highest[-1], [*self.columns, loss]).to_batches()
        return heapq.nlargest(
            count, (row for batch in batches for row in as_rows(batch)), key=lambda row: row[loss]
        )

    def sample(self, count: int) -> list[dict[str, Any]]:
        """Return `count` rows in order, spread evenly over all rows that meet the condition."""
        # Counting is free without a condition: names of parts hold their rows.
        fragments = list(self.dataset.get_fragments())
        if self.where is None:
            held = [rows_of_part(part) for part in self.run.parts]
        else:
            held = [fragment.count_rows(filter=self.where) for fragment in fragments]
        total = sum(held)
        count = min(count, total)
        # Each fragment is scanned once, and only if it has chosen rows.
        wanted = [number * total // count for number in range(count)]
        rows: list[dict[str, Any]] = []
        first = 0  # number of the fragment's first row among all rows
        for fragment, size in zip(fragments, held, strict=True):
            inside = [number - first for number in wanted if first <= number < first + size]
            first += size
            if inside:
                scanner = fragment.scanner(
                    schema=self.dataset.schema, columns=self.columns, filter=self.where
                )
                rows += as_rows(scanner.take(pa.array(inside)))
        return rows

    def _scanner(self, condition: pc.Expression, columns: Sequence[str] | None = None) -> Any:
        condition = condition if self.where is None else condition & self.where
        return self.dataset.scanner(
            columns=list(dict.fromkeys(columns or self.columns)), filter=condition, batch_size=1024
        )


def choose(
    run: FinishedRun, columns: Sequence[str], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return the rows that the options of `pipeline.show` ask for. Raises Refused."""
    chooser = Chooser(run, columns, options.where)
    if options.id is not None:
        return chooser.by_id(options.id)
    return chooser.worst(options.worst) if options.worst else chooser.sample(options.sample)
