"""Find what a job reads: its files, and their columns by the schema of the first file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

import pyarrow as pa

from model.audit.columns import AUDIT_SCHEMA
from model.reading.columns import columns_for
from model.reading.question_answers import QUESTION_ANSWERS
from model.reading.question_list import QuestionList
from model.settings import ANNOTATE, AUDIT
from pipeline.bundled import SAMPLE
from pipeline.job.copies import Copies, publish_copies
from pipeline.job.options import Refused
from pipeline.job.settings import Columns, Files
from transforms.find_inputs import find_inputs
from transforms.parquet_files import FOOTERS_AT_ONCE, open_parquet
from transforms.plan_chunks import (
    ANSWERS,
    SECTIONS,
    STARTS,
    is_answers,
    is_sections,
    is_starts,
    is_text,
    schema_problem,
    wider,
    with_path_columns,
)
from transforms.records import InputColumns, InputFile, OutputColumns
from transforms.storage import lies_below

_log = logging.getLogger("spanmill")

_MOST_FOOTERS = 1000
"""Number of files whose column types are read before a run.

A later file is refused if it has a wider type.
"""

_PLACE_COLUMNS: tuple[tuple[str, str, str, Callable[[pa.DataType], bool]], ...] = (
    ("page_column", "page", STARTS, is_starts),
    ("section_column", "section", SECTIONS, is_sections),
)
"""The options of columns that say where places begin.

Each with the word of --locate that needs it, its type and a test of the type.
"""


@dataclass(frozen=True)
class Inputs:
    """The input of a job.

    expected   the columns to read, with their types
    columns    the names of the question, the context and the golds among them
    questions  the question list, None if rows have questions of their own
    temporary  folder of Parquet copies that are not in the output yet; None without any
    """

    files: tuple[InputFile, ...]
    expected: pa.Schema
    columns: InputColumns
    questions: QuestionList | None = None
    temporary: TemporaryDirectory[str] | None = None

    def published(self, output: str, again: bool = False) -> Inputs:
        """Publish the copies by `publish_copies`. Return the inputs with the copies there."""
        files = publish_copies(self.files, output, again)
        if self.temporary:
            self.temporary.cleanup()
        return replace(self, files=files, temporary=None)

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the columns that must hold text."""
        return tuple(filter(None, (self.columns.question, self.columns.context)))


def find_files(files: Files, output: str, copies: Copies) -> tuple[InputFile, ...]:
    """Find the input files, up to the row limit, with Parquet copies of those in other formats.

    Raises Refused for a file inside the output, and for one that can't be copied; StorageError if
    there are no files.
    """
    inputs = find_inputs(SAMPLE if files.input == "bundled" else files.input)
    # A run that reads its own parts would grow with every rerun.
    inside = [file.path for file in inputs if lies_below(file.path, output)]
    if inside:
        raise Refused(f"--input={files.input}: {inside[0]} is inside --output={files.output}")
    return _limit(inputs, files.limit, copies)


def _limit(files: Sequence[InputFile], rows: int | None, copies: Copies) -> tuple[InputFile, ...]:
    """Return the files that hold the first `rows` rows; the last may be read in part."""
    if rows is None:
        return tuple(copies.with_copy(file, None) for file in files)
    chosen: list[InputFile] = []
    for file in files:
        if rows <= 0:
            break
        file = copies.with_copy(file, rows)
        try:
            with open_parquet(file.parquet) as opened:
                held = min(rows, opened.metadata.num_rows)
        except Exception:  # an unreadable file counts no rows; planning refuses it by name
            held = 0
        chosen.append(replace(file, rows=held))
        rows -= held
    return tuple(chosen)


def choose_columns(
    files: tuple[InputFile, ...],
    columns: Columns,
    slice_by: tuple[str, ...],
    options: frozenset[str],
    stages: tuple[str, ...],
    questions: QuestionList | None = None,
) -> tuple[Inputs, OutputColumns]:
    """Choose the columns to read and those that the output keeps, by the first file's schema.

    options    those that ask for output columns (`model.reading.columns.answer_options`)
    questions  asked of every row, which then needs no question of its own

    Raises Refused for missing columns, unusable types and clashes of names.
    """
    first = files[0]
    question = "" if questions else columns.question_column
    texts = tuple(filter(None, (question, columns.context_column)))
    audited = AUDIT in stages
    schema = _schema(first)

    # All columns that options name must exist, except that of the id; together with those to keep,
    # they are read.
    for option in ("question_column", "context_column"):
        if getattr(columns, option) not in texts:
            continue
        list_hint = option == "question_column" and not audited
        _require(
            schema,
            getattr(columns, option),
            f"--{option}={getattr(columns, option)}: {first.path} has the columns",
            "; --questions=FILE asks a list of questions of every row" if list_hint else "",
        )
    keep = tuple(schema.names) if columns.keep_columns is None else columns.keep_columns
    for name in keep:
        _require(schema, name, f"--keep_columns: {first.path} has no column {name!r}, only")
    read = [*keep, *texts]
    if audited:
        _require_answers(schema, first, columns.answers_column)
        for name in slice_by:
            _require(schema, name, f"--slice_by: {first.path} has no column {name!r}, only")
        read += [columns.answers_column, *slice_by]
    read += _place_columns(schema, first, columns, options)
    if columns.id_column in schema.names:
        read.append(columns.id_column)
    elif columns.id_column != Columns.id_column:
        _log.info(
            "--id_column=%s: %s has no such column; ids are made of file, row group and row",
            columns.id_column,
            first.path,
        )

    # Their types must be usable, and no output column may replace a kept one.
    wanted = [schema.field(name) for name in dict.fromkeys(read) if schema.names.count(name) == 1]
    problem = schema_problem(schema, pa.schema(wanted), texts)
    if problem:
        raise Refused(f"--input: {first.path}: {problem}")
    _refuse_clash(columns, keep, _output_names(stages, options, questions))

    # The other files may have wider types, such as text where the first file has only nulls.
    expected = pa.schema([_nullable(field, field.name in texts) for field in wanted])
    expected = _widened(expected, files[1:_MOST_FOOTERS])
    if first.copy:  # whose columns without values have no type of their own
        expected = pa.schema([_nullable(field, True) for field in expected])
    answers = columns.answers_column if audited else ""
    places = columns.page_column, columns.section_column
    named = InputColumns(question, columns.context_column, answers, *places)
    inputs = Inputs(files, expected, named, questions)
    return inputs, OutputColumns(keep, columns.output_prefix, columns.id_column)


