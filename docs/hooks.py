"""Fill the reference from the code, so that it is never behind.

`<!-- help of MODULE -->` becomes the help of that module's parsers, `<!-- settings -->` a table of every group of settings.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections.abc import Iterator
from typing import Any

os.environ["COLUMNS"] = "110"


def helps(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The help of a parser, and of each of its commands."""
    yield parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from helps(command)


def settings() -> Iterator[str]:
    """Yield a Markdown table for each group of settings."""
    from model.settings import declared
    from pipeline.job.options import default_in_words
    from pipeline.job.settings import GROUPS

    for title, group in GROUPS.items():
        yield f"## {title}\n\n{group.__doc__}\n\n| option | takes | default | stages | |\n|---|---|---|---|---|\n"
        for name, default, each in declared(group):
            if each.option:
                cells = (
                    each.kind.words,
                    default_in_words(default, each),
                    ", ".join(each.stages),
                    each.help,
                )
                yield f"| `--{name}` | {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"
        yield "\n"


def on_page_markdown(markdown: str, **_: Any) -> str:
    def fill(match: re.Match[str]) -> str:
        parser = importlib.import_module(match[1]).make_parser()
        return "\n".join(f"```text\n{text}```\n" for text in helps(parser))

    markdown = markdown.replace("<!-- settings -->", "".join(settings()))
    return re.sub(r"<!-- help of ([\w.]+) -->", fill, markdown)
