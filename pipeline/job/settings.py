"""The settings of a job apart from those of its reader, by group; see `model.settings`."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from model.reading.decoding import Decoding
from model.reading.places import Places
from model.reading.reader import ModelSettings
from model.reading.windows import WindowLimits
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
        "comma-separated files, globs, folders (with every .parquet below) or URLs (gs://, s3://, "
        "hf://, ...); Parquet, or what convert import reads, such as .jsonl and .csv; or "
        "iceberg://CATALOG/NAMESPACE.TABLE[@SNAPSHOT]; \\, is a comma in a name; bundled means the "
        "sample in the package",
    )
    output: str = setting(
        None, text("DIR"), "folder or URL to write to; created if it does not exist", stages=ALL
    )
    questions: str = setting(
        "",
        text("FILE"),
        "Parquet, CSV or JSON lines of questions to ask of every document of --input, which then "
        "needs no question column; bundled means the one in the package",
        stages=(ANNOTATE,),
    )
    date: tuple[datetime.date, ...] | None = setting(
        None,
        days(),
        "value of {date} in --input and --output; each day of a range is a separate run",
        unset="today in UTC",
    )
    overwrite: bool = setting(
        False,
        flag(),
        "first remove a run of another configuration from the output",
        stages=ALL,
    )
    limit: int | None = setting(
        None, whole(1, 10**12), "read only the first N rows, for a trial", identity=BOTH
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
        "column of the id; if there is none, ids are made of file, row group and row",
        identity=BOTH,
    )
    answers_column: str = setting(
        "answers",
        text("NAME"),
        "column of the golds for an audit, struct<text: list<string>, answer_start: list<int32>>, "
        "starts in code points",
        identity=(AUDIT,),
    )
    page_column: str = setting(
        "",
        text("NAME"),
        "with --locate page: column of the starts of the context's pages, in place of form feeds: "
        "list<int32>, ascending, in code points",
        stages=(ANNOTATE,),
        identity=(ANNOTATE,),
        optional=True,
    )
    section_column: str = setting(
        "",
        text("NAME"),
        "with --locate section: column of the context's sections, in place of Markdown headings: "
        "list<struct<start: int32, title: string>>, starts as in --page_column",
        stages=(ANNOTATE,),
        identity=(ANNOTATE,),
        optional=True,
    )
    keep_columns: tuple[str, ...] | None = setting(
        None,
        names(),
        "input columns to keep in the output, in this order",
        unset="all of them",
        identity=BOTH,
    )
    output_prefix: str = setting(
        "", text("TEXT"), "prefix of the names of output columns", identity=BOTH
    )


@dataclass(frozen=True)
class AuditSettings:
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
        "output of another audit: report the pairs, contexts and questions that both have",
        stages=(AUDIT,),
    )
    corrections: str = setting(
        "",
        text("FILE"),
        "filled-in relabel.csv or Label Studio export, whose corrected golds replace those of the "
        "same id",
        stages=(AUDIT,),
    )
    slice_by: tuple[str, ...] = setting(
        (),
        names(),
        "input columns for whose values figures are also reported",
        stages=(AUDIT,),
        identity=(AUDIT,),
    )
    worst: int = setting(
        50,
        whole(0, 10**4),
        "number of examples to list: those of highest loss, or of largest difference",
        stages=(AUDIT, COMPARE),
        identity=(AUDIT,),
    )
    suspects: int = setting(
        100,
        whole(0, 10**4),
        "number of suspected label errors to list in audit.json and in the files for relabelling",
        stages=(AUDIT,),
        identity=(AUDIT,),
    )


@dataclass(frozen=True)
class ComparisonSettings:
    """Which audits are compared, and when the second fails."""

    before: str = setting(None, text("DIR"), "output of the first audit", stages=(COMPARE,))
    after: str = setting(
        None,
        text("DIR"),
        "output of the second audit, of the same examples; both are joined by id",
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
class WorkSettings:
    """Units of work, and what runs them."""

    chunk_rows: int = setting(
        2048,
        whole(1, 10**7),
        "rows per part",
        unset="2048; with --questions, 2048 divided by their number",
        identity=BOTH,
    )
    chunk_bytes: int = setting(
        32 * 2**20,
        whole(1, 2**40),
        "input bytes per part, by the average of the row group",
        identity=BOTH,
    )
    accelerator: str = setting(
        "",
        text("TYPE"),
        "resource hint for the steps that work on chunks, for runners that follow it (Dataflow "
        "Prime), such as type:nvidia-l4;count:1;install-nvidia-driver",
    )
    max_failed_fraction: float = setting(
        0.5,
        number(0, 1),
        "exit 1 when more than this fraction of the rows is rejected or fails; for compare, has no "
        "partner in the other audit",
        stages=ALL,
    )
    price_per_hour: float | None = setting(
        None,
        number(0, 1e6),
        "price of one worker process for an hour: the manifest then gives the cost of the run, and "
        "that of 1,000 rows",
    )


GROUPS = {
    "input and output": Files,
    "columns": Columns,
    "model": ModelSettings,
    "windows": WindowLimits,
    "answers": Decoding,
    "places": Places,
    "audit": AuditSettings,
    "compare": ComparisonSettings,
    "units of work": WorkSettings,
}
"""All settings by the title of their group in the help and in the manual."""
