"""FindDuplicates: equal to counting by hand, in any order and grouping."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from tests.runs import write_input
from tests.transforms.fakes import claimed
from transforms.find_duplicates import (
    KINDS,
    AuditedPart,
    FindDuplicates,
    Same,
    _CountFn,
    _SameFn,
    read_hashes,
    write_duplicates,
)
from transforms.run_files import RunFiles

WAITING = {"audit": "the totals, which wait for duplicates.json"}
"""An element that is passed on unchanged."""

Row = tuple[str | None, str | None, str | None, str | None]
"""id, question, context, gold, as texts that are used as hashes; None in rejected rows."""


def hashed(text: str | None) -> bytes | None:
    return None if text is None else text.encode().ljust(16, b".")


def part(
    folder: Path,
    rows: Sequence[Row],
    *,
    own: bool = True,
    prefix: str = "",
    name: str = "p.parquet",
) -> AuditedPart:
    """Return a part with the relevant columns, and one of other text."""
    table = pa.table(
        {
            "id": pa.array([row[0] for row in rows], pa.string()),
            "context": [f"a long text {row[2]}" for row in rows],
            f"{prefix}question_hash": pa.array([hashed(row[1]) for row in rows], pa.binary(16)),
            f"{prefix}context_hash": pa.array([hashed(row[2]) for row in rows], pa.binary(16)),
            f"{prefix}pair_hash": pa.array(
                [hashed(row[1] and f"{row[1]}/{row[2]}") for row in rows], pa.binary(16)
            ),
            f"{prefix}gold_hash": pa.array([hashed(row[3]) for row in rows], pa.binary(16)),
        }
    )
    path = write_input(folder / ("own" if own else "other") / name, table, row_group_size=2)
    return AuditedPart(str(path), own, "id", prefix)


OWN: list[Row] = [
    ("a", "q1", "c1", "g1"),
    ("b", "q1", "c1", "g1"),  # the same pair and golds
    ("c", "q2", "c1", "g1"),
    ("d", "q2", "c1", "g2"),  # the same pair, other golds
    ("e", "q2", "c1", "g1"),
    ("f", "q3", "c2", "g1"),
    ("g", None, None, None),  # rejected rows are not duplicates
    ("h", None, None, None),
    ("i", "q1", "c3", "g1"),
]
# Two shared pairs; golds of the other audit are not conflicts of this one.
OTHER_ROWS: list[Row] = [
    (
        "t",
        "q1",
        "c1",
        "g9",
    ),
    ("a", "q2", "c1", "g9"),
    ("z", "q2", "c1", "g8"),
    ("y", "q9", "c2", "g1"),  # a shared context
    ("x", "q3", "c9", "g1"),  # a shared question
    ("w", "q9", "c9", "g1"),  # repeated in the other audit only
    ("v", "q9", "c9", "g1"),
    ("u", None, None, None),
]

EXPECTED = {
    "repeated_pairs": 2,
    "rows_of_repeated_pairs": 5,
    "pairs_with_conflicting_golds": 1,
    "overlap": {
        "pair": {"shared": 2, "own_rows": 5, "other_rows": 3},
        "context": {"shared": 2, "own_rows": 6, "other_rows": 4},
        "question": {"shared": 3, "own_rows": 7, "other_rows": 4},
    },
}


def find(tmp_path: Path, parts: Sequence[AuditedPart], against: str = "") -> dict[str, Any]:
    """Return `duplicates.json` of these parts, computed by Beam."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        found = (
            pipeline
            | beam.Create([WAITING, *parts])
            | FindDuplicates(claimed(tmp_path / "out", "audit"), against)
        )
        assert_that(found, equal_to([WAITING]))
    return json.loads((tmp_path / "out" / RunFiles.DUPLICATES).read_text("utf-8"))


def in_random_order(rows: Sequence[tuple[tuple[str, bytes], Same]], seed: int) -> dict[str, Any]:
    """Return the results of the two CombineFns for rows in another order and other groups."""
    order = random.Random(seed)
    of_key: dict[Any, list[Same]] = defaultdict(list)
    for key, same in order.sample(list(rows), len(rows)):
        of_key[key].append(same)
    merge, count = _SameFn(), _CountFn()
    totals = [count.create_accumulator() for _ in range(3)]
    for key, group in order.sample(list(of_key.items()), len(of_key)):
        halves = [merge.create_accumulator(), merge.create_accumulator()]
        for same in group:
            place = order.randrange(2)
            halves[place] = merge.add_input(halves[place], same)
        place = order.randrange(3)
        totals[place] = count.add_input(
            totals[place], (key, merge.extract_output(merge.merge_accumulators(halves)))
        )
    order.shuffle(totals)
    return count.extract_output(count.merge_accumulators(totals))


def test_repeated_pairs_of_one_audit(tmp_path: Path):
    parts = [part(tmp_path, OWN[:4], name="0.parquet"), part(tmp_path, OWN[4:], name="1.parquet")]
    found = find(tmp_path, parts)
    assert "against" not in found
    assert "overlap" not in found
    assert "shared" not in found
    assert {name: found[name] for name in EXPECTED if name != "overlap"} == {
        name: value for name, value in EXPECTED.items() if name != "overlap"
    }
    assert sorted(found["repeated"], key=lambda entry: entry["rows"]) == [
        {"rows": 2, "ids": ["a", "b"], "conflicting_golds": False},
        {"rows": 3, "ids": ["c", "d", "e"], "conflicting_golds": True},
    ]


