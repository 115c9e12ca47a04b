"""Corrupt gold answers in known ways, and measure how well the audit's loss ranks them.

    python -m benchmarks.corrupt_golds make --input gold.parquet --kind moved \\
        --output corrupted.parquet
    python run_pipeline.py audit --input corrupted.parquet --output OUT
    python -m benchmarks.corrupt_golds rank --audit OUT

5 % of the rows are corrupted in the chosen way, 5 % more are `misaligned`:

    moved       to a random other span of as many words in the same passage
    shifted     by one to three words at both ends
    truncated   to a part of a gold of several words
    misaligned  the start is wrong, the text is right

A corrupted row keeps one gold. The column `corruption` names the way.
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
    """Return a span of as many words that overlaps no gold; None if there is none."""
    count = last - first + 1
    spans = [(words[k][0], words[k + count - 1][1]) for k in range(len(words) - count + 1)]
    apart = [(s, e) for s, e in spans if all(e <= gs or s >= ge for gs, ge in golds)]
    return chosen.choice(apart) if apart else None


def shifted(
    words: list[Span], _: list[Span], first: int, last: int, chosen: random.Random
) -> Span | None:
    """Return the span moved by one to three words; None if it would leave the passage."""
    by = chosen.choice([-3, -2, -1, 1, 2, 3])
    if not 0 <= first + by <= last + by < len(words):
        return None
    return words[first + by][0], words[last + by][1]


def truncated(
    words: list[Span], _: list[Span], first: int, last: int, chosen: random.Random
) -> Span | None:
    """Return the beginning or the end of a gold of several words; None for a single word."""
    if first == last:
        return None
    cut = chosen.randrange(first, last)
    if chosen.random() < 0.5:
        return words[first][0], words[cut][1]
    return words[cut + 1][0], words[last][1]


KINDS = {"moved": moved, "shifted": shifted, "truncated": truncated}
"""Way -> function of (spans of the words, golds, first and last word of the gold, random)."""


def corrupt(row: dict[str, Any], kind: str, chosen: random.Random) -> dict[str, Any] | None:
    """Return the row with one corrupted gold; None if it can't be corrupted this way."""
    context, answers = row["context"], row["answers"]
    golds = [
        (s, s + len(text)) for text, s in zip(answers["text"], answers["answer_start"], strict=True)
    ]
    if not golds:
        return None
    start, end = golds[0]
    # Only the start moves, by so little that the text is no longer there.
    if kind == "misaligned":
        start += chosen.choice([-2, -1, 1, 2])
        text = answers["text"][0]
        if start < 0 or context[start : start + len(text)] == text:
            return None
        return {**row, "answers": {"text": [text], "answer_start": [start]}, "corruption": kind}
    words = [match.span() for match in re.finditer(r"\S+", context)]
    inside = [k for k, (s, e) in enumerate(words) if e > start and s < end]
    span = KINDS[kind](words, golds, inside[0], inside[-1], chosen)
    # A span that equals another gold would not be an error.
    if span is None or context[span[0] : span[1]].strip(".,;:") in answers["text"]:
        return None
    return {
        **row,
        "answers": {"text": [context[span[0] : span[1]]], "answer_start": [span[0]]},
        "corruption": kind,
    }


def make(options: argparse.Namespace) -> None:
    """Write the corrupted rows."""
    chosen = random.Random(options.seed)
    table = pq.read_table(options.input).slice(options.skip, options.rows)
    rows = [{**row, "corruption": "none"} for row in table.to_pylist()]
    share = len(rows) // 20
    for kind in (options.kind, "misaligned"):
        done = 0
        for number in chosen.sample(range(len(rows)), len(rows)):
            if done < share and rows[number]["corruption"] == "none":
                changed = corrupt(rows[number], kind, chosen)
                if changed is not None:
                    rows[number] = changed
                    done += 1
    if options.one_gold:
        rows = [
            {**row, "answers": {name: values[:1] for name, values in row["answers"].items()}}
            for row in rows
        ]
    schema = table.schema.append(pa.field("corruption", pa.string()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), options.output)


def rank(options: argparse.Namespace) -> None:
    """Print how many misaligned golds were found, and how many corrupted ones rank high."""
    rows = [
        row
        for part in sorted(Path(options.audit, "parts").iterdir())
        for row in pq.read_table(part).to_pylist()
    ]
    misaligned = [row for row in rows if row["corruption"] == "misaligned"]
    for reason in ("gold_misaligned", "gold_out_of_range"):
        hits = sum(row["reason"] == reason for row in misaligned)
        false_alarms = sum(row["reason"] == reason for row in rows) - hits
        print(
            f"misaligned: {hits} of {len(misaligned)} found as {reason}, "
            f"{false_alarms} false alarms"
        )
    # Rows without a loss can't be ranked.
    scored = [row for row in rows if row["nll"] is not None]
    bad = np.array([row["corruption"] != "none" for row in scored])
    kind = next(row["corruption"] for row in scored if row["corruption"] != "none")
    for loss in ("nll", "min_nll", "native_nll", "nll_per_token"):
        values = np.array([row[loss] if row[loss] is not None else -np.inf for row in scored])
        top = np.argsort(-values, kind="stable")[: len(scored) // 10]
        print(
            f"{kind}, by {loss}: {100 * bad[top].sum() / bad.sum():.1f} % of {bad.sum()} corrupted "
            f"golds are among the top 10 % ({len(top)} of {len(scored)} rows)"
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
    making.add_argument("--skip", type=int, default=0, help="number of rows to skip first")
    making.add_argument(
        "--one_gold",
        action="store_true",
        help="keep only the first gold of every row, as in corrupted rows",
    )
    making.add_argument("--seed", type=int, default=0)
    ranking = verbs.add_parser("rank")
    ranking.add_argument("--audit", required=True)
    options = parser.parse_args()
    make(options) if options.verb == "make" else rank(options)


if __name__ == "__main__":
    main()
