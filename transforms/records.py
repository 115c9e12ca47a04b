"""Records: the values that steps pass to each other.

A chunk carries the result of the last step as its payload. Its results end as parts and receipts.
"""

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
from model.reading.decoding import PairSettings
from model.reading.posterior import PassageSpans
from model.reading.prediction import Prediction
from model.reading.windows import TokenizedPairs

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""What Hive, Spark and pyarrow write into a path for a null."""

RECEIPT_KEY = b"spanmill.receipt"
"""The key of the receipt in a part's Parquet metadata."""

CorrectedGold = tuple[str | None, int | None, int | None]
"""Text, start and end (in code points) of a corrected gold.

Without a start, the gold is the only occurrence of the text. With an end, the gold is whatever is
between start and end; `text` is then the text that was judged there, None if it is unknown.
"""

Correction = tuple[CorrectedGold, ...]
"""The corrected golds of a row; none if the question has no answer."""


@dataclass(frozen=True, slots=True)
class InputColumns:
    """Names of the columns to read.

    `question` is "" if a question list is asked, `answers` is "" if no golds are measured. `pages`
    and `sections` (`model.reading.places.GivenPlaces`) are "" for form feeds and headings.
    """

    question: str = "question"
    context: str = "context"
    answers: str = ""
    pages: str = ""
    sections: str = ""


@dataclass(frozen=True, slots=True)
class OutputColumns:
    """The columns of parts.

    keep    the input columns to keep, in order
    prefix  goes before the names of the output columns
    id      the id column; an input without it gets one (`row_ids`)
    """

    keep: tuple[str, ...]
    prefix: str = ""
    id: str = "id"


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file as it was when the run was started.

    index    index in the sorted list of inputs; the names of parts begin with it
    path     absolute path or URL
    size     in bytes
    version  changes with the content: modification time or etag
    label    the shortest end of the path that differs from the other inputs; part of made-up ids
    rows     number of rows to read (`--limit`); None: all
    copy     path of the Parquet copy that is read in place of a file of another format, else ""
    table    the Iceberg table and snapshot that the file was found in, else ""
    """

    index: int
    path: str
    size: int
    version: str
    label: str
    rows: int | None = None
    copy: str = ""
    table: str = ""

    @property
    def parquet(self) -> str:
        """Return the path of the Parquet file to open."""
        return self.copy or self.path

    @property
    def path_columns(self) -> dict[str, str | None]:
        """Return the columns that folders of the path hold. A table's paths have no meaning."""
        return {} if self.table else path_columns(self.path)

    @property
    def state(self) -> tuple[int, str]:
        """Return the size and version, which must not change during the run."""
        return self.size, self.version


@dataclass(frozen=True, slots=True)
class InputRange:
    """Consecutive input files: the part of run.json that lists them, JSON objects with commas.

    path        of run.json
    first       index of the first file
    begin, end  range of bytes, `end` exclusive
    """

    path: str
    first: int
    begin: int
    end: int


def path_columns(path: str) -> dict[str, str | None]:
    """Return the partition columns of a path, as Hive and Spark write them: `lang=en/a.parquet`.

    Names and values are URL-decoded. A value is text, or None for a null.
    """
    # A folder named "=x" has no column name and is not a partition.
    pairs = [folder.split("=", 1) for folder in path.split("/")[:-1] if "=" in folder[1:]]
    return {unquote(name): None if value == _HIVE_NULL else unquote(value) for name, value in pairs}


def part_name(file: InputFile, row_group: int, row_start: int, rows: int) -> str:
    """Return the file name of a chunk's part.

    Names sort in the order of the input, and say which rows the part holds.
    """
    # Keep what every file system and store accepts, and leave room for the rest of the name.
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", PurePosixPath(file.path).stem)[:80]
    return f"{file.index:06d}-{stem}-g{row_group:05d}-r{row_start:09d}-n{rows}.parquet"


