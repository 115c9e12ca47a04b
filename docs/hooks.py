"""Fills `<!-- help of MODULE -->` with what the parsers of that module say, so that the reference is never behind."""

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


def on_page_markdown(markdown: str, **_: Any) -> str:
    def fill(match: re.Match[str]) -> str:
        parser = importlib.import_module(match[1]).make_parser()
        return "\n".join(f"```text\n{text}```\n" for text in helps(parser))

    return re.sub(r"<!-- help of ([\w.]+) -->", fill, markdown)