def test_overlap_with_another_audit(tmp_path: Path):
    """Its columns may have another prefix."""
    parts = [part(tmp_path, OWN), part(tmp_path, OTHER_ROWS, own=False, prefix="qa_")]
    found = find(tmp_path, parts, against="/other")
    assert found["against"] == "/other"
    assert {name: found[name] for name in EXPECTED} == EXPECTED
    assert found["shared"] == [
        {"ids": ["a", "b"], "other_ids": ["t"]},
        {"ids": ["c", "d", "e"], "other_ids": ["a", "z"]},
    ]
    assert [entry["conflicting_golds"] for entry in found["repeated"]] == [False, True]


def test_any_order_and_grouping_gives_the_same(tmp_path: Path):
    parts = [part(tmp_path, OWN), part(tmp_path, OTHER_ROWS, own=False)]
    rows = [entry for each in parts for entry in read_hashes(each, KINDS)]
    first = in_random_order(rows, 0)
    assert {name: first[name] for name in EXPECTED} == EXPECTED
    for seed in range(1, 10):
        assert in_random_order(rows, seed) == first


def test_only_hashes_and_ids_leave_a_part(tmp_path: Path):
    """Elements of the shuffle contain no texts, and nothing of rejected rows."""
    for key, same in read_hashes(part(tmp_path, OWN), KINDS):
        kind, value = key
        assert kind in KINDS
        assert len(value) == 16
        assert same.own == 1
        assert same.ids in [[row[0]] for row in OWN if row[1] is not None]
        assert all(len(gold) == 16 for gold in same.golds)
        assert bool(same.golds) == (kind == "pair")


def test_many_rows_of_one_hash_keep_a_few_ids(tmp_path: Path):
    """The accumulator of a hash that half of the corpus shares stays small."""
    rows: list[Row] = [(f"{k:04d}", "q", "c", f"g{k}") for k in range(500)]
    (entry,) = find(tmp_path, [part(tmp_path, rows)])["repeated"]
    assert entry == {
        "rows": 500,
        "ids": ["0000", "0001", "0002", "0003", "0004"],
        "conflicting_golds": True,
    }
    merged = _SameFn().merge_accumulators(
        same for _, same in read_hashes(part(tmp_path, rows), ("pair",))
    )
    assert len(merged.golds) == 2


def test_of_many_repeated_pairs_some_are_shown_and_all_are_counted(tmp_path: Path):
    rows: list[Row] = [(f"{k}-{n}", f"q{k}", "c", "g") for k in range(130) for n in range(2)]
    found = find(tmp_path, [part(tmp_path, rows)])
    assert found["repeated_pairs"] == 130
    assert found["rows_of_repeated_pairs"] == 260
    assert len(found["repeated"]) == 100


def test_rows_whose_id_is_of_no_use_go_by_their_place(tmp_path: Path):
    """`--keep_columns` may leave the ids out, and a writer may store what is not UTF-8."""
    rows: list[Row] = [
        (None, "q", "c", "g"),
        ("b", "q", "c", "g"),
        ("c", "q2", "c", "g"),
        ("d", "q2", "c", "g"),
    ]
    made = part(tmp_path, rows)
    assert find(tmp_path, [made])["repeated"][0]["ids"] == ["b", "p.parquet:0"]
    table = pq.ParquetFile(made.path).read()
    write_input(Path(made.path), table.drop_columns(["id"]))
    assert [entry["ids"] for entry in find(tmp_path, [made])["repeated"]] == [
        ["p.parquet:0", "p.parquet:1"],
        ["p.parquet:2", "p.parquet:3"],
    ]
    broken = pa.array([b"\xff", b"b", b"c", b"d"]).view(pa.string())
    write_input(Path(made.path), table.set_column(0, "id", broken))
    assert find(tmp_path, [made])["repeated"][0]["ids"] == ["b", "p.parquet:0"]
    write_input(Path(made.path), table.set_column(0, "id", pa.array([1, 2, 3, 4])))
    assert find(tmp_path, [made])["repeated"][0]["ids"] == ["1", "2"]


def test_no_part_has_no_duplicates(tmp_path: Path):
    """An audit of zero rows has all of its files: the combine gets the sentinel."""
    assert find(tmp_path, []) == {
        "repeated_pairs": 0,
        "rows_of_repeated_pairs": 0,
        "pairs_with_conflicting_golds": 0,
        "repeated": [],
    }


@pytest.mark.parametrize("against", ["", "/other"])
def test_what_is_written_is_about_the_other_audit_only_if_there_is_one(
    tmp_path: Path, against: str
):
    made = {"repeated_pairs": 3, "overlap": {}, "repeated": [], "shared": [], "waiting": WAITING}
    assert write_duplicates(made, claimed(tmp_path, "audit"), against) is WAITING
    found = json.loads((tmp_path / RunFiles.DUPLICATES).read_text())
    assert ("overlap" in found, "shared" in found, "against" in found) == (bool(against),) * 3
    assert "waiting" not in found
