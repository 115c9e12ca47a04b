"""Other formats to the input contract, and finished runs to other formats, for example

    python -m pipeline.convert import --input dev-v2.0.json --output gold.parquet
    python -m pipeline.convert export --run out/ --output predictions/ --format predictions

Both read and write row by row: memory does not grow with the file.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import IO, Any

logging.getLogger().addHandler(logging.NullHandler())  # Beam warns of optional packages while it is imported

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.options import Refused
from pipeline.place_golds import OFFSETS, place_golds
from pipeline.read_formats import READERS, Example, FormatError, Names
from pipeline.write_formats import WRITERS
from transforms.storage import StorageError, absolute, building, open_file

ANSWERS_TYPE = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])

_CONTRACT = ("id", "question", "context", "answers")
_ROWS_AT_ONCE, _CHARACTERS_AT_ONCE = 1024, 2**24
_ENDINGS = {".json": "squad", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}


def batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    """Consecutive rows, bounded in number and in characters."""
    batch: list[Example] = []
    characters = 0
    for example in examples:
        batch.append(example)
        characters += len(example.context) if isinstance(example.context, str) else 0
        if len(batch) == _ROWS_AT_ONCE or characters > _CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def convert_examples(examples: Iterator[Example], output: str, unit: str, report: IO[str], counts: Counter[str]) -> None:
    """Writes rows as Parquet, a bounded number at a time. The types of other columns follow from the first of them.

    Raises FormatError for no row, and for a row whose other columns or id are not those of the first.
    """
    schema: pa.Schema | None = None
    writer: pq.ParquetWriter | None = None
    with building(output) as path:
        try:
            for batch in batches(examples):
                schema = schema or _schema(batch)
                rows = [
                    {
                        "id": example.id,
                        "question": example.question,
                        "context": example.context,
                        "answers": place_golds(example, unit, report, counts),
                        **example.others,
                    }
                    for example in batch
                ]
                table = _table(rows, schema, counts["rows"])
                writer = writer or pq.ParquetWriter(path, schema, compression="zstd")
                writer.write_table(table, row_group_size=_ROWS_AT_ONCE)
                counts["rows"] += len(rows)
        finally:
            if writer:
                writer.close()
        if not writer:
            raise FormatError("there is no row in it")


def _schema(batch: Sequence[Example]) -> pa.Schema:
    fields = [("id", pa.string())] if batch[0].id is not None else []
    fields += [("question", pa.string()), ("context", pa.string()), ("answers", ANSWERS_TYPE)]
    for name in dict.fromkeys(name for example in batch for name in example.others):
        if name in _CONTRACT:
            raise FormatError(
                f"column {name!r} stands beside the one that was named for it; --drop_columns={name} leaves it out"
            )
        try:
            kind = pa.array([example.others.get(name) for example in batch]).type
        except (pa.ArrowException, ValueError) as error:
            raise FormatError(f"column {name!r}: {error}; --drop_columns={name} leaves it out") from error
        fields.append((name, pa.string() if pa.types.is_null(kind) else kind))
    return pa.schema(fields)


def _table(rows: list[dict[str, Any]], schema: pa.Schema, before: int) -> pa.Table:
    for number, row in enumerate(rows, before):
        strange = sorted(name for name in row.keys() - set(schema.names) if row[name] is not None)
        if strange:
            raise FormatError(f"row {number} has a column {strange[0]!r}, which the first rows have not")
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
    listed = f"{output}.golds.jsonl"
    try:
        with (
            open_file(absolute(options.input)) as file,
            building(listed) as path,
            open(path, "w", encoding="utf-8", errors="backslashreplace") as report,
        ):
            examples = (_without(example, drop) for example in READERS[chosen](file, names))
            convert_examples(examples, output, options.offsets, report, counts)
    except FormatError as error:
        raise Refused(f"--input={options.input} as --format={chosen}: {error}") from error
    print(f"{counts['rows']} rows: {output}")
    print(f"golds: {', '.join(f'{counts[name]} {name[5:]}' for name in sorted(counts) if name.startswith('gold_')) or 'none'}")
    for unit in OFFSETS:
        if counts[f"fits_{unit}"]:
            print(f"{counts[f'fits_{unit}']} of them are right if starts count {unit}: see --offsets={unit}")
    if counts["rows_without_placed_golds"]:
        print(f"{counts['rows_without_placed_golds']} rows have golds of which none has a place: their answers are null")
    wrong = sum(count for name, count in counts.items() if name.startswith("gold_")) - counts["gold_aligned"]
    print(f"{wrong - counts['gold_located']} golds that are not where they should be: {listed}")
    return 0


def _without(example: Example, drop: set[str]) -> Example:
    others = {name: value for name, value in example.others.items() if name not in drop}
    return Example(example.id, example.question, example.context, example.golds, others)


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
