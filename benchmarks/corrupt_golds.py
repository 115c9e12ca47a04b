"""Corrupts gold answers with a known hand, and measures how well the audit's loss ranks them.

    python -m benchmarks.corrupt_golds make --input gold.parquet --kind moved --output corrupted.parquet
    python run_pipeline.py audit --input corrupted.parquet --output OUT
    python -m benchmarks.corrupt_golds rank --audit OUT

Kinds, 5 % of the rows each: `moved` to a random other span of as many words of the same passage; `shifted`, both ends by
one to three words; `truncated` to a part of a gold of several words. 5 % more are `misaligned`: the start is off, the text
is not. A corrupted row keeps one gold. The column `corruption` says what was done.
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Span = tuple[int, int]


def moved(
    words: list[Span], golds: list[Span], first: int, last: int, chosen: random.Random
) -> Span | None:
    """As many words elsewhere, apart from every gold."""
    count = last - first + 1
    places = [(words[k][0], words[k + count - 1][1]) for k in range(len(words) - count + 1)]
    apart = [(s, e) for s, e in places if all(e <= gs or s >= ge for gs, ge in golds)]
    return chosen.choice(apart) if apart else None


def shifted(
    words: list[Span], _: list[Span], first: int, last: int, chosen: random.Random
) -> Span | None:
    """Both ends moved the same way by one to three words."""
    by = chosen.choice([-3, -2, -1, 1, 2, 3])
    if not 0 <= first + by <= last + by < len(words):
        return None
    return words[first + by][0], words[last + by][1]


def truncated(
    words: list[Span], _: list[Span], first: int, last: int, chosen: random.Random
) -> Span | None:
    """A proper part of a gold of several words, from its start or to its end."""
    if first == last:
        return None
    cut = chosen.randrange(first, last)
    return (
        (words[first][0], words[cut][1])
        if chosen.random() < 0.5
        else (words[cut + 1][0], words[last][1])
    )


KINDS = {"moved": moved, "shifted": shifted, "truncated": truncated}


def corrupt(row: dict[str, Any], kind: str, chosen: random.Random) -> dict[str, Any] | None:
    """The row with one corrupted gold; None if it does not lend itself to it."""
    context, answers = row["context"], row["answers"]
    golds = [
        (s, s + len(text)) for text, s in zip(answers["text"], answers["answer_start"], strict=True)
    ]
    start, end = golds[0]
    if kind == "misaligned":
        start += chosen.choice([-2, -1, 1, 2])
        text = answers["text"][0]
        if start < 0 or context[start : start + len(text)] == text:
            return None
        return {**row, "answers": {"text": [text], "answer_start": [start]}, "corruption": kind}
    words = [match.span() for match in re.finditer(r"\S+", context)]
    inside = [k for k, (s, e) in enumerate(words) if e > start and s < end]
    found = KINDS[kind](words, golds, inside[0], inside[-1], chosen)
    if found is None or context[found[0] : found[1]].strip(".,;:") in answers["text"]:
        return None
    return {
        **row,
        "answers": {"text": [context[found[0] : found[1]]], "answer_start": [found[0]]},
        "corruption": kind,
    }


def make(options: argparse.Namespace) -> None:
    chosen = random.Random(options.seed)
    table = pq.read_table(options.input).slice(options.skip, options.rows)
    rows = [{**row, "corruption": "none"} for row in table.to_pylist()]
    share = len(rows) // 20
    for kind in (options.kind, "misaligned"):
        done = 0
        for place in chosen.sample(range(len(rows)), len(rows)):
            if done < share and rows[place]["corruption"] == "none":
                changed = corrupt(rows[place], kind, chosen)
                if changed is not None:
                    rows[place] = changed
                    done += 1
    if options.one_gold:
        rows = [
            {**row, "answers": {name: values[:1] for name, values in row["answers"].items()}}
            for row in rows
        ]
    schema = table.schema.append(pa.field("corruption", pa.string()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), options.output)


def rank(options: argparse.Namespace) -> None:
    rows = [
        row
        for part in sorted(Path(options.audit, "parts").iterdir())
        for row in pq.read_table(part).to_pylist()
    ]
    misaligned = [row for row in rows if row["corruption"] == "misaligned"]
    for reason in ("gold_misaligned", "gold_out_of_range"):
        found = sum(row["reason"] == reason for row in misaligned)
        false_alarms = sum(row["reason"] == reason for row in rows) - found
        print(
            f"misaligned: {found} of {len(misaligned)} found as {reason}, {false_alarms} others called so"
        )
    scored = [row for row in rows if row["nll"] is not None]
    bad = np.array([row["corruption"] != "none" for row in scored])
    kind = next(row["corruption"] for row in scored if row["corruption"] != "none")
    for loss in ("nll", "min_nll", "native_nll", "nll_per_token"):
        values = np.array([row[loss] if row[loss] is not None else -np.inf for row in scored])
        top = np.argsort(-values, kind="stable")[: len(scored) // 10]
        print(
            f"{kind}, by {loss}: {100 * bad[top].sum() / bad.sum():.1f} % of {bad.sum()} corrupted golds are among the "
            f"top 10 % ({len(top)} of {len(scored)} rows)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make")
    making.add_argument("--input", required=True)
    making.add_argument("--kind", choices=list(KINDS), required=True)
    making.add_argument("--output", required=True)
    making.add_argument("--rows", type=int, default=2000)
    making.add_argument("--skip", type=int, default=0, help="rows of the input before the first")
    making.add_argument(
        "--one_gold",
        action="store_true",
        help="every row keeps its first gold only, as corrupted rows do",
    )
    making.add_argument("--seed", type=int, default=0)
    ranking = verbs.add_parser("rank")
    ranking.add_argument("--audit", required=True)
    options = parser.parse_args()
    make(options) if options.verb == "make" else rank(options)


if __name__ == "__main__":
    main()
