"""The question list of a job: read, checked, and what follows from it for the units of work."""

from __future__ import annotations

import logging
from dataclasses import replace

from model.reading.question_list import MOST_ASKS, QuestionList, QuestionListError
from model.reading.span_reader import SpanReader
from pipeline.bundled import QUESTIONS
from pipeline.formats.read_questions import read_questions
from pipeline.job.options import Refused
from pipeline.job.settings import Columns, Files, WorkSettings
from transforms.storage import absolute

_log = logging.getLogger("spanmill")


def question_list(files: Files, columns: Columns, audited: bool) -> QuestionList | None:
    """Return the questions of --questions, None without the option.

    audited  whether the job audits: a list has no golds

    Raises Refused.
    """
    given = files.questions
    if not given:
        return None
    if audited:
        raise Refused(
            f"--questions={given}: an audit needs golds for every question; leave --audit out"
        )
    if columns.question_column != Columns.question_column:
        raise Refused(
            f"--question_column={columns.question_column}: with --questions, the questions come "
            "from the column 'question' of that file"
        )
    path = QUESTIONS if given == "bundled" else absolute(given)
    try:
        questions, ignored = read_questions(path)
    except Exception as error:  # each store and each decompressor raises errors of its own
        strerror = error.strerror if isinstance(error, OSError) else None
        reason = strerror or str(error) or type(error).__name__
        raise Refused(f"--questions={given}: {reason}") from error
    if ignored:
        _log.info("--questions=%s: ignoring its columns %s", given, ", ".join(ignored))
    return questions


def check_questions(questions: QuestionList, reader: SpanReader, files: Files) -> None:
    """Raise Refused for a question that the reader can't be asked."""
    try:
        reader.tokens_of(questions)
    except QuestionListError as error:
        raise Refused(f"--questions={files.questions}: {error}") from error


def with_chunk_rows(work: WorkSettings, questions: QuestionList | None) -> WorkSettings:
    """Return units of work with the rows per part resolved.

    Raises Refused for parts of more than MOST_ASKS answers.
    """
    if work.chunk_rows is None:
        rows = WorkSettings.chunk_rows if questions is None else questions.rows_at_once
        return replace(work, chunk_rows=rows)
    if questions is not None and work.chunk_rows * len(questions) > MOST_ASKS:
        raise Refused(
            f"--chunk_rows={work.chunk_rows}: with {len(questions)} questions, a part would hold "
            f"{work.chunk_rows * len(questions)} answers: give at most "
            f"{MOST_ASKS // len(questions)}"
        )
    return work
