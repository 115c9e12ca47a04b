"""Flatten a run with a question list: one row per document and question, as Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.formats.finished import FinishedRun
from pipeline.formats.write_formats import annotated
from pipeline.job.options import Refused
from transforms.parquet_files import open_parquet
from transforms.storage import building

BATCH_BYTES = 2**26
"""Bytes of input columns that are repeated for the questions at a time."""


def flatten(run: str, output: str, drop: Sequence[str] = ()) -> str:
    """Write one Parquet file with a row per document and question; return a summary in words.

    The columns are those of the input, then `question_id`, `question` and annotate's columns, with
    the run's prefix. Memory is bounded by a part and MOST_BYTES.

    drop  columns of the input to leave out

    Raises Refused for a run that is not a finished one of annotate with a question list, for a
    column to drop that it lacks, and for two columns of one name.
    """
    finished = annotated(run, "")
    listed = finished.question_answers
    if not listed:
        raise Refused(f"{run} was not run with --questions: its parts have one row per question")
    kept = [name for name in finished.columns if name != listed and name not in drop]
    missing = sorted(set(drop) - set(finished.columns))
    if missing:
        raise Refused(
            f"--drop_columns={missing[0]}: {run} has the columns {', '.join(finished.columns)}"
        )
    schema = _schema(finished, kept, listed)
    count = 0
    with building(output) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in finished.parts:
            with open_parquet(finished.files.part(part)) as file:
                table = file.read(columns=[*kept, listed])
            for rows in flat_tables(table.select(kept), table.column(listed), schema):
                writer.write_table(rows)
                count += rows.num_rows
    return f"{count} rows: {output}"


def _schema(finished: FinishedRun, kept: Sequence[str], listed: str) -> pa.Schema:
    """Return the schema of the file. Raises Refused for two columns of one name."""
    answers = finished.schema.field(listed).type.value_type
    made = [field.with_name(finished.output(field.name)) for field in answers]
    clash = [field.name for field in made if field.name in kept]
    if clash:
        raise Refused(
            f"the column {clash[0]!r} of the answers is also a column of the input: "
            f"--drop_columns={','.join(clash)} leaves that out"
        )
    return pa.schema([*(finished.schema.field(name) for name in kept), *made])


def flat_tables(
    inputs: pa.Table, answers: pa.ChunkedArray, schema: pa.Schema, most_bytes: int = BATCH_BYTES
) -> Iterator[pa.Table]:
    """Yield the rows of a part, each repeated for its answers.

    inputs      [rows], the input columns
    answers     [rows], lists of structs
    schema      of the result: the columns of `inputs`, then the fields of the structs
    most_bytes  about the most that the repeated columns of one table take
    """
    counts = pc.list_value_length(answers).to_numpy()
    row = np.repeat(np.arange(len(counts)), counts)
    structs = pc.list_flatten(answers).combine_chunks()
    columns = [structs.field(index) for index in range(structs.type.num_fields)]
    # Rows differ in size, so that each is measured.
    sizes = np.array([inputs.slice(number, 1).nbytes for number in range(len(counts))], np.int64)
    filled = np.cumsum(sizes[row])
    begin = 0
    while begin < len(row):
        before = filled[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(filled, before + most_bytes, "right")))
        repeated = inputs.take(pa.array(row[begin:end]))
        some = [column.slice(begin, end - begin) for column in columns]
        yield pa.table([*repeated.columns, *some], schema=schema)
        begin = end