def rows_of_part(name: str) -> int:
    """Return the number of rows of a part, from its name."""
    return int(name.removesuffix(".parquet").rsplit("-n", 1)[1])


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """Consecutive rows of one row group: the unit of work, of retry, of output.

    path       of the file
    label      of the file
    row_start  first row, counted within the row group
    first_row  the same row, counted within the file
    part       file name of the part
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
    """A chunk run: consecutive chunks of one row group, which are read in one pass.

    state    size and version that the Parquet file should have
    refused  why planning refused the file, which has no chunks then; else ""
    copy, path_columns  as in `InputFile`

    A chunk run without chunks that is not refused becomes an empty receipt, so that a run over zero
    rows writes a manifest too.
    """

    path: str
    row_group: int
    chunks: tuple[ChunkSpec, ...]
    state: tuple[int, str] | None = None
    refused: str = ""
    copy: str = ""
    path_columns: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def parquet(self) -> str:
        """Return the path of the Parquet file to open."""
        return self.copy or self.path


Payload = TypeVar("Payload")
Next = TypeVar("Next")


@dataclass(frozen=True, slots=True)
class Chunk(Generic[Payload]):
    """The rows of one chunk, and the result of the last step.

    payload    None after ReadChunk; then Windowed, Predicted, Answered
    seconds    time that each step has spent on the chunk so far
    corrected  ids of the rows whose golds were corrected
    unplaced   row -> (reason, message), for corrected golds that can't be located in the context
    stages     stages whose part is neither committed nor has failed, in the order of writing;
               empty for rows that belong to no file, which the steps compute for every stage
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
    """A row that could not be answered, and why.

    row   index in the chunk; of the ask, if a question list is asked
    step  the step at fault, not the one that found the fault: "MakeWindows" for the row's texts and
          golds, "PredictSpans" for its logits and losses; the column `stage` of files of rejections
    """

    row: int
    step: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Windowed:
    """The context windows of a chunk's distinct question/context pairs.

    Where a question list is asked of every document, everything per row is per ask: asks are
    numbered row by row, in the order of the list.

    row_pair            int64 [rows], the pair of each row; -1 for a row with an unusable text, and
                        for some with too many windows (`rejections` has all)
    questions           the distinct questions, in the order of those of `windows`
    contexts            the distinct contexts, in the order of the passages of `windows`
    questions_cut       int64 [pairs], question tokens beyond `max_question`
    characters          code points of the contexts of all rows that have a pair
    unknown_characters  those of them in unknown tokens
    windows             of all pairs; those of a question list are not cut yet, as they may be many
    settings            of the pairs, if a question of the list has settings of its own
    golds               the rows' gold answers, None if they are not measured
    """

    row_pair: np.ndarray
    questions: list[str]
    contexts: list[str]
    questions_cut: np.ndarray
    characters: int
    unknown_characters: int
    windows: TokenizedPairs
    rejections: tuple[Rejection, ...]
    settings: PairSettings | None = None
    golds: Golds | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """The windows of a chunk, and the network's prediction for them.

    prediction  which pairs could not be computed, and token counts
    spans       the best spans of each passage, merged from its windows
    measured    the losses of the golds, where the chunk is audited
    """

    windowed: Windowed
    prediction: Prediction
    spans: PassageSpans
    measured: Measured | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one stage for a chunk.

    stage       "annotate" or "audit"
    columns     output columns without prefix, including `status` and `reason`; one row per input
                row, or per ask
    rejections  rows without a result
    counts      windows, tokens, rows by status
    statistics  mergeable statistics of the audit
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
    """The prediction of a chunk, what was decided, and the outcomes so far.

    no_answer  bool [pairs], whether the null option wins
    counts     windows, tokens, rows by status
    outcomes   of the stages that are done
    """

    predicted: Predicted
    no_answer: np.ndarray
    rejections: tuple[Rejection, ...]
    counts: Mapping[str, int]
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """The report of one finished chunk.

    The Parquet metadata of the part contains it, and the manifest is merged from all of them. What
    failed without a chunk, in planning or after all chunks, has a receipt without a part.

    stage        the stage that it reports on; "" for planning
    rows         rows of the chunk
    counts       windows, tokens, rows (or asks) by status
    reasons      rows (or asks) by the value of their column `reason`
    seconds      time by step (the part's copy lacks the time of the write)
    digest       SHA-256 (hex) of the exact columns of the part
    worker       the process that wrote the part, as host:process id
    statistics   mergeable statistics of the audit
    corrected    distinct ids of the rows whose golds were corrected
    failed_step  the step that failed on the chunk, "" if none did
    error        of the failed step
    run          fingerprint of the run that wrote the part
    retries      of the process since its last receipt (not in the part's copy)
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
        """Return the receipt as a JSON object."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"statistics": self.statistics and self.statistics.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the receipt of a JSON object. Ignores unknown keys."""
        # A newer version may have written fields that this one lacks, and an older one fewer.
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
) -> list[Receipt]:
    """Return the receipts of a chunk on which a step failed.

    There is one for each stage, or one without a stage if `stages` is empty.
    """
    receipt = Receipt(
        path=spec.path,
        row_group=spec.row_group,
        row_start=spec.row_start,
        rows=spec.rows,
        part=spec.part,
        seconds=seconds,
        failed_step=step,
        error=f"{type(error).__name__}: {error}",
    )
    return [replace(receipt, stage=stage) for stage in stages or ("",)]


def row_ids(chunk: Chunk[Any], column: str) -> pa.ChunkedArray:
    """Return the ids of a chunk's rows.

    An input without the id column gets ids of the form `label of the file:row group:row`.
    """
    table, spec = chunk.table, chunk.spec
    if column in table.column_names:
        return table.column(column)
    # Independent of chunk boundaries: the ids stay if --chunk_rows changes.
    rows = range(spec.row_start, spec.row_start + spec.rows)
    return pa.chunked_array(
        [pa.array([f"{spec.label}:{spec.row_group}:{row}" for row in rows], pa.string())]
    )


def reasons_of(rejections: tuple[Rejection, ...], rows: int) -> list[str | None]:
    """Return the reason of every row, None for rows that are not rejected."""
    reasons: list[str | None] = [None] * rows
    for rejection in rejections:
        reasons[rejection.row] = rejection.reason
    return reasons
