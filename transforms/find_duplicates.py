"""FindDuplicates: finds rows of audits with equal texts, by hash.

Only hashes and ids cross the shuffle.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam

from model.reading.texts import as_texts
from transforms.chunk_step import closing_failure
from transforms.claim import Output
from transforms.merge_receipts import closing
from transforms.parquet_files import open_parquet
from transforms.records import Receipt
from transforms.run_files import RunFiles

KINDS = ("pair", "context", "question")
SENTINEL = ("", b"")
"""The key of the sentinel, the element that is not a part.

It is passed on once all parts are read, so that `duplicates.json` is also written for zero rows.
"""
FAILED = "failed"
"""The kind of the key of a part's failed receipt; the hash is its path."""
_MOST_EXAMPLES = 100
_MOST_IDS = 5


@dataclass(frozen=True, slots=True)
class AuditedPart:
    """A part of an audit.

    own     whether it is a part of this run, not of the audit given with `--against`
    id      name of its id column
    prefix  of the names of its audit columns
    """

    path: str
    own: bool
    id: str
    prefix: str


@dataclass(slots=True)
class Same:
    """Rows that share one hash.

    own, other      rows of this run and of the other audit
    ids, other_ids  the first _MOST_IDS ids of each
    golds           up to two distinct hashes of golds of this run
    """

    own: int = 0
    other: int = 0
    ids: list[str] = field(default_factory=list)
    other_ids: list[str] = field(default_factory=list)
    golds: set[bytes] = field(default_factory=set)

    def merge(self, more: Same) -> Same:
        """Return both together."""
        return Same(
            self.own + more.own,
            self.other + more.other,
            sorted([*self.ids, *more.ids])[:_MOST_IDS],
            sorted([*self.other_ids, *more.other_ids])[:_MOST_IDS],
            set(sorted(self.golds | more.golds)[:2]),  # two are enough for a conflict
        )


def _keyed(
    part: AuditedPart | Receipt | Any, kinds: tuple[str, ...]
) -> Iterator[tuple[tuple[str, bytes], Any]]:
    """Yield the hashes of a part, the sentinel under SENTINEL, and a failed receipt under FAILED.

    A part that can't be read becomes a failed receipt.
    """
    if isinstance(part, AuditedPart):
        try:
            yield from read_hashes(part, kinds)
        except BaseException as error:
            receipt = closing_failure("audit", "FindDuplicates", part.path, error)
            yield (FAILED, part.path.encode()), receipt
    elif isinstance(part, Receipt):
        yield (FAILED, part.path.encode()), part
    else:
        yield SENTINEL, part


def read_hashes(
    part: AuditedPart, kinds: tuple[str, ...]
) -> Iterator[tuple[tuple[str, bytes], Same]]:
    """Yield ((kind, hash), Same) for every row that was not rejected.

    A row whose id is not kept, is null or is not text is identified by its part's name and its row.
    """
    names = [f"{part.prefix}{kind}_hash" for kind in (*kinds, "gold")]
    row = 0
    with open_parquet(part.path) as file:
        # `--keep_columns` may have left the id out.
        known = [part.id] if part.id in file.schema_arrow.names else []
        for batch in file.iter_batches(columns=[*known, *names]):
            ids = as_texts(batch.column(part.id)) if known else [None] * batch.num_rows
            columns = [batch.column(name).to_pylist() for name in names]
            for row_id, *hashes, gold in zip(ids, *columns, strict=True):
                shown = [row_id or f"{part.path.rsplit('/', 1)[-1]}:{row}"]
                row += 1
                for kind, value in zip(kinds, hashes, strict=True):
                    if value is not None:
                        # Only equal pairs with different golds are a conflict.
                        if part.own:
                            same = Same(own=1, ids=shown, golds={gold} if kind == "pair" else set())
                        else:
                            same = Same(other=1, other_ids=shown)
                        yield (kind, value), same


class _SameFn(beam.CombineFn):
    """Merges the Same of one hash; a CombineFn, so that runners merge before the shuffle too."""

    def create_accumulator(self) -> Any:
        return None

    def add_input(self, merged: Any, same: Any) -> Any:
        return same if merged is None else merged.merge(same)

    def merge_accumulators(self, several: Iterable[Any]) -> Any:
        merged = None
        for same in several:
            merged = merged if same is None else self.add_input(merged, same)
        return merged

    def extract_output(self, merged: Any) -> Any:
        return merged


