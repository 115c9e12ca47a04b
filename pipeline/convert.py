"""Other formats to the input contract, and finished runs to other formats, for example

    python -m pipeline.convert import --input dev-v2.0.json --output gold.parquet
    python -m pipeline.convert export --run out/ --output predictions/ --format predictions

Both read and write row by row: memory does not grow with the file. Import reads it twice.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import IO, Any

logging.getLogger().addHandler(logging.NullHandler())  # Beam warns of optional packages while it is imported

import pyarrow as pa
import pyarrow.parquet as pq

from model.reading.columns import is_utf8
from pipeline.formats.place_golds import OFFSETS, place_golds
from pipeline.formats.read_formats import READERS, FormatError, ImportedRow, Names
from pipeline.formats.write_formats import WRITERS
from pipeline.job.options import Refused
from transforms.storage import StorageError, absolute, building, open_file

ANSWERS_TYPE = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])

_CONTRACT = ("id", "question", "context", "answers")
_ROWS_AT_ONCE, _CHARACTERS_AT_ONCE = 1024, 2**24
_ENDINGS = {".json": "squad", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}


def batches(examples: Iterator[ImportedRow]) -> Iterator[list[ImportedRow]]:
    """Consecutive rows, bounded in number and in characters."""
    batch: list[ImportedRow] = []
    characters = 0
    for example in examples:
        batch.append(example)
        characters += len(example.context) if isinstance(example.context, str) else 0
        if len(batch) == _ROWS_AT_ONCE or characters > _CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def convert_rows(
    read: Callable[[], Iterator[ImportedRow]], output: str, unit: str, report: IO[str], counts: Counter[str]
) -> None:
    """Writes rows as Parquet, a bounded number at a time; they are read twice, as their types are known at their end.

    Rows that Parquet can't hold are left out, with a line of the report each. Raises FormatError for no row, for a column whose
    values are of several types, and for rows that are not the same the second time.
    """
    schema, expected = _schema(batches(example for example in read() if not row_problem(example)))
    with building(output) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches(read()):
            rows = []
            for example in batch:
                if problem := row_problem(example):
                    counts["rows_left_out"] += 1
                    report.write(json.dumps({"id": example.id, "reason": problem}) + "\n")
                    continue
                answers = place_golds(example, unit, report, counts)
                texts = {"id": example.id, "question": example.question, "context": example.context}
                rows.append({**texts, "answers": answers, **example.others})
            writer.write_table(_table(rows, schema, counts["rows"]), row_group_size=_ROWS_AT_ONCE)
            counts["rows"] += len(rows)
        if counts["rows"] != expected:
            raise FormatError(
                f"it had {expected} rows, then {counts['rows']}: it was changed, or is a pipe, which can't be read twice"
            )


def row_problem(example: ImportedRow) -> str:
    """Why Parquet can't hold a row: it has text that is no UTF-8, or a start that is no int32; "" if it can."""
    texts = {"id": example.id, "question": example.question, "context": example.context, **example.others}
    golds = example.golds or []
    for name, value in {**texts, "answers": [text for text, _ in golds]}.items():
        if not is_utf8(value):
            return f"{name}_not_utf8"
    return "gold_out_of_range" if any(start is not None and abs(start) >= 2**31 for _, start in golds) else ""


def _schema(several: Iterator[list[ImportedRow]]) -> tuple[pa.Schema, int]:
    """The contract's columns, and the others with a type that holds the values of all rows; and how many rows there are."""
    others = pa.schema([])
    ids, rows = False, 0
    for batch in several:
        ids = ids or any(example.id is not None for example in batch)
        for name in dict.fromkeys(name for example in batch for name in example.others):
            if name in _CONTRACT:
                raise FormatError(
                    f"column {name!r} stands beside the one that was named for it; --drop_columns={name} leaves it out"
                )
            try:
                kind = pa.array([example.others.get(name) for example in batch]).type
                others = pa.unify_schemas([others, pa.schema([(name, kind)])], promote_options="permissive")
            except (pa.ArrowException, ValueError, OverflowError) as error:
                where = f"rows {rows} to {rows + len(batch) - 1}, column {name!r}"
                raise FormatError(f"{where}: {error}; --drop_columns={name} leaves it out") from error
        rows += len(batch)
    if not rows:
        raise FormatError("there is no row in it that Parquet can hold")
    fields = [("id", pa.string())] if ids else []
    fields += [("question", pa.string()), ("context", pa.string()), ("answers", ANSWERS_TYPE)]
    fields += [(field.name, pa.string() if pa.types.is_null(field.type) else field.type) for field in others]
    return pa.schema(fields), rows


