"""Copies: input files in other formats than Parquet, as `convert import` reads them, are copied.

A run reads the Parquet copy, which it keeps in its output. Cutting such a file itself into chunks
would need a second way of planning, reading and looking up rows, and could not know the type of a
column, which its last line may change.
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
from pipeline.formats.imported_rows import FormatError, ImportedRow, Layout
from pipeline.formats.read_formats import READERS, is_other_format, recognise
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
    reuse      whether to use the copies of an earlier try that are there
    made       temporary folder of the copies, None if there are none; they are published once the
               job has claimed its output
    """

    layout: Layout
    documents: bool
    output: str
    reuse: bool
    made: TemporaryDirectory[str] | None = field(default=None, repr=False)

    @classmethod
    def for_columns(cls, columns: Columns, documents: bool, output: str, reuse: bool) -> Copies:
        """Return copies with the names of columns that a job reads."""
        layout = Layout(
            columns.id_column,
            columns.question_column,
            columns.context_column,
            columns.answers_column,
        )
        return cls(layout, documents, output, reuse)

    def with_copy(self, file: InputFile, most: int | None) -> InputFile:
        """Return the file with its copy; without one if it is not of another format.

        most  rows to copy, the first of the file; None: all

        Raises Refused for a file that can't be read as a whole: no row is left out.
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
        """Copy a file into the temporary folder. Raises Refused, FormatError and OSError."""
        with open_file(file.path) as opened:
            kind, encoding = recognise(opened, file.path, None, None)
        if kind == "parquet":  # with the ending of another format
            return file
        _log.info("copying %s (%s) to Parquet", file.path, kind)
        self.made = self.made or TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-")
        copy = join(self.made.name, name)
        layout, counts = replace(self.layout, encoding=encoding), Counter[str]()

        def rows() -> Iterator[ImportedRow]:
            with open_file(file.path) as opened:
                yield from islice(READERS[kind](opened, layout), most)

        with open(copy + _REPORT, "w+", encoding="utf-8", errors="backslashreplace") as report:
            survey = convert_rows(
                rows,
                copy,
                "code_points",
                report,
                counts,
                self.documents,
                (layout.id, layout.question, layout.context, layout.answers),
            )
        # Whoever wants rows left out should know it: a run loses none.
        left_out = sum(counts[name] for name in counts if name.startswith("left_out_"))
        if left_out:
            raise Refused(
                f"--input: {file.path}: {left_out} rows can't be read, such as {survey.first}; "
                f"`python -m pipeline.convert import --input {file.path} --output ROWS.parquet` "
                "leaves them out and lists them"
            )
        if state_of(file.path) != file.state:
            raise Refused(f"--input: {file.path} was changed while it was read")
        # Without any answers in the file, nothing is to be said of them.
        survey = replace(survey, documents=self.documents or not survey.answers)
        report_path = RunFiles(self.output).copy(name) + _REPORT
        for finding in import_summary(counts, survey, layout.answers, report_path):
            _log.info("%s: %s", file.path, finding)
        return replace(file, copy=copy)


def publish_copies(files: Sequence[InputFile], output: str) -> tuple[InputFile, ...]:
    """Put the copies of files into the output. Return the files with their copies there."""
    published = []
    for file in files:
        if file.copy:
            name = PurePosixPath(file.copy).name
            target = RunFiles(output).copy(name)
            # The copy goes last: where it exists, nothing is missing.
            if file.copy != target:
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
