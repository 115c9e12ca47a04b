"""Shows rows of a finished run in the terminal: `python -m pipeline.show OUTPUT [--rows N]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from transforms.records import rows_of_part
from transforms.storage import StorageError, absolute, join, list_names, open_parquet

_SHOWN_CHARACTERS = 80


def read_rows(output: str, wanted: int | None = None) -> list[dict[str, Any]]:
    """Rows of a run's parts, in order: all, or so many spread over all of them."""
    parts = join(output, "parts")
    names = list_names(parts)
    step = max(1, sum(map(rows_of_part, names)) // wanted) if wanted else 1
    rows: list[dict[str, Any]] = []
    seen = 0
    for name in names:
        places = [place - seen for place in range(-(-seen // step) * step, seen + rows_of_part(name), step)]
        seen += rows_of_part(name)
        if places:
            with open_parquet(join(parts, name)) as file:
                rows += file.read().take(places).to_pylist()
    return rows[:wanted]


def show_row(row: dict[str, Any], prefix: str = "") -> str:
    """One row of annotate or audit: question, answer with its probability, gold answers and loss where it has any."""
    mine = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    lines = [f"{row.get('id')}: {row.get('question')}"]
    if mine["status"] == "rejected":
        lines.append(f"    rejected: {mine['reason']}")
    else:
        answer = mine["prediction"] if "prediction" in mine else mine["answer_text"]
        told = [repr(answer[:_SHOWN_CHARACTERS]) if answer else "no answer", f"probability {mine['probability']:.2f}"]
        if "window_index" in mine:
            told.append(f"window {mine['window_index'] + 1} of {mine['num_windows']}")
        if mine.get("nll") is not None:
            told.append(f"loss of the gold {mine['nll']:.2f}, F1 {mine['f1']:.2f}")
        lines.append("    " + ", ".join(told))
    golds = (row.get("answers") or {}).get("text")
    if golds is not None:
        lines.append(f"    gold: {' | '.join(map(repr, golds)) or 'none'}")
    # Control characters of corpus text must not reach the terminal.
    return "\n".join("".join(each if each.isprintable() else " " for each in line) for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.show", description=__doc__, allow_abbrev=False)
    parser.add_argument("output", help="output of annotate or audit, a folder or URL")
    parser.add_argument("--rows", type=int, default=12, metavar="N", help="how many rows, spread over all of them (12)")
    parser.add_argument("--output_prefix", default="", metavar="TEXT", help="as it was given to the run")
    options = parser.parse_args(arguments)
    try:
        rows = read_rows(absolute(options.output), max(1, options.rows))
    except StorageError as error:
        print(error, file=sys.stderr)
        return 2
    if not rows:
        print(f"{options.output} holds no parts", file=sys.stderr)
        return 2
    for row in rows:
        print(show_row(row, options.output_prefix))
    return 0


if __name__ == "__main__":
    sys.exit(main())
