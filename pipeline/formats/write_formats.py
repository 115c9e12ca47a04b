"""Write a finished run of annotate row by row as SQuAD JSON, predictions.json or JSON lines."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa

from model.audit.golds import golds_of
from pipeline.formats.finished import FinishedRun, open_run
from pipeline.job.options import Refused
from transforms.plan_chunks import ANSWERS, is_answers
from transforms.storage import StorageError, building, join

PREDICTIONS, NA_PROB = "predictions.json", "na_prob.json"
ALL_ANSWERS = "all_answers"
"""The column and the option of this name, and the value of --answers."""


def write_squad(run: str, output: str, answers: str = "predicted") -> str:
    """Write SQuAD 2.0 JSON and return a summary in words.

    Consecutive rows of one title become an article, those of one context a paragraph. Rows that
    the format can't hold, that is rejected ones and those without golds, are left out and counted.

    answers  "predicted" for the run's own answers, "all_answers" for all of them if the run has
             this option, else the name of a column of golds

    Raises Refused for a run that is not a finished one of annotate, or lacks a needed column.
    """
    finished = annotated(run)
    # All needed columns must exist before anything is written.
    question = "" if finished.question_answers else needed(finished, "question")
    context, identifier = needed(finished, "context"), needed(finished, "id")
    several = answers == ALL_ANSWERS and finished.configuration.get(ALL_ANSWERS) is not None
    golds = None if several or answers == "predicted" else answers
    if golds and finished.question_answers:
        raise Refused(f"--answers={golds}: {run} asked a question list, which has no golds")
    if golds and golds not in finished.columns:
        raise Refused(f"--answers={golds}: {run} has the columns {', '.join(finished.columns)}")
    if golds and not is_answers(finished.schema.field(golds).type):
        raise Refused(
            f"--answers={golds}: it is {finished.schema.field(golds).type}, not {ANSWERS}"
        )
    # Only these columns are read, row by row.
    title = "title" if "title" in finished.columns else ""
    inputs = list(filter(None, (identifier, question, context, title, golds)))
    shown = [ALL_ANSWERS] if several else ["answer_text", "answer_start"]
    outputs = [] if golds else [*shown, "status"]
    written, left_out = 0, 0

    def questions() -> Iterator[tuple[str, str, dict[str, Any]]]:
        nonlocal written, left_out
        for row, answer in finished.answers(inputs, outputs):
            listed = _golds(row[golds]) if golds else _predicted(answer, several)
            asked = row[question] if question else answer["question"]
            if listed is None or row[context] is None or asked is None:
                left_out += 1
                continue
            written += 1
            qa = {
                "id": _key(row[identifier], answer),
                "question": asked,
                "answers": listed,
                "is_impossible": not listed,
            }
            yield str(row.get(title) or ""), row[context], qa

    with building(output) as path, open(path, "w", encoding="utf-8") as file:
        _write_articles(file, questions())
    return f"{written} questions: {output}; {left_out} rows left out"


def _golds(value: Any) -> list[dict[str, Any]] | None:
    """Return a row's golds as SQuAD JSON has them; None if they are missing or malformed."""
    answers = golds_of(value)
    texts, starts = (answers["text"], answers["answer_start"]) if answers else (None, None)
    if texts is None or starts is None or len(texts) != len(starts):
        return None
    if None in texts or None in starts:
        return None
    return [
        {"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)
    ]


def _predicted(answer: Mapping[str, Any], several: bool) -> list[dict[str, Any]] | None:
    """Return an answer, or all if `several`, as SQuAD JSON has it; None for a rejected row."""
    if answer["status"] == "rejected":
        return None
    if several:
        return [
            {"text": each["text"], "answer_start": each["start"]} for each in answer[ALL_ANSWERS]
        ]
    if answer["status"] != "answered":
        return []
    return [{"text": answer["answer_text"], "answer_start": answer["answer_start"]}]


def _key(identifier: Any, answer: Mapping[str, Any]) -> str:
    """Return the id of an answer: that of its row, or the JSON array of this and `question_id`.

    No two pairs of ids have the same array, as they could if they were joined by a character.
    """
    if "question_id" not in answer:
        return str(identifier)
    return _json([str(identifier), answer["question_id"]])


def _write_articles(file: IO[str], questions: Iterator[tuple[str, str, dict[str, Any]]]) -> None:
    """Write `data[].paragraphs[].qas[]` from (title, context, question with answers).

    Articles and paragraphs are opened and closed as titles and contexts change.
    """
    # An article or paragraph is closed when the next one begins, since rows are seen only once.
    last: tuple[str, str] | None = None
    file.write('{"version": "v2.0", "data": [')
    for title, context, qa in questions:
        if last is None or last[0] != title:
            file.write("]}]}, " if last else "")
            file.write(f'\n{{"title": {_json(title)}, "paragraphs": [')
        if last != (title, context):
            file.write("]}, " if last and last[0] == title else "")
            file.write(f'\n {{"context": {_json(context)}, "qas": [')
        else:
            file.write(", ")
        file.write(f"\n  {_json(qa)}")
        last = title, context
    file.write("]}]}" if last else "")
    file.write("]}\n")


def write_predictions(run: str, output: str) -> str:
    """Write the two files of SQuAD's evaluation scripts and return a summary in words.

    predictions.json  id -> text, "" for no answer and for rejected rows
    na_prob.json      id -> probability of no answer: the null probability, 0 if the null option is
                      off, 1 for a rejected row

    For a question list, ids are those of `_key`.

    Raises Refused for a run that is not a finished one of annotate, and if two rows have one id,
    because a JSON object can't hold both.
    """
    finished = annotated(run)
    names = ["answer_text", "null_probability", "status"]
    identifier = needed(finished, "id")
    # JSON is written by hand, because an object of all rows would not fit in memory.
    hashes = array("q")  # of all ids, to find repeated ones in 8 bytes a row
    with (
        building(join(output, PREDICTIONS)) as predictions,
        building(join(output, NA_PROB)) as na_prob,
        open(predictions, "w", encoding="utf-8") as texts,
        open(na_prob, "w", encoding="utf-8") as probabilities,
    ):
        for row, answer in finished.answers([identifier], names):
            text, null, status = (answer[name] for name in names)
            name = _key(row[identifier], answer)
            opening = ",\n" if hashes else "{"
            hashes.append(hash(name))
            texts.write(f"{opening}{_json(name)}: {_json(text or '')}")
            probabilities.write(
                f"{opening}{_json(name)}: {1.0 if status == 'rejected' else null or 0.0}"
            )
        for file in (texts, probabilities):
            file.write("}\n" if hashes else "{}\n")
        # Raising inside the `with` removes both files.
        repeated = len(hashes) - len(np.unique(np.frombuffer(hashes, np.int64)))
        if repeated:
            raise Refused(
                f"--run={run}: {repeated} rows have the id of another row: "
                f"{PREDICTIONS} can't hold both"
            )
    return f"{len(hashes)} predictions: {output}"


def write_jsonl(run: str, output: str) -> str:
    """Write all columns of all rows, one JSON object a line, and return a summary in words.

    Numbers that are not finite become null, bytes become hexadecimal.
    """
    finished = annotated(run)
    count = 0
    with building(output) as path, open(path, "w", encoding="utf-8") as file:
        for row in finished.rows(finished.columns):
            file.write(_json(_plain(row)) + "\n")
            count += 1
    return f"{count} rows: {output}"


WRITERS: dict[str, Callable[..., str]] = {
    "squad": write_squad,
    "predictions": write_predictions,
    "jsonl": write_jsonl,
}
"""Format -> function of (run, output), for squad also of answers, that returns a summary."""


def annotated(run: str, option: str = "--run=") -> FinishedRun:
    """Open a run. Raises Refused for one that is not a finished run of annotate.

    option  what goes before the folder in messages
    """
    try:
        finished = open_run(run)
    except (Refused, StorageError, OSError, pa.ArrowException) as error:
        raise Refused(f"{option}{run}: {error}") from error
    if finished.stage != "annotate":
        raise Refused(
            f"{option}{run} is an output of {finished.stage}: only those of annotate can be "
            "converted"
        )
    # The manifest is written last, so that a run without one did not finish.
    if not finished.state:
        raise Refused(f"{option}{run} has no manifest: the run did not finish")
    return finished


def needed(finished: FinishedRun, kind: str) -> str:
    """Return the name of an input column. Raises Refused if the run did not keep it."""
    name = finished.input(kind)
    if name is None:
        raise Refused(
            f"--run={finished.folder} did not keep its column "
            f"{finished.configuration[f'{kind}_column']!r}"
        )
    return name


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    # JSON has no NaN and no infinity.
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, str | int) else str(value)
