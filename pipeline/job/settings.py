"""The settings of a job beyond those of its reader, by group; see `model.settings`."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from model.reading.decoding import Decoding
from model.reading.pairs import WindowLimits
from model.reading.reader import ModelSettings
from model.settings import (
    ANNOTATE,
    AUDIT,
    BOTH,
    COMPARE,
    days,
    flag,
    names,
    number,
    setting,
    text,
    whole,
)

ALL = (ANNOTATE, AUDIT, COMPARE)


@dataclass(frozen=True)
class Files:
    """Where a job reads and writes."""

    input: str = setting(
        None,
        text("PATTERNS"),
        "comma-separated files, globs, folders (every .parquet below) or URLs (gs://, s3://, ...); "
        "\\, is a comma in a name; bundled: the sample that comes with the package",
    )
    output: str = setting(None, text("DIR"), "folder or URL; made if need be", stages=ALL)
    date: tuple[datetime.date, ...] | None = setting(
        None,
        days(),
        "what {date} in --input and --output means; of a range, each day is a run of its own",
        unset="today in UTC",
    )
    overwrite: bool = setting(
        False,
        flag(),
        "remove an earlier run of another configuration from the output first",
        stages=ALL,
    )
    limit: int | None = setting(
        None, whole(1, 10**12), "only the first N rows, for a trial", identity=BOTH
    )


@dataclass(frozen=True)
class Columns:
    """Names of input and output columns."""

    question_column: str = setting(
        "question", text("NAME"), "column of the question", identity=BOTH
    )
    context_column: str = setting("context", text("NAME"), "column of the passage", identity=BOTH)
    id_column: str = setting(
        "id",
        text("NAME"),
        "column of the id; without such a column, ids are made of file, row group, row",
        identity=BOTH,
    )
    answers_column: str = setting(
        "answers",
        text("NAME"),
        "column of an audit's golds, struct<text: list<string>, answer_start: list<int32>>, starts in code points",
        identity=(AUDIT,),
    )
    keep_columns: tuple[str, ...] | None = setting(
        None,
        names(),
        "input columns that the output keeps, in this order",
        unset="all of them",
        identity=BOTH,
    )
    output_prefix: str = setting(
        "", text("TEXT"), "put before the names of output columns", identity=BOTH
    )


@dataclass(frozen=True)
class Audit:
    """What an audit reports."""

    audit: bool = setting(
        False,
        flag(),
        "with annotate: audit in the same pass over the network, into OUTPUT/audit",
        stages=(ANNOTATE,),
    )
    against: str = setting(
        "",
        text("DIR"),
        "another audit's output: report the pairs, contexts and questions that both hold",
        stages=(AUDIT,),
    )
    corrections: str = setting(
        "",
        text("FILE"),
        "a filled-in relabel.csv or a Label Studio export: corrected golds replace those of the same id",
        stages=(AUDIT,),
    )
    slice_by: tuple[str, ...] = setting(
        (),
        names(),
        "input columns by whose values figures are given too",
        stages=(AUDIT,),
        identity=(AUDIT,),
    )
    worst: int = setting(
        50,
        whole(0, 10**4),
        "examples of highest loss, or of largest difference, that are listed",
        stages=(AUDIT, COMPARE),
        identity=(AUDIT,),
    )
    suspects: int = setting(
        100,
        whole(0, 10**4),
        "suspected label errors in audit.json and in the files for relabelling",
        stages=(AUDIT,),
        identity=(AUDIT,),
    )


@dataclass(frozen=True)
class Comparison:
    """Which audits are compared, and when the second fails."""

    before: str = setting(None, text("DIR"), "output of an audit", stages=(COMPARE,))
    after: str = setting(
        None,
        text("DIR"),
        "output of another audit of the same examples, joined by id",
        stages=(COMPARE,),
    )
    max_f1_drop: float | None = setting(
        None,
        number(0, 100),
        "exit 1 when the mean F1 over pairs falls by more than X points",
        stages=(COMPARE,),
    )
    max_em_drop: float | None = setting(
        None,
        number(0, 100),
        "exit 1 when the mean exact match over pairs falls by more than X points",
        stages=(COMPARE,),
    )
    max_loss_rise: float | None = setting(
        None,
        number(0, 1e6),
        "exit 1 when the mean loss over pairs rises by more than X nats",
        stages=(COMPARE,),
    )


@dataclass(frozen=True)
class Work:
    """Units of work, and what runs them."""

    chunk_rows: int = setting(2048, whole(1, 10**7), "rows per part", identity=BOTH)
    chunk_bytes: int = setting(
        32 * 2**20,
        whole(1, 2**40),
        "input bytes per part, by the row group's average",
        identity=BOTH,
    )
    accelerator: str = setting(
        "",
        text("TYPE"),
        "resource hint for the steps that work on chunks, where the runner follows it (Dataflow Prime): "
        "type:nvidia-l4;count:1;install-nvidia-driver",
    )
    max_failed_fraction: float = setting(
        0.5,
        number(0, 1),
        "exit 1 when more than this share of the rows was rejected or failed",
        stages=ALL,
    )


GROUPS = {
    "input and output": Files,
    "columns": Columns,
    "model": ModelSettings,
    "windows": WindowLimits,
    "answers": Decoding,
    "audit": Audit,
    "compare": Comparison,
    "units of work": Work,
}
"""All settings, by the title of their group in the help and in the manual."""
