"""Other formats to the input contract, and finished runs to other formats, for example

    python -m pipeline.convert import --input dev-v2.0.json --output gold.parquet
    python -m pipeline.convert export --run out/ --output predictions/ --format predictions

Both read and write row by row: memory does not grow with the file. Import reads it twice; what it can't read is left out by
name, and leaves its neighbours as they are.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Any

logging.getLogger().addHandler(
    logging.NullHandler()
)  # Beam warns of optional packages while it is imported

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.formats.imported_rows import (
    NUMBER_AS_TEXT,
    FormatError,
    ImportedRow,
    Layout,
    row_problem,
)
from pipeline.formats.place_golds import OFFSETS, better_unit, place_golds, write_line
from pipeline.formats.read_formats import READERS, recognise
from pipeline.formats.write_formats import WRITERS
from pipeline.job.options import Refused
from pipeline.looks.terminal import printable
from transforms.storage import StorageError, absolute, building, open_file

ANSWERS_TYPE = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])

_CONTRACT = ("id", "question", "context", "answers")
_ENCODINGS = (
    ": if the file is in another encoding, --encoding=cp1252 (or latin-1, shift_jis, ...) reads it"
)
_ROWS_AT_ONCE, _CHARACTERS_AT_ONCE = 1024, 2**24


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


@dataclass
class Survey:
    """What the first reading of a file finds out.

    kinds    the types of the columns beside the contract's; None where no type but text holds all values
    rows     how many rows Parquet can hold
    asked    how many of them have a question, and a context, that is text
    ids      whether any row has an id
    answers  whether any row says something of answers
    first    the first problem of a question, a context or a whole row, and its place
    """

    kinds: dict[str, pa.DataType | None] = field(default_factory=dict)
    rows: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    ids: bool = False
    answers: bool = False
    first: str = ""

    def add(self, examples: Sequence[ImportedRow]) -> None:
        """Adds consecutive rows. Raises FormatError for a column that has the name of one of the contract's."""
        kept = [example for example in examples if not self._left_out(example)]
        for name in dict.fromkeys(name for example in kept for name in example.others):
            if name in _CONTRACT:
                raise FormatError(
                    f"column {name!r} stands beside the one that was named for it; --drop_columns={name} leaves it out"
                )
            self._add_column(name, [example.others.get(name) for example in kept])
        self.rows += len(kept)
        for example in kept:
            self.asked.update(
                name for name in ("question", "context") if isinstance(getattr(example, name), str)
            )
        self.ids = self.ids or any(example.id is not None for example in kept)
        self.answers = self.answers or any(
            example.golds is not None or example.problems for example in kept
        )

    def _left_out(self, example: ImportedRow) -> bool:
        problem = row_problem(example)
        for reason, found in example.problems:
            if not self.first and (
                example.unreadable or reason in ("question_not_text", "context_not_text")
            ):
                self.first = (
                    f"{example.where}: {reason}, but {type(found).__name__}: {str(found)[:80]}"
                )
        if problem and not self.first:
            self.first = f"{example.where}: {problem}" + (
                _ENCODINGS if problem.endswith("_not_utf8") else ""
            )
        return bool(problem)

    def _add_column(self, name: str, values: list[Any]) -> None:
        known = self.kinds.get(name, pa.null())
        if known is not None:
            try:
                both = [pa.schema([(name, kind)]) for kind in (known, _array(values).type)]
                merged = pa.unify_schemas(both, promote_options="permissive").field(name).type
                self.kinds[name] = merged if _has_columns(merged) else None
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                self.kinds[name] = None

    def schema(self) -> pa.Schema:
        """The contract's columns, and the others."""
        fields = [("id", pa.string())] if self.ids else []
        fields += [("question", pa.string()), ("context", pa.string()), ("answers", ANSWERS_TYPE)]
        others = ((name, kind) for name, kind in self.kinds.items())
        fields += [
            (name, pa.string() if kind is None or pa.types.is_null(kind) else kind)
            for name, kind in others
        ]
        return pa.schema(fields)


def _has_columns(kind: pa.DataType) -> bool:
    """Whether Parquet has a column for a type: it has none for a struct without fields."""
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return not (pa.types.is_struct(kind) and not inner) and all(map(_has_columns, inner))