def _table(rows: list[dict[str, Any]], schema: pa.Schema, before: int) -> pa.Table:
    columns = []
    for column in schema:
        try:
            columns.append(pa.array([row.get(column.name) for row in rows], column.type))
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            hint = "" if column.name in _CONTRACT else f"; --drop_columns={column.name} leaves it out"
            raise FormatError(f"rows {before} to {before + len(rows) - 1}, column {column.name!r}: {error}{hint}") from error
    return pa.table(columns, schema=schema)


def import_file(options: argparse.Namespace) -> int:
    """Converts one file to Parquet and says what its golds are like. Returns the exit code."""
    chosen = options.format or _format_of(options.input)
    names = Names(
        options.id_column, options.question_column, options.context_column, options.answers_column, options.start_column
    )
    drop = {name.strip() for name in (options.drop_columns or "").split(",")}
    counts: Counter[str] = Counter()
    output = absolute(options.output)
    listed = f"{options.output}.golds.jsonl"

    def read() -> Iterator[ImportedRow]:
        with open_file(absolute(options.input)) as file:
            for example in READERS[chosen](file, names):
                yield _without(example, drop)

    try:
        with building(absolute(listed)) as path, open(path, "w", encoding="utf-8") as report:
            convert_rows(read, output, options.offsets, report, counts)
    except FormatError as error:
        raise Refused(f"--input={options.input} as --format={chosen}: {error}") from error
    print(f"{counts['rows']} rows: {options.output}")
    print(f"golds: {', '.join(f'{counts[name]} {name[5:]}' for name in sorted(counts) if name.startswith('gold_')) or 'none'}")
    for unit in OFFSETS:
        if counts[f"fits_{unit}"]:
            print(f"{counts[f'fits_{unit}']} of them are right if starts count {unit}: see --offsets={unit}")
    if counts["rows_without_placed_golds"]:
        print(f"{counts['rows_without_placed_golds']} rows have golds of which none has a place: their answers are null")
    if counts["rows_left_out"]:
        print(f"{counts['rows_left_out']} rows left out, which Parquet can't hold: {listed}")
    wrong = sum(count for name, count in counts.items() if name.startswith("gold_")) - counts["gold_aligned"]
    print(f"{wrong - counts['gold_located']} golds that are not where they should be: {listed}")
    return 0


def _without(example: ImportedRow, drop: set[str]) -> ImportedRow:
    others = {name: value for name, value in example.others.items() if name not in drop}
    return ImportedRow(example.id, example.question, example.context, example.golds, others)


def _format_of(path: str) -> str:
    suffixes = PurePosixPath(path).suffixes[-2:]
    for suffix in reversed(suffixes):
        if suffix in _ENDINGS:
            return _ENDINGS[suffix]
    raise Refused(f"--input={path}: the ending says no format, give --format={'|'.join(READERS)}")


def export_run(options: argparse.Namespace) -> int:
    """Writes a finished run in another format. Returns the exit code."""
    print(WRITERS[options.format](absolute(options.run), absolute(options.output), options.answers))
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    stages = parser.add_subparsers(required=True, metavar="import|export")
    add = stages.add_parser("import", help="a file to Parquet in the input contract", allow_abbrev=False)
    add.set_defaults(run_stage=import_file)
    add.add_argument("--input", required=True, metavar="FILE", help="a file or URL, compressed or not")
    add.add_argument("--output", required=True, metavar="FILE", help="the Parquet file; beside it comes FILE.golds.jsonl")
    add.add_argument("--format", choices=list(READERS), help="(by the ending: .json is squad, .jsonl, .csv, .tsv)")
    add.add_argument("--offsets", choices=OFFSETS, default="code_points", help="what starts count (code_points)")
    for name in ("question", "context", "id", "answers"):
        add.add_argument(f"--{name}_column", default=name, metavar="NAME", help=f"of jsonl, csv and tsv ({name})")
    add.add_argument(
        "--start_column", default="answer_start", metavar="NAME", help="of answers that are plain text (answer_start)"
    )
    add.add_argument("--drop_columns", metavar="A,B", help="columns to leave out; all others go along")
    out = stages.add_parser("export", help="a finished run of annotate to another format", allow_abbrev=False)
    out.set_defaults(run_stage=export_run)
    out.add_argument("--run", required=True, metavar="DIR", help="output of annotate, a folder or URL")
    out.add_argument("--output", required=True, metavar="PATH", help="file to write; of predictions, a folder")
    out.add_argument("--format", required=True, choices=list(WRITERS))
    out.add_argument(
        "--answers", default="predicted", metavar="COLUMN", help="which answers SQuAD JSON holds: a column of golds (predicted)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        return int(options.run_stage(options))
    except (Refused, StorageError, OSError, pa.ArrowException) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
