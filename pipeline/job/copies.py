"""Copy input files in other formats to Parquet, reading them as `convert import` does.

A run reads the copies, which it keeps in its output. To cut such a file into chunks without a copy
would need a second way to plan, to read and to look up rows, and the type of a column would not be
known: the last line of the file may change it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from pipeline.formats.convert_rows import convert_rows
from pipeline.formats.import_summary import import_summary
from pipeline.formats.imported_rows import FileLayout, FormatError, ImportedRow
from pipeline.formats.read_formats import READERS, is_other_format, recognise
from pipeline.formats.survey_rows import Survey
from pipeline.job.options import Refused
from pipeline.job.settings import Columns
from transforms.records import InputFile
from transforms.run_files import RunFiles
from transforms.storage import commit, commit_file, exists, join, open_file, state_of

_log = logging.getLogger("spanmill")

_FOLDER = "spanmill-copies-"
"""Beginning of the names of temporary folders; the process's id follows."""

_REPORT = ".golds.jsonl"
"""Ending of the report of golds, as `convert import` writes it."""

_HINT = "`python -m pipeline.convert import` has options for other layouts"


@dataclass
class Copies:
    """Makes the Parquet copies of a job's input files.

    layout     names of the columns; the copies keep these names
    documents  whether rows need no questions
    output     folder in which the copies will be
    reuse      whether to use copies that an earlier try left in the output
    temporary  folder of the new copies, None without any; the job publishes them once it has
               claimed its output
    """

    layout: FileLayout
    documents: bool
    output: str
    reuse: bool
    temporary: TemporaryDirectory[str] | None = field(default=None, repr=False)

    @classmethod
    def for_columns(cls, columns: Columns, documents: bool, output: str, reuse: bool) -> Copies:
        """Make copies with the names of the columns that a job reads."""
        layout = FileLayout(
            columns.id_column,
            columns.question_column,
            columns.context_column,
            columns.answers_column,
        )
        return cls(layout, documents, output, reuse)

    def with_copy(self, file: InputFile, most: int | None) -> InputFile:
        """Return a file with its copy, or unchanged if it is Parquet.

        most  number of rows to copy, from the first on; None: all

        Raises Refused for a file of which any row can't be read.
        """
        if not is_other_format(file.path):
            return file
        name = self._name(file, most)
        kept = RunFiles(self.output).copy(name)
        if self.reuse and exists(kept):
            return replace(file, copy=kept)
        try:
            return self._copied(file, name, most)
        except Refused:
            raise
        except Exception as error:  # each store and each decompressor raises errors of its own
            strerror = error.strerror if isinstance(error, OSError) else None
            reason = strerror or str(error) or type(error).__name__
            hint = f" ({_HINT})" if isinstance(error, FormatError) else ""
            raise Refused(f"--input: {file.path}: {reason}{hint}") from error

    def _name(self, file: InputFile, most: int | None) -> str:
        """Return the name of a copy, which differs for other content and for another layout."""
        content = [file.path, *file.state, most, self.documents, *astuple(self.layout)]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", PurePosixPath(file.path).name)[:80]
        return f"{stem}-{digest}.parquet"

    def _copied(self, file: InputFile, name: str, most: int | None) -> InputFile:
        """Copy a file into the temporary folder. Raises Refused, FormatError, OSError."""
        with open_file(file.path) as opened:
            kind, encoding = recognise(opened, file.path, None, None)
        if kind == "parquet":  # with the ending of another format
            return file
        _log.info("copying %s (%s) to Parquet", file.path, kind)
        self.temporary = self.temporary or TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-")
        copy = join(self.temporary.name, name)
        layout, counts = replace(self.layout, encoding=encoding), Counter[str]()

        def rows() -> Iterator[ImportedRow]:
            with open_file(file.path) as opened:
                yield from islice(READERS[kind](opened, layout), most)

        names = layout.id, layout.question, layout.context, layout.answers
        survey = Survey(documents=self.documents, names=names)
        with open(copy + _REPORT, "w+", encoding="utf-8", errors="backslashreplace") as report:
            convert_rows(rows, copy, "code_points", report, counts, survey)
        # A run loses no row silently: leaving rows out is left to `convert import`.
        left_out = sum(counts[name] for name in counts if name.startswith("left_out_"))
        if left_out:
            raise Refused(
                f"--input: {file.path}: {left_out} rows can't be read, such as {survey.first}; "
                f"`python -m pipeline.convert import --input {file.path} --output ROWS.parquet` "
                "leaves them out and lists them"
            )
        if state_of(file.path) != file.state:
            raise Refused(f"--input: {file.path} was changed while it was read")
        # A file without any answers gets no findings about them.
        survey = replace(survey, documents=self.documents or not survey.answers)
        report_path = RunFiles(self.output).copy(name) + _REPORT
        for finding in import_summary(counts, survey, layout.answers, report_path):
            _log.info("%s: %s", file.path, finding)
        return replace(file, copy=copy)


def publish_copies(
    files: Sequence[InputFile], output: str, again: bool = False
) -> tuple[InputFile, ...]:
    """Put the copies of files into the output. Return the files with the paths there.

    again  whether new copies replace those that are there, which may be damaged. Another process
           of this run that has begun to read them would refuse them as changed
    """
    published = []
    for file in files:
        if file.copy:
            name = PurePosixPath(file.copy).name
            target = RunFiles(output).copy(name)
            # The report goes first, so that it is there wherever the copy is.
            if file.copy != target and (again or not exists(target)):
                report = Path(file.copy + _REPORT).read_bytes()
                commit(output, report, RunFiles.COPIES, name + _REPORT)
                commit_file(output, file.copy, RunFiles.COPIES, name)
            file = replace(file, copy=target)
        published.append(file)
    return tuple(published)


def remove_unpublished() -> None:
    """Remove the copies of this process that are not in an output, before it ends abruptly."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}{os.getpid()}-*"):
        shutil.rmtree(folder, ignore_errors=True)
