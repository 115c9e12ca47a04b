"""The records that travel between steps: a chunk, whose payload is what the last step made of its rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import Any, Generic, Self, TypeVar
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from model.audit.golds import Golds
from model.audit.statistics import Statistics
from model.audit.window_losses import Measured
from model.reading.prediction import Prediction
from model.reading.spans import PassageSpans, WindowSpans
from model.reading.windows import Windows

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""What Hive, Spark and pyarrow write into a path for a null."""


RECEIPT_KEY = b"spanmill.receipt"
"""The key of the receipt in a part's Parquet metadata."""

CorrectedGold = tuple[str | None, int | None, int | None]
"""Text, start and end (code points) of a corrected gold. Without a text: what stands there; without a start: where the text
stands, if it stands in one place only."""

Correction = tuple[CorrectedGold, ...]
"""What the golds of a row should be; none: the question has no answer."""


@dataclass(frozen=True, slots=True)
class InputColumns:
    """Names of the columns that are read; `answers` is "" where no golds are measured."""

    question: str = "question"
    context: str = "context"
    answers: str = ""


@dataclass(frozen=True, slots=True)
class OutputColumns:
    """Which input columns are kept, in which order, what stands before the names of output columns, the id column.

    An input without the id column gets one: file base name, row group, row.
    """

    keep: tuple[str, ...]
    prefix: str = ""
    id: str = "id"


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file as it was when the run was started.

    index    place in the sorted list of inputs, part of the names of its parts
    path     absolute path or URL
    version  what changes when its content does: modification time or etag
    label    base name, with as many of its folders as tell it from the other inputs: part of the ids that are made
    rows     only the first so many rows are read (`--limit`); None for all
    """

    index: int
    path: str
    size: int
    version: str
    label: str
    rows: int | None = None

    @property
    def state(self) -> tuple[int, str]:
        """What must not change while the run lasts."""
        return self.size, self.version


@dataclass(frozen=True, slots=True)
class InputRange:
    """Some consecutive input files, as bytes of the run.json that lists them: JSON objects with commas between.

    first       index of the first of them
    begin, end  bytes of run.json
    """

    path: str
    first: int
    begin: int
    end: int


def path_columns(path: str) -> dict[str, str | None]:
    """The columns that the folders of a path hold, as Hive and Spark write them: `lang=en/part-0.parquet`.

    Names and values are URL-decoded; a value is text, or None.
    """
    pairs = [folder.split("=", 1) for folder in path.split("/")[:-1] if "=" in folder[1:]]
    return {unquote(name): None if value == _HIVE_NULL else unquote(value) for name, value in pairs}


def part_name(file: InputFile, row_group: int, row_start: int, rows: int) -> str:
    """The output name of a chunk: sorts in input order, tells where its rows come from and how many there are."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", PurePosixPath(file.path).stem)[:80]
    return f"{file.index:06d}-{stem}-g{row_group:05d}-r{row_start:09d}-n{rows}.parquet"


def rows_of_part(name: str) -> int:
    """The row count in the name of a part."""
    return int(name.removesuffix(".parquet").rsplit("-n", 1)[1])


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """Consecutive rows of one row group: the unit of work, of retry, of output.

    row_start  first row within the row group; first_row: the same within the file
    label      of its file
    part       file name of its output
    """

    path: str
    label: str
    row_group: int
    row_start: int
    first_row: int
    rows: int
    part: str


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """Consecutive chunks of one row group, read in one pass, of a file in this state (size and version).

    A run without chunks stands for a file that planning refused (`refused` says why), or, with neither, for planning
    itself: it becomes an empty receipt, so that a manifest is written for zero rows too.
    """

    path: str
    row_group: int
    chunks: tuple[ChunkSpec, ...]
    state: tuple[int, str] | None = None
    refused: str = ""


Payload = TypeVar("Payload")
Next = TypeVar("Next")


