"""CompareAudits: which rows of two audits are pairs, and why others are not."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.audit.columns import AUDIT_SCHEMA
from model.audit.comparison import Comparison
from tests.model.audit.test_comparison import score
from transforms.compare_audits import AuditSide, CompareAudits, ScoredPart, pair_scores, read_scores

VALUES = (1.0, 0.0, 0.5)


def sides(*pairs: bytes | None) -> tuple[list[Any], list[Any]]:
    """Return scores of both sides with these hashes of texts: `b...` before, `a...` after."""
    before = [
        score(False, row, VALUES, pair=pair[1:] or None)
        for row, pair in enumerate(pairs)
        if pair and pair[:1] == b"b"
    ]
    after = [
        score(True, row, VALUES, pair=pair[1:] or None)
        for row, pair in enumerate(pairs)
        if pair and pair[:1] == b"a"
    ]
    return before, after


@pytest.mark.parametrize(
    ("hashes", "kinds"),
    [
        ((b"bx", b"ax"), ["paired"]),
        ((b"ax", b"bx"), ["paired"]),
        ((b"b", b"ax"), ["paired"]),  # rejected before
        ((b"bx", b"ay"), ["text_changed"]),
        ((b"bx",), ["only_before"]),
        ((b"ax",), ["only_after"]),
        ((b"bx", b"by", b"ax", b"ay"), ["paired", "paired"]),
        ((b"bx", b"by", b"ax"), ["paired", "only_before"]),
        ((b"bx", b"bx", b"ax"), ["repeated"]),
        ((b"b", b"b", b"ax"), ["only_before", "only_after"]),
    ],
)
def test_pairs_of_one_id(hashes: tuple[bytes, ...], kinds: list[str]):
    before, after = sides(*hashes)
    found = list(pair_scores("id", iter([*after, *before])))
    assert [kind for kind, _, _ in found] == kinds
    # Every row is in one pairing.
    assert sum(len(one) + len(other) for _, one, other in found) == len(hashes)


def test_thousands_of_rows_of_one_id_are_looked_at_once_each():
    """Searching all rows for every text of them would compare 32 million times."""

    class Looked(bytes):
        times = 0

        def __eq__(self, other: object) -> bool:
            Looked.times += 1
            return super().__eq__(other)

        __hash__ = bytes.__hash__

    rows = range(4000)
    scores = [
        score(side, row, VALUES, pair=Looked(row.to_bytes(4)))
        for side in (False, True)
        for row in rows
    ]
    assert Counter(kind for kind, _, _ in pair_scores("id", scores)) == {"paired": len(rows)}
    assert Looked.times < 3 * len(scores)


def test_rows_without_an_id_are_nobodys_partner():
    before, after = sides(b"bx", b"ax")
    assert [kind for kind, _, _ in pair_scores(None, [*before, *after])] == ["without_id"] * 2


def side(after: bool, prefix: str = "", question: str = "question") -> AuditSide:
    return AuditSide("/nowhere", after, "id", prefix, question, "answers", ())


def audited(path: Path, ids: list[Any], prefix: str = "", **columns: list[Any]) -> Path:
    values: dict[str, list[Any]] = {
        name: [None] * len(ids) for name in AUDIT_SCHEMA.names
    } | columns
    table = pa.table(
        [pa.array(values[field.name], field.type) for field in AUDIT_SCHEMA],
        names=AUDIT_SCHEMA.names,
    )
    table = table.rename_columns([prefix + name for name in table.column_names])
    pq.write_table(
        table.add_column(0, "id", pa.array(ids)).append_column(
            "question", pa.array(["Who?"] * len(ids))
        ),
        path,
    )
    return path


def test_a_row_crosses_the_shuffle_as_figures(tmp_path: Path):
    path = audited(
        tmp_path / "a.parquet",
        [7, None],
        prefix="qa_",
        nll=[1.5, None],
        exact_match=[0.0, None],
        f1=[0.5, None],
        golds=[1, None],
        gold_start=[90, None],
        gold_end=[97, None],
        context_characters=[100, None],
        status=["scored", "rejected"],
        pair_hash=[b"x" * 16, None],
    )
    (row_id, first), (no_id, second) = read_scores(ScoredPart(side(False, "qa_"), str(path), 3))
    assert (row_id, no_id) == ("7", None)
    assert (first.part, first.row, first.status, first.values) == (3, 0, "scored", (1.5, 0.0, 0.5))
    assert first.pair == b"x" * 16
    assert dict(first.labels)["answer_position"] == "5 of 5"
    assert dict(first.labels)["question_word"] == "who"
    assert second.status == "rejected"
    assert all(math.isnan(value) for value in second.values)
    (_, after), _ = read_scores(ScoredPart(side(True, "qa_", question=""), str(path), 0))
    assert after.labels == ()
    assert len(pickle.dumps(first)) < 1000


def test_two_audits_in_a_pipeline(tmp_path: Path):
    """The rows of one side are in other parts, and in another order."""
    both = []
    for after, ids in ((False, [["a", "b"], ["c", "d"]]), (True, [["d", "x", "b"], ["a"]])):
        folder = tmp_path / str(after)
        (folder / "parts").mkdir(parents=True)
        for index, names in enumerate(ids):
            hashes = [name.encode() * 16 for name in names]
            figures: dict[str, list[Any]] = {
                "f1": [0.25 + after / 2] * len(names),
                "exact_match": [0.0] * len(names),
            }
            path = folder / "parts" / f"{index}-n{len(names)}.parquet"
            audited(path, names, pair_hash=hashes, status=["scored"] * len(names), **figures)
        both.append(replace(side(after), folder=str(folder)))
    found: list[Comparison] = []
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create(both)
            | CompareAudits(5)
            | beam.Map(
                lambda each: pq.write_table(
                    pa.table({"found": [pickle.dumps(each)]}), tmp_path / "found.parquet"
                )
            )
        )
    found = [pickle.loads(pq.read_table(tmp_path / "found.parquet")["found"][0].as_py())]
    summary = found[0].summary()
    assert summary["paired"] == 3
    assert summary["unpaired"]["only_before"] == {"rows": 1, "ids": ["c"]}
    assert summary["unpaired"]["only_after"] == {"rows": 1, "ids": ["x"]}
    assert summary["all"]["f1"]["difference"] == pytest.approx(50)
    assert [(change[2], change[4].part, change[4].row) for change in found[0].improvements] == [
        ("a", 1, 0),
        ("b", 0, 2),
        ("d", 0, 0),
    ]