class _ColumnError(ValueError):
    """A column with a value that its type does not hold, such as a whole number too big for a float."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


def convert_rows(
    read: Callable[[], Iterator[ImportedRow]],
    output: str,
    unit: str,
    report: IO[str],
    counts: Counter[str],
) -> Survey:
    """Writes rows as Parquet, a bounded number at a time; they are read twice, as their types are known at their end.

    Rows that Parquet can't hold are left out, with a line of the report each. Raises FormatError for no row, for a file none of
    whose rows has text as question or as context, and for rows that are not the same the second time.
    """
    survey = Survey()
    for batch in batches(read()):
        survey.add(batch)
    _check(survey)
    while True:
        try:
            _write(read, output, survey, unit, report, counts)
            return survey
        except (
            _ColumnError
        ) as error:  # found while its type was made of many rows: once for each column
            survey.kinds[error.name] = None
            counts.clear()
            report.seek(0)
            report.truncate()


def _check(survey: Survey) -> None:
    """Raises FormatError for a file without a row, or without questions or contexts that are text."""
    if not survey.rows:
        raise FormatError(
            "there is no row in it that Parquet can hold"
            + (f"; {survey.first}" if survey.first else "")
        )
    for name in ("question", "context"):
        if not survey.asked[name]:
            columns = ", ".join(map(repr, survey.kinds)) or "none"
            why = (
                survey.first
                if f"{name}_not_text" in survey.first
                else f"the other columns are {columns}"
            )
            raise FormatError(
                f"no row has text as its {name} ({why}): --{name}_column=NAME names the column that holds it"
            )


def _write(
    read: Callable[[], Iterator[ImportedRow]],
    output: str,
    survey: Survey,
    unit: str,
    report: IO[str],
    counts: Counter[str],
) -> None:
    schema = survey.schema()
    with building(output) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches(read()):
            rows = []
            for example in batch:
                if problem := row_problem(example):
                    counts[f"left_out_{problem}"] += 1
                    write_line(
                        report,
                        example,
                        problem,
                        found=next((str(found)[:200] for _, found in example.problems), None),
                    )
                    continue
                answers = place_golds(example, unit, report, counts)
                texts = {"id": example.id, "question": example.question, "context": example.context}
                rows.append({**texts, "answers": answers, **example.others})
            writer.write_table(_table(rows, schema, survey), row_group_size=_ROWS_AT_ONCE)
            counts["rows"] += len(rows)
        if counts["rows"] != survey.rows:
            raise FormatError(
                f"it had {survey.rows} rows, then {counts['rows']}: it was changed, or is a pipe, which can't be read twice"
            )


def _table(rows: list[dict[str, Any]], schema: pa.Schema, survey: Survey) -> pa.Table:
    columns = []
    for column in schema:
        values = [row.get(column.name) for row in rows]
        if column.name in survey.kinds and survey.kinds[column.name] is None:
            values = list(map(_as_text, values))
        try:
            columns.append(_array(values, column.type))
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            if survey.kinds.get(column.name) is None:
                raise FormatError(f"column {column.name!r}: {error}") from error
            raise _ColumnError(column.name) from error
    return pa.table(columns, schema=schema)


def _array(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    """Values as an array; those of Parquet are arrays of one value."""
    held = next((value for value in values if isinstance(value, pa.Array)), None)
    if held is None:
        return pa.array(values, kind)
    return pa.concat_arrays(
        [pa.nulls(1, held.type) if value is None else value for value in values]
    )


def _as_text(value: Any) -> str | None:
    """A value of a column that holds values of several types: texts as they are, others as JSON."""
    return (
        value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    )


def import_file(options: argparse.Namespace) -> int:
    """Converts one file to Parquet and says what its golds are like. Returns the exit code."""
    source, output = absolute(options.input), absolute(options.output)
    if source == output:
        raise Refused(f"--output={options.output} is the --input itself")
    with _blaming("input", options.input), open_file(source) as file:
        try:
            kind, encoding = recognise(file, options.input, options.format, options.encoding)
        except FormatError as error:
            raise Refused(f"--input={options.input}: {error}") from error
    names = {
        name: getattr(options, f"{name}_column")
        for name in ("id", "question", "context", "answers", "start")
    }
    layout = Layout(**names, encoding=encoding, delimiter=options.delimiter or "")
    drop = {name.strip() for name in (options.drop_columns or "").split(",")}
    counts: Counter[str] = Counter()
    listed = f"{options.output}.golds.jsonl"

    def read() -> Iterator[ImportedRow]:
        with _blaming("input", options.input), open_file(source) as file:
            for example in READERS[kind](file, layout):
                yield replace(
                    example,
                    others={
                        name: value for name, value in example.others.items() if name not in drop
                    },
                )

    try:
        with (
            _any_number_of_digits(),
            _blaming("output", options.output),
            building(absolute(listed)) as path,
            open(path, "w", encoding="utf-8", errors="backslashreplace") as report,
        ):
            survey = convert_rows(read, output, options.offsets, report, counts)
    except FormatError as error:
        raise Refused(f"--input={options.input} as --format={kind}: {error}") from error
    print(f"{counts['rows']} rows: {options.output}")
    for line in summary(counts, survey, options.answers_column, listed):
        print(printable(line))
    return 0


@contextmanager
def _any_number_of_digits() -> Iterator[None]:
    """Lifts Python's limit for the digits of a whole number, beyond which ijson's parser crashes."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