def _schema(file: InputFile) -> pa.Schema:
    """Return the columns of a file and of its path. Raises Refused."""
    try:
        with open_parquet(file.parquet) as opened:
            # Partition columns come from the path, and count as columns of the file.
            return with_path_columns(opened.schema_arrow, file)
    except Exception as error:
        if file.copy:
            raise Refused(
                f"--input: the copy {file.copy} of {file.path} can't be read: {error}. "
                "--overwrite recreates it"
            ) from error
        raise Refused(f"--input: {file.path} can't be read as Parquet: {error}") from error


def _require(schema: pa.Schema, column: str, message: str, hint: str = "") -> None:
    """Raise Refused if the schema lacks a column; its columns follow the message."""
    if column not in schema.names:
        raise Refused(f"{message} {', '.join(schema.names)}{hint}")


def _require_answers(schema: pa.Schema, file: InputFile, column: str) -> None:
    """Raise Refused unless the column exists and has the type of golds."""
    _require(schema, column, f"--answers_column={column}: {file.path} has the columns")
    kind = schema.field(column).type
    if not is_answers(kind):
        raise Refused(
            f"--answers_column={column}: {file.path}: it is {kind}, not {ANSWERS}; "
            f"`python -m pipeline.convert import --input {file.path} --output GOLDS.parquet` "
            "converts other shapes, also JSON in text"
        )


def _place_columns(
    schema: pa.Schema, file: InputFile, columns: Columns, options: frozenset[str]
) -> list[str]:
    """Return the columns of pages and sections that are given.

    Raises Refused if one is missing, has another type, or is not needed by --locate.
    """
    given = []
    for option, word, wanted, has_type in _PLACE_COLUMNS:
        name = getattr(columns, option)
        if not name:
            continue
        if f"--locate {word}" not in options:
            raise Refused(f"--{option}={name}: only --locate {word} reads it; add {word} to it")
        _require(schema, name, f"--{option}={name}: {file.path} has the columns")
        kind = schema.field(name).type
        if not has_type(kind):
            raise Refused(f"--{option}={name}: {file.path}: it is {kind}, not {wanted}")
        given.append(name)
    return given


def _output_names(
    stages: tuple[str, ...], options: frozenset[str], questions: QuestionList | None
) -> list[str]:
    """Return the names of the output columns of all stages, without the prefix."""
    made = [*(AUDIT_SCHEMA.names if AUDIT in stages else ())]
    if ANNOTATE in stages:
        annotated = [column.name for column in columns_for(options)]
        # The list of answers to a question list has annotate's columns within it.
        made += [QUESTION_ANSWERS] if questions else annotated
    return made


def _refuse_clash(columns: Columns, keep: tuple[str, ...], names: Iterable[str]) -> None:
    """Raise Refused if an output column has the name of a column that the output keeps.

    names  of the output columns, without the prefix
    """
    made = {columns.output_prefix + name for name in names}
    clash = sorted(made & set(keep)) or sorted(made & {columns.id_column})
    if clash:
        raise Refused(
            f"--output_prefix={columns.output_prefix!r}: the output column {clash[0]!r} is already "
            "an input column; give another prefix, or leave it out of --keep_columns"
        )


def _widened(expected: pa.Schema, files: Sequence[InputFile]) -> pa.Schema:
    """Return the columns with types that also hold the values of the other files.

    If there is no such type, planning refuses the other file.
    """
    # Text needs no widening: planning takes text columns of any width.
    if all(is_text(field.type) and not pa.types.is_null(field.type) for field in expected):
        return expected
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        for schema in filter(None, pool.map(_readable_schema, files)):
            for index, field in enumerate(expected):
                if schema.names.count(field.name) == 1:
                    kind = wider(field.type, schema.field(field.name).type)
                    expected = expected.set(index, field.with_type(kind or field.type))
    return pa.schema([_nullable(field, False) for field in expected])


def _readable_schema(file: InputFile) -> pa.Schema | None:
    """Return a file's schema, None if it can't be read."""
    try:
        with open_parquet(file.parquet) as opened:
            return opened.schema_arrow
    except Exception:  # planning refuses the file by name
        return None


def _nullable(field: pa.Field, is_text_column: bool) -> pa.Field:
    """Return a field of the first file that also fits other files.

    It takes nulls, text where the first file has only nulls, and dictionaries of more than 127
    values.
    """
    kind = field.type
    if is_text_column and pa.types.is_null(kind):
        kind = pa.string()
    # Indices of one byte would be too small for another file's dictionary.
    if pa.types.is_dictionary(kind):
        kind = pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
    return pa.field(field.name, kind, nullable=True, metadata=field.metadata)
