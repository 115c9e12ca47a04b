"""Convert other formats to the input contract, and finished runs to other formats, for example

    python -m pipeline.convert import --input dev-v2.0.json --output gold.parquet
    python -m pipeline.convert export --run out/ --output predictions/ --format predictions
    python -m pipeline.convert flatten out/ --output answers.parquet

All read and write row by row, so that memory does not grow with the file. `import` reads the file
twice. It leaves out, by name, the rows that it can't read, and changes none of the others.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

logging.getLogger().addHandler(logging.NullHandler())  # Beam warns of optional packages on import

from model.settings import split_names
from pipeline.formats.convert_rows import convert_rows
from pipeline.formats.flatten import flatten
from pipeline.formats.import_summary import import_summary
from pipeline.formats.imported_rows import FileLayout, FormatError, ImportedRow
from pipeline.formats.place_golds import START_UNITS
from pipeline.formats.read_formats import READERS, recognise
from pipeline.formats.survey_rows import Survey
from pipeline.formats.write_formats import WRITERS
from pipeline.job.options import Refused
from pipeline.looks.result import print_result
from pipeline.looks.terminal import printable
from transforms.run_files import RunFiles
from transforms.storage import (
    StorageError,
    absolute,
    building,
    join,
    lies_below,
    open_file,
    real_path,
)


def import_file(options: argparse.Namespace) -> str:
    """Convert one file to Parquet. Return what was written and what its golds are like.

    Raises Refused.
    """
    source, output = absolute(options.input), absolute(options.output)
    if source == output:
        raise Refused(f"--output={options.output} is the --input itself")
    with _naming("input", options.input), open_file(source) as file:
        try:
            kind, encoding = recognise(file, options.input, options.format, options.encoding)
        except FormatError as error:
            raise Refused(f"--input={options.input}: {error}") from error
    layout = FileLayout(
        id=options.id_column,
        question=options.question_column,
        context=options.context_column,
        answers=options.answers_column,
        start=options.start_column,
        encoding=encoding,
        delimiter=options.delimiter or "",
    )
    dropped, columns = set(options.drop_columns), set[str]()

    def read() -> Iterator[ImportedRow]:
        with _naming("input", options.input), open_file(source) as file:
            for row in READERS[kind](file, layout):
                columns.update(row.others)
                others = {name: each for name, each in row.others.items() if name not in dropped}
                yield replace(row, others=others)
        # A name may be in the last row only.
        if missing := sorted(dropped - columns):
            raise Refused(
                f"--drop_columns={missing[0]}: --input={options.input} has the other columns "
                f"{', '.join(sorted(columns)) or 'none'}"
            )

    # If the conversion fails, neither the rows nor the report are left behind.
    counts: Counter[str] = Counter()
    report_path = f"{options.output}.golds.jsonl"
    try:
        with (
            _naming("output", options.output),
            building(absolute(report_path)) as path,
            open(path, "w", encoding="utf-8", errors="backslashreplace") as report,
        ):
            survey = Survey(documents=options.documents)
            convert_rows(read, output, options.offsets, report, counts, survey)
    except FormatError as error:
        raise Refused(f"--input={options.input} as --format={kind}: {error}") from error
    findings = import_summary(counts, survey, options.answers_column, report_path)
    return "\n".join([f"{counts['rows']} rows: {options.output}", *map(printable, findings)])


def export_run(options: argparse.Namespace) -> str:
    """Write a finished run in another format. Return what was written. Raises Refused."""
    with _naming("output", options.output):
        run, output = _outside_parts(options)
        if options.answers is not None and options.format != "squad":
            raise Refused(f"--answers={options.answers}: only --format=squad takes it")
        answers = {} if options.answers is None else {"answers": options.answers}
        return WRITERS[options.format](run, output, **answers)


def flatten_run(options: argparse.Namespace) -> str:
    """Write a run with a question list as one row per document and question. Raises Refused."""
    with _naming("output", options.output):
        return flatten(*_outside_parts(options), options.drop_columns)


def _outside_parts(options: argparse.Namespace) -> tuple[str, str]:
    """Return --run and --output as absolute paths.

    Raises Refused for an output in a folder of the run's parts or rejections, of which it would
    seem to be one.
    """
    run, output = absolute(options.run), absolute(options.output)
    for name in (RunFiles.PARTS, RunFiles.REJECTIONS):
        folder = join(run, name)
        if real_path(output) == real_path(folder) or lies_below(output, folder):
            raise Refused(f"--output={options.output} is among the {name} of the run {run}")
    return run, output


@contextmanager
def _naming(option: str, value: str) -> Iterator[None]:
    """Raise Refused with the name of the option whose file can't be opened, read or written."""
    try:
        yield
    except (StorageError, OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Refused(f"--{option}={value}: {reason}") from error


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="import|export|flatten")
    importing = commands.add_parser(
        "import", help="convert a file to Parquet in the input contract", allow_abbrev=False
    )
    _add_import(importing)
    exporting = commands.add_parser(
        "export", help="convert a finished run of annotate to another format", allow_abbrev=False
    )
    _add_export(exporting)
    flattening = commands.add_parser(
        "flatten",
        help="write a run with --questions as one row per document and question",
        allow_abbrev=False,
    )
    _add_flatten(flattening)
    return parser


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(work=import_file)
    add = parser.add_argument
    add("--input", required=True, metavar="FILE", help="file or URL, compressed or not")
    add(
        "--output",
        required=True,
        metavar="FILE",
        help="Parquet file to write; the report of golds is written to FILE.golds.jsonl",
    )
    add(
        "--format",
        choices=list(READERS),
        help="format of the file (default: by its ending .json, .jsonl, .csv, .tsv or .parquet, "
        "and by its content)",
    )
    add(
        "--encoding",
        type=_encoding,
        metavar="NAME",
        help="encoding of text (default: as its byte order mark says, else UTF-8)",
    )
    add(
        "--delimiter",
        type=_delimiter,
        metavar="C",
        help="one character or `tab`, for csv and tsv (default: a comma for csv, a tab for tsv)",
    )
    add(
        "--offsets",
        choices=list(START_UNITS),
        default="code_points",
        help="what the starts of golds count (default: code_points)",
    )
    for name in ("question", "context", "id", "answers"):
        add(
            f"--{name}_column",
            default=name,
            metavar="NAME",
            help=f"column, or JSON key, of the {name}; ignored for mrqa (default: {name})",
        )
    add(
        "--start_column",
        default="answer_start",
        metavar="NAME",
        help="column of the starts of answers that are plain text (default: answer_start)",
    )
    add(
        "--drop_columns",
        type=split_names,
        default=(),
        metavar="A,B",
        help="columns to leave out; all others are kept",
    )
    add(
        "--documents",
        action="store_true",
        help="rows are documents, for annotate --questions: write no questions and no answers",
    )


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(work=export_run)
    add = parser.add_argument
    add("--run", required=True, metavar="DIR", help="output of annotate, a folder or URL")
    add(
        "--output",
        required=True,
        metavar="PATH",
        help="file to write; for predictions, a folder",
    )
    add("--format", required=True, choices=list(WRITERS), help="format to write")
    add(
        "--answers",
        metavar="COLUMN",
        help="answers that SQuAD JSON holds: a column of golds, or all_answers of a run with this "
        "option (default: predicted, the run's own)",
    )


def _add_flatten(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(work=flatten_run)
    add = parser.add_argument
    add("run", metavar="DIR", help="output of annotate with --questions, a folder or URL")
    add("--output", required=True, metavar="FILE", help="Parquet file to write")
    add(
        "--drop_columns",
        type=split_names,
        default=(),
        metavar="A,B",
        help="input columns to leave out, such as the passages",
    )


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
    """Run one command. Return the exit code: 0, 2 if it was refused, 3 if it can't print."""
    options = make_parser().parse_args(arguments)
    return print_result(lambda: options.work(options))


if __name__ == "__main__":
    sys.exit(main())