@dataclass(frozen=True, slots=True)
class Chunk(Generic[Payload]):
    """The rows of one chunk, and what the last step made of them.

    payload    None once the rows are read; then Windowed, Predicted, Answered
    seconds    time that each step has spent on the chunk so far
    stages     stages that still lack their part of the chunk, in the order of writing: neither committed nor failed so
               far. Empty for rows that belong to no file: then every stage that the steps compute
    corrected  ids of the rows whose golds were corrected
    unplaced   row -> (reason, message) of those whose corrected gold has no place in the context
    """

    spec: ChunkSpec
    table: pa.Table
    payload: Payload
    seconds: Mapping[str, float] = field(default_factory=dict)
    corrected: tuple[str, ...] = ()
    unplaced: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    stages: tuple[str, ...] = ()

    def wants(self, stage: str) -> bool:
        """Return whether the stage still has to be computed."""
        return not self.stages or stage in self.stages

    def carrying(self, payload: Next) -> Chunk[Next]:
        """Return the chunk with another payload."""
        return Chunk(
            self.spec, self.table, payload, self.seconds, self.corrected, self.unplaced, self.stages
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row (its place in the chunk) that could not be answered, and why."""

    row: int
    stage: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Windowed:
    """The context windows of a chunk's distinct question/context pairs.

    row_pair       int64 [rows], which pair each row asks; -1 for a row rejected for its texts
    questions      the distinct questions, in the order of those of `windows`
    contexts       the distinct contexts, in the order of the passages of `windows`
    questions_cut  int64 [pairs], question tokens beyond `max_question`
    characters          code points of the contexts of all rows that can be asked
    unknown_characters  those of them that are in unknown tokens
    golds          the rows' gold answers, where they are measured
    """

    row_pair: np.ndarray
    questions: list[str]
    contexts: list[str]
    questions_cut: np.ndarray
    characters: int
    unknown_characters: int
    windows: Windows
    rejections: tuple[Rejection, ...]
    golds: Golds | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """The windows of a chunk, and what the network says of them.

    prediction  which pairs could not be computed, and token counts
    spans       the decoded spans of each window
    measured    the losses of the golds, where the chunk is audited
    """

    windowed: Windowed
    prediction: Prediction
    spans: WindowSpans
    measured: Measured | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one stage makes of a chunk.

    stage       "annotate" or "audit"
    columns     its output columns without prefix, one row per input row; `status` and `reason` are among them
    rejections  rows that it could not do
    counts      windows, tokens, rows by status
    statistics  what the audit's figures are merged from
    corrected   distinct ids of the rows whose golds were corrected
    """

    stage: str
    columns: pa.Table
    rejections: tuple[Rejection, ...]
    counts: Mapping[str, int]
    statistics: Statistics | None = None
    corrected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """What is predicted of a chunk, its windows merged to passages, and what the stages have made of it so far.

    no_answer  bool [pairs], whether the null option wins
    """

    predicted: Predicted
    spans: PassageSpans
    no_answer: np.ndarray
    rejections: tuple[Rejection, ...]
    counts: Mapping[str, int]
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one finished chunk reports. It stands in its part's Parquet metadata, and merges into the manifest.

    stage         which stage it is of
    worker        the process that made it, as host:process id
    rows          rows of the chunk
    counts        windows, tokens, rows by status
    reasons       rows by reason: of their rejection, or of what else is to be said of them
    seconds       time per step (the write itself is not in the part's copy)
    digest        SHA-256 over the exact columns of the part
    statistics    what the audit's figures are merged from
    corrected     distinct ids of the rows whose golds were corrected
    failed_step   "" unless the stage failed on the chunk; then `error` says why
    run           fingerprint of the identity of the run that made the part
    retries       of the process since its last receipt (not in the part's copy)
    """

    stage: str = ""
    path: str = ""
    row_group: int = -1
    row_start: int = 0
    rows: int = 0
    part: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    digest: str = ""
    worker: str = ""
    statistics: Statistics | None = None
    corrected: tuple[str, ...] = ()
    failed_step: str = ""
    error: str = ""
    run: str = ""
    retries: int = 0

    def to_json(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"statistics": self.statistics and self.statistics.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        statistics = known.get("statistics") and Statistics.from_json(known["statistics"])
        return cls(
            **known | {"corrected": tuple(known.get("corrected", ())), "statistics": statistics}
        )


def failed_receipts(
    spec: ChunkSpec,
    stages: tuple[str, ...],
    step: str,
    error: BaseException,
    seconds: Mapping[str, float],
    retries: int = 0,
) -> list[Receipt]:
    """The receipts of a chunk on which a step failed: one for each of these stages, or one of no stage if there are none."""
    receipt = Receipt(
        path=spec.path,
        row_group=spec.row_group,
        row_start=spec.row_start,
        rows=spec.rows,
        part=spec.part,
        seconds=seconds,
        failed_step=step,
        error=f"{type(error).__name__}: {error}",
        retries=retries,
    )
    return [replace(receipt, stage=stage) for stage in stages or ("",)]


def row_ids(chunk: Chunk[Any], column: str) -> pa.ChunkedArray:
    """The ids of a chunk's rows, or what stands in for them: `label of the file:row group:row`."""
    table, spec = chunk.table, chunk.spec
    if column in table.column_names:
        return table.column(column)
    rows = range(spec.row_start, spec.row_start + spec.rows)
    return pa.chunked_array(
        [pa.array([f"{spec.label}:{spec.row_group}:{row}" for row in rows], pa.string())]
    )


def reasons_of(rejections: tuple[Rejection, ...], rows: int) -> list[str | None]:
    """The reason of every row, None for one that is not rejected."""
    reasons: list[str | None] = [None] * rows
    for rejection in rejections:
        reasons[rejection.row] = rejection.reason
    return reasons