class _CountFn(beam.CombineFn):
    """((kind, hash), Same) -> the content of `duplicates.json`, and what is not written there.

    The sentinel is in "waiting", and in "failed" is the first failed receipt, if there is one.
    """

    def create_accumulator(self) -> dict[str, Any]:
        counts = dict.fromkeys(
            ("repeated_pairs", "rows_of_repeated_pairs", "pairs_with_conflicting_golds"), 0
        )
        overlap = {kind: {"shared": 0, "own_rows": 0, "other_rows": 0} for kind in KINDS}
        return {
            **counts,
            "overlap": overlap,
            "repeated": [],
            "shared": [],
            "waiting": None,
            "failed": [],
        }

    def add_input(
        self, total: dict[str, Any], entry: tuple[tuple[str, bytes], Any]
    ) -> dict[str, Any]:
        (kind, value), same = entry
        if (kind, value) == SENTINEL:
            return {**total, "waiting": same}
        if kind == FAILED:
            return {**total, "failed": _first(total["failed"], [same])}
        # Repeated within this run.
        if kind == "pair" and same.own > 1:
            total["repeated_pairs"] += 1
            total["rows_of_repeated_pairs"] += same.own
            total["pairs_with_conflicting_golds"] += len(same.golds) > 1
            example = {
                "rows": same.own,
                "ids": same.ids,
                "conflicting_golds": len(same.golds) > 1,
            }
            self._keep(total, "repeated", value, example)
        # Shared with the other audit.
        if same.own and same.other:
            overlap = total["overlap"][kind]
            overlap["shared"] += 1
            overlap["own_rows"] += same.own
            overlap["other_rows"] += same.other
            if kind == "pair":
                self._keep(total, "shared", value, {"ids": same.ids, "other_ids": same.other_ids})
        return total

    def _keep(
        self, total: dict[str, Any], name: str, value: bytes, example: dict[str, Any]
    ) -> None:
        """Add an example to a list, which keeps the smallest hashes: the same in any order."""
        total[name] = heapq.nsmallest(
            _MOST_EXAMPLES, [*total[name], (value.hex(), json.dumps(example))]
        )

    def merge_accumulators(self, several: Iterable[dict[str, Any]]) -> dict[str, Any]:
        merged = self.create_accumulator()
        for total in several:
            for name, value in total.items():
                if isinstance(value, int):
                    merged[name] += value
            for kind, counts in total["overlap"].items():
                for name, count in counts.items():
                    merged["overlap"][kind][name] += count
            # Only one accumulator has received the sentinel.
            if total["waiting"] is not None:
                merged["waiting"] = total["waiting"]
            merged["failed"] = _first(merged["failed"], total["failed"])
            for name in ("repeated", "shared"):
                merged[name] = heapq.nsmallest(_MOST_EXAMPLES, [*merged[name], *total[name]])
        return merged

    def extract_output(self, total: dict[str, Any]) -> dict[str, Any]:
        examples = {}
        for name in ("repeated", "shared"):
            examples[name] = [json.loads(example) for _, example in total[name]]
        return {**total, **examples}


@dataclass
class FindDuplicates(beam.PTransform):
    """AuditedParts, and the Totals by stage -> the Totals, once `duplicates.json` exists.

    A failed receipt among the parts, a part that can't be read or an error in writing is added to
    the Totals of the audit, and `duplicates.json` is not written.

    against  folder of the other audit; "" without one: only repeated pairs are counted then
    """

    output: Output
    against: str

    def expand(self, parts: beam.PCollection) -> beam.PCollection:
        kinds = KINDS if self.against else ("pair",)
        return (
            parts
            | "ReadHashes" >> beam.FlatMap(_keyed, kinds)
            | "MergeSame" >> beam.CombinePerKey(_SameFn())
            # The sentinel makes the input non-empty, so there is always one result.
            | "Count" >> beam.CombineGlobally(_CountFn()).without_defaults()
            | "WriteDuplicates" >> beam.Map(_close, self.output, self.against)
        )


def _first(receipts: list[Receipt], more: list[Receipt]) -> list[Receipt]:
    """Return the failed receipt of the first path, in a list: the same in any order."""
    return sorted([*receipts, *more], key=lambda receipt: receipt.path)[:1]


def _close(duplicates: dict[str, Any], output: Output, against: str) -> Any:
    """Write `duplicates.json` unless a part failed. Returns the sentinel."""
    totals = duplicates["waiting"]
    for receipt in duplicates["failed"]:
        totals["audit"].add(receipt)
    if not duplicates["failed"]:
        with closing(totals["audit"], "FindDuplicates", output):
            write_duplicates(duplicates, output, against)
    return totals


def write_duplicates(duplicates: dict[str, Any], output: Output, against: str) -> Any:
    """Write `duplicates.json`, about the other audit only if there is one. Returns the sentinel."""
    left_out = ("waiting", "failed") if against else ("waiting", "failed", "overlap", "shared")
    content = {name: value for name, value in duplicates.items() if name not in left_out}
    if against:
        content = {"against": against, **content}
    output.publish(json.dumps(content, indent=2, ensure_ascii=False).encode(), RunFiles.DUPLICATES)
    return duplicates["waiting"]
