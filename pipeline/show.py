"""Shows rows of a finished run in the terminal: `python -m pipeline.show OUTPUT [--rows N]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from transforms.storage import StorageError, absolute, join, list_names, open_parquet

_SHOWN_CHARACTERS = 80


def read_rows(output: str) -> list[dict[str, Any]]:
    """All rows of a run's parts, in order."""
    rows: list[dict[str, Any]] = []
    parts = join(output, "parts")
    for name in list_names(parts):
        with open_parquet(join(parts, name)) as file:
            rows += file.read().to_pylist()
    return rows


def show_row(row: dict[str, Any], prefix: str = "") -> str:
    """One annotated row: question, answer with its probability, gold answers where it has any."""
    status = row[f"{prefix}status"]
    lines = [f"{row.get('id')}: {row['question']}"]
    if status == "rejected":
        lines.append(f"    rejected: {row[f'{prefix}reason']}")
    else:
        answer = repr(row[f"{prefix}answer_text"][:_SHOWN_CHARACTERS]) if status == "answered" else "no answer"
        where = f"window {row[f'{prefix}window_index'] + 1} of {row[f'{prefix}num_windows']}"
        lines.append(f"    {answer}, probability {row[f'{prefix}probability']:.2f}, {where}")
    golds = (row.get("answers") or {}).get("text")
    if golds is not None:
        lines.append(f"    gold: {' | '.join(map(repr, golds)) or 'none'}")
    # Control characters of corpus text must not reach the terminal.
    return "\n".join("".join(each if each.isprintable() else " " for each in line) for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.show", description=__doc__, allow_abbrev=False)
    parser.add_argument("output", help="folder or URL of an annotate run")
    parser.add_argument("--rows", type=int, default=12, metavar="N", help="how many rows, spread over all of them (12)")
    parser.add_argument("--output_prefix", default="", metavar="TEXT", help="as it was given to the run")
    options = parser.parse_args(arguments)
    try:
        rows = read_rows(absolute(options.output))
    except StorageError as error:
        print(error, file=sys.stderr)
        return 2
    if not rows:
        print(f"{options.output} holds no parts", file=sys.stderr)
        return 2
    step = max(1, len(rows) // max(1, options.rows))
    for row in rows[::step][: options.rows]:
        print(show_row(row, options.output_prefix))
    return 0


if __name__ == "__main__":
    sys.exit(main())
