"""Write the shapes at each hop of one chunk into docs/one_chunk.md: python docs/figures/walk.py

They are recorded from a real run of the first rows of the bundled sample. A record's new field
appears without a change here. `tests/test_docs.py` fails if the page is out of date.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

import run_pipeline
from model.audit.statistics import Statistics
from model.reading.tokenizer import PairFormat
from transforms import chunk_step
from transforms.records import Chunk, ChunkRun

PAGE = Path(__file__).parents[1] / "one_chunk.md"

COMMAND = "annotate --audit --input bundled --limit 8 --dtype float32"

_BLOCK = re.compile(r"(<!-- walk: (\w+) -->\n```text\n).*?(^```$)", re.DOTALL | re.MULTILINE)

_OPAQUE = (PairFormat, Statistics)
"""Records whose fields say nothing about shapes."""


class _Outline:
    """Lists the fields of records; a record that an earlier hop listed is named only."""

    def __init__(self) -> None:
        self.listed: list[Any] = []

    def of(self, record: Any, indent: int = 0) -> Iterator[str]:
        """Yield the fields of a record, one a line; fields of records in it are indented."""
        self.listed.append(record)
        for field in dataclasses.fields(record):
            value = getattr(record, field.name)
            name = f"{' ' * indent}{field.name:{24 - indent}} "
            if isinstance(value, _OPAQUE) or not dataclasses.is_dataclass(value):
                yield from textwrap.wrap(f"{name}{shape(value)}", 98, subsequent_indent=" " * 27)
                yield from self._of_items(value, indent + 2)
            elif any(value is each for each in self.listed):
                yield f"{name}{type(value).__name__}, as above"
            else:
                yield f"{name}{type(value).__name__}"
                yield from self.of(value, indent + 2)

    def _of_items(self, value: Any, indent: int) -> Iterator[str]:
        """Yield the fields of the records in a tuple that no earlier hop listed."""
        for each in value if isinstance(value, tuple) else ():
            if dataclasses.is_dataclass(each) and not any(each is other for other in self.listed):
                yield f"{' ' * indent}{type(each).__name__}"
                yield from self.of(each, indent + 2)

    def of_hop(self, record: Any) -> list[str]:
        """Return the lines of a record that a step yields, or of its payload if it has one."""
        kind = type(record).__name__
        if isinstance(record, Chunk) and record.payload is not None:
            payload = record.payload
            return [f"{kind}[{type(payload).__name__}]", *self.of(payload, 2)]
        return [kind, *self.of(record, 2)]


def shape(value: Any) -> str:
    """Return the type and the size of a value in one line."""
    match value:
        case np.ndarray():
            return f"{value.dtype} [{', '.join(map(str, value.shape))}]"
        case pa.Table():
            return f"table of {value.num_rows} rows: {', '.join(value.column_names)}"
        case str():
            return "text" if value else '""'
        case Mapping():
            return ", ".join(map(str, value)) or "empty"
        case list() | tuple() | frozenset():
            kinds = {type(each).__name__ for each in value}
            return f"{len(value)} {' or '.join(sorted(kinds))}" if value else "empty"
        case int() | None:
            return str(value)
    return type(value).__name__


def walk(run: Callable[..., int]) -> dict[str, str]:
    """Run the job; return by step what it yields for the chunk, and the list of the run's files.

    run  runs a command line, returns its exit code
    """
    hops: dict[str, list[str]] = {}
    outline = _Outline()
    process = chunk_step._RunStep.process

    def recorded(self: Any, element: Any) -> Iterator[Any]:
        if isinstance(element, ChunkRun) and element.chunks:
            hops["PlanChunks"] = outline.of_hop(element)
        for result in process(self, element):
            if isinstance(element, Chunk) or isinstance(
                result, Chunk
            ):  # not the run's empty receipt
                hops.setdefault(self.name, outline.of_hop(result))
            yield result

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(chunk_step._RunStep, "process", recorded),
    ):
        assert run(*COMMAND.split(), f"--output={folder}/out") == 0
        files = sorted(Path(folder, "out").rglob("*"))
        hops["files"] = [str(file.relative_to(folder)) for file in files if file.is_file()]
    return {name: "\n".join(each) for name, each in hops.items()}


def filled(page: str, run: Callable[..., int]) -> str:
    """Return the page with its blocks as a run fills them."""
    hops = walk(run)
    return _BLOCK.sub(lambda block: f"{block[1]}{hops[block[2]]}\n{block[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(
        filled(PAGE.read_text("utf-8"), lambda *arguments: run_pipeline.main(arguments)), "utf-8"
    )
