"""Which rows of a run are shown: by id, by loss, or spread over all of them; only their columns and row groups are read."""

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
from transforms.records import rows_of_part
from transforms.storage import open_dataset

_MOST_OF_ONE_ID = 100


class Chooser:
    """Rows of a run with the columns that are shown, of those that meet a condition (None: of all).

    Raises Refused for a condition that means nothing.
    """

    def __init__(self, run: FinishedRun, columns: Sequence[str], where: str | None = None):
        self.run, self.columns = run, [name for name in run.columns if name in columns]
        self.dataset = open_dataset([run.files.part(part) for part in run.parts])
        try:
            self.where = parse_where(where, self.dataset.schema) if where is not None else None
        except WhereError as error:
            raise Refused(f"--where={error}") from error

    def by_id(self, wanted: str) -> list[dict[str, Any]]:
        """Rows with this id. Raises Refused if the run kept no ids."""
        column = self.run.input("id")
        if column is None:
            raise Refused(
                f"--id={wanted}: the run kept no column {self.run.configuration['id_column']!r}"
            )
        kind = self.dataset.schema.field(column).type
        try:
            value = pa.scalar(wanted).cast(
                kind.value_type if pa.types.is_dictionary(kind) else kind
            )
        except pa.ArrowException as error:
            raise Refused(f"--id={wanted}: ids are {kind}") from error
        return list(as_rows(self._scanner(pc.field(column) == value).head(_MOST_OF_ONE_ID)))

    def worst(self, count: int) -> list[dict[str, Any]]:
        """Rows of highest loss, the highest first. Losses are read first, then the row groups that hold the highest alone.

        Raises Refused for a run without losses.
        """
        loss = self.run.output("nll")
        if loss not in self.run.columns:
            folder = self.run.folder
            raise Refused(
                f"--worst={count}: {folder} has no losses; audit has (of annotate --audit, {folder}/audit)"
            )
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
        """So many rows, spread evenly over all of them, in order."""
        fragments = list(self.dataset.get_fragments())
        if self.where is None:
            held = [rows_of_part(part) for part in self.run.parts]
        else:
            held = [fragment.count_rows(filter=self.where) for fragment in fragments]
        total = sum(held)
        wanted = (
            [place * total // count for place in range(min(count, total))]
            if count < total
            else list(range(total))
        )
        rows: list[dict[str, Any]] = []
        seen = 0
        for fragment, here in zip(fragments, held, strict=True):
            places = [place - seen for place in wanted if seen <= place < seen + here]
            seen += here
            if places:
                scanner = fragment.scanner(
                    schema=self.dataset.schema, columns=self.columns, filter=self.where
                )
                rows += as_rows(scanner.take(pa.array(places)))
        return rows

    def _scanner(self, condition: pc.Expression, columns: Sequence[str] | None = None) -> Any:
        condition = condition if self.where is None else condition & self.where
        return self.dataset.scanner(
            columns=list(dict.fromkeys(columns or self.columns)), filter=condition, batch_size=1024
        )


def choose(
    run: FinishedRun, columns: Sequence[str], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The rows that the options of `pipeline.show` ask for."""
    chooser = Chooser(run, columns, options.where)
    if options.id is not None:
        return chooser.by_id(options.id)
    return chooser.worst(options.worst) if options.worst else chooser.sample(options.sample)