@contextmanager
def _blaming(option: str, value: str) -> Iterator[None]:
    """Names the option whose file can't be opened, read or written."""
    try:
        yield
    except (StorageError, OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Refused(f"--{option}={value}: {reason}") from error


def summary(
    counts: Counter[str], survey: Survey, answers_column: str, listed: str
) -> Iterator[str]:
    """What is to be said of an import, a line for each thing that is there."""

    def of(kind: str) -> dict[str, int]:
        return {
            name[len(kind) :]: counts[name]
            for name in sorted(counts)
            if name.startswith(kind) and counts[name]
        }

    golds = of("gold_")
    yield f"golds: {', '.join(f'{count} {name}' for name, count in golds.items()) or 'none'}"
    if not survey.answers:
        near = [
            name
            for name in survey.kinds
            if any(word in name.casefold() for word in ("answer", "gold"))
        ]
        near += difflib.get_close_matches(answers_column, list(survey.kinds))
        hint = f", but {near[0]!r}: see --answers_column={near[0]}" if near else ""
        yield f"there is no column {answers_column!r}{hint}"
    if unit := better_unit(counts):
        yield f"{counts[f'mends_{unit}']} of them are right if starts {OFFSETS[unit]}: see --offsets={unit}"
    for what, count in of("differs_").items():
        yield f"{count} of them {'differs' if count == 1 else 'differ'} only in {what}"
    problems = of("problem_")
    if numbers := problems.pop(NUMBER_AS_TEXT, 0):
        yield f"{numbers} numbers read as text"
    if counts["rows_without_placed_golds"]:
        yield f"{counts['rows_without_placed_golds']} rows have golds of which none has a place: their answers are null"
    if problems:
        yield f"problems: {', '.join(f'{count} {name}' for name, count in problems.items())}: {listed}"
    mixed = [name for name, kind in survey.kinds.items() if kind is None]
    if mixed:
        yield f"columns with values of several types, written as text: {', '.join(mixed)}"
    if left_out := of("left_out_"):
        reasons = ", ".join(f"{count} {name}" for name, count in left_out.items())
        yield f"{sum(left_out.values())} rows left out, which Parquet can't hold: {reasons}: {listed}"
        if any(name.endswith("_not_utf8") for name in left_out):
            yield f"text that is not UTF-8{_ENCODINGS}"
    wrong = sum(count for name, count in golds.items() if name not in ("aligned", "located"))
    yield f"{wrong} golds that are not where they should be: {listed}"


def export_run(options: argparse.Namespace) -> int:
    """Writes a finished run in another format. Returns the exit code."""
    with _blaming("output", options.output):
        print(
            WRITERS[options.format](
                absolute(options.run), absolute(options.output), options.answers
            )
        )
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    stages = parser.add_subparsers(required=True, metavar="import|export")
    add = stages.add_parser(
        "import", help="a file to Parquet in the input contract", allow_abbrev=False
    )
    add.set_defaults(run_stage=import_file)
    add.add_argument(
        "--input", required=True, metavar="FILE", help="a file or URL, compressed or not"
    )
    add.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="the Parquet file; beside it comes FILE.golds.jsonl",
    )
    add.add_argument(
        "--format",
        choices=list(READERS),
        help="(by the ending: .json, .jsonl, .csv, .tsv, .parquet; by content)",
    )
    add.add_argument(
        "--encoding",
        type=_encoding,
        metavar="NAME",
        help="of text (UTF-8, or what its byte order mark says)",
    )
    add.add_argument(
        "--delimiter",
        type=_delimiter,
        metavar="C",
        help="of csv and tsv, one character or `tab` (, and tab)",
    )
    add.add_argument(
        "--offsets",
        choices=list(OFFSETS),
        default="code_points",
        help="what starts count (code_points)",
    )
    for name in ("question", "context", "id", "answers"):
        add.add_argument(
            f"--{name}_column",
            default=name,
            metavar="NAME",
            help=f"of all formats but mrqa ({name})",
        )
    add.add_argument(
        "--start_column",
        default="answer_start",
        metavar="NAME",
        help="of answers that are plain text (answer_start)",
    )
    add.add_argument(
        "--drop_columns", metavar="A,B", help="columns to leave out; all others go along"
    )
    out = stages.add_parser(
        "export", help="a finished run of annotate to another format", allow_abbrev=False
    )
    out.set_defaults(run_stage=export_run)
    out.add_argument(
        "--run", required=True, metavar="DIR", help="output of annotate, a folder or URL"
    )
    out.add_argument(
        "--output", required=True, metavar="PATH", help="file to write; of predictions, a folder"
    )
    out.add_argument("--format", required=True, choices=list(WRITERS))
    out.add_argument(
        "--answers",
        default="predicted",
        metavar="COLUMN",
        help="which answers SQuAD JSON holds: a column of golds (predicted)",
    )
    return parser


def _encoding(text: str) -> str:
    try:
        "".encode(text)
    except LookupError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an encoding of text that Python knows, such as cp1252"
        ) from error
    return text


def _delimiter(text: str) -> str:
    delimiter = "\t" if text in ("tab", "\\t") else text
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise argparse.ArgumentTypeError(f"{text!r} is not one character, or `tab`")
    return delimiter


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        return int(options.run_stage(options))
    except (Refused, StorageError, OSError, pa.ArrowException) as error:
        print(printable(f"refused: {error}"), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
