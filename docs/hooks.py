"""Fill the reference from the code, so that it is never behind.

`<!-- help of MODULE -->` becomes the help of that module's parsers, `<!-- settings -->` a table of
every group of settings, `<!-- columns of STAGE -->` a table of the stage's output columns.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

os.environ["COLUMNS"] = "110"

COLUMNS = {
    "annotate": ("model.reading.columns", "ANSWER_COLUMNS"),
    "audit": ("model.audit.columns", "AUDIT_COLUMNS"),
}
"""Where the columns of each stage are declared."""

TYPES = {
    "float": "float32",
    "double": "float64",
    "fixed_size_binary[16]": "binary(16)",
    "list<item: string>": "list of string",
}
"""What the manual calls Arrow types that have a longer or a misleading name."""


def helps(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the help of a parser, and of each of its commands."""
    yield parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from helps(command)


def table(head: str, rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for cells in rows:
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join([*lines, ""])


def settings() -> Iterator[str]:
    """Yield a heading and a table for each group of settings."""
    from model.settings import declared
    from pipeline.job.options import default_in_words
    from pipeline.job.settings import GROUPS

    for title, group in GROUPS.items():
        rows = [
            (
                f"`--{name}`",
                each.kind.words,
                default_in_words(default, each),
                ", ".join(each.stages),
                each.help,
            )
            for name, default, each in declared(group)
            if each.option
        ]
        head = "| option | takes | default | stages | |"
        yield f"## {title}\n\n{group.__doc__}\n\n{table(head, rows)}\n"


def columns(stage: str) -> str:
    """Return a table of a stage's columns; neighbours of one type and meaning share a line.

    Columns that need an option come with it.
    """
    module, name = COLUMNS[stage]
    rows = []
    for (kind, meaning, option), group in groupby(
        getattr(importlib.import_module(module), name),
        key=lambda each: (each.type, each.meaning, each.option),
    ):
        kind = TYPES.get(str(kind), "list of struct" if "struct" in str(kind) else str(kind))
        needs = f"with `{option}`: " if option else ""
        rows.append((", ".join(f"`{each.name}`" for each in group), kind, needs + meaning))
    return table("| column | type | |", rows)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the comments of one page."""

    def fill_help(match: re.Match[str]) -> str:
        parser = importlib.import_module(match[1]).make_parser()
        return "\n".join(f"```text\n{text}```\n" for text in helps(parser))

    markdown = markdown.replace("<!-- settings -->", "".join(settings()))
    markdown = re.sub(r"<!-- help of ([\w.]+) -->", fill_help, markdown)
    return re.sub(r"<!-- columns of (\w+) -->", lambda match: columns(match[1]), markdown)
