"""Relabel: writes suspected label errors for people to judge, and reads their decisions.

The formats are `relabel.csv`, for spreadsheets, and the JSON of Label Studio.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transforms.label_studio import each_task, is_export
from transforms.read_examples import Example, RowPlace
from transforms.records import CorrectedGold, Correction
from transforms.report.passages import excerpts
from transforms.run_files import RunFiles
from transforms.spreadsheets import SpreadsheetError, as_text, csv_bytes, csv_rows, guard, unguard
from transforms.storage import read

FILLED_IN = ("decision", "corrected_text", "corrected_start")
"""The columns that people fill in."""

COLUMNS = (
    *(
        "id",
        "question",
        "passage",
        "gold",
        "gold_start",
        "gold_end",
        "prediction",
        "prediction_start",
        "prediction_end",
    ),
    *("label_error", "reason", *FILLED_IN),
)
DECISIONS = ("gold", "prediction", "unanswerable", "other")


class CorrectionsError(ValueError):
    """A file of corrections can't be used; the message says where."""


_LAST = 2**31 - 1
"""The last code point at which a gold may start: `answer_start` is int32."""


def relabel_csv(
    suspects: Sequence[Mapping[str, Any]], examples: Mapping[RowPlace, Example]
) -> bytes:
    """Return `relabel.csv`: one line per suspect.

    A person fills in `decision` and the columns after it.
    """
    return csv_bytes(COLUMNS, _rows(suspects, examples))


def _rows(
    suspects: Sequence[Mapping[str, Any]], examples: Mapping[RowPlace, Example]
) -> Iterator[dict[str, Any]]:
    """Yield the row of each suspect."""
    for entry in suspects:
        # The text is missing if the input could not be read again.
        example = examples.get((entry["path"], entry["row"]))
        context = example.context if example else ""
        spans = [(entry[f"{name}_start"], entry[f"{name}_end"]) for name in ("gold", "prediction")]
        parts = excerpts(context, [span for span in spans if span[0] is not None])
        texts = {
            "id": entry["id"] or "",
            "question": example.question if example else entry["question"],
            "passage": _with_gaps(context, parts) if context else "",
            "gold": " | ".join(entry["gold"]),
            "prediction": entry["prediction"],
        }
        # Texts are guarded against formulas; numbers need no guard.
        yield {
            **dict.fromkeys(COLUMNS, ""),
            **{name: entry[name] for name in COLUMNS if name in entry},
            **{name: guard(text) for name, text in texts.items()},
            "label_error": round(entry["label_error"], 3),
            "reason": entry["label_error_reason"],
        }


def _with_gaps(context: str, parts: Sequence[tuple[int, int]]) -> str:
    """Return parts of a text, with an ellipsis wherever text is left out."""
    before, after = "… " if parts[0][0] > 0 else "", " …" if parts[-1][1] < len(context) else ""
    return before + " … ".join(context[low:high] for low, high in parts) + after


def label_studio(
    suspects: Sequence[Mapping[str, Any]], examples: Mapping[RowPlace, Example]
) -> bytes:
    """Return tasks for Label Studio, with gold and prediction as two pre-annotations.

    Label Studio counts code points, like Spanmill.
    """
    tasks: list[dict[str, Any]] = []
    for entry in suspects:
        example = examples.get((entry["path"], entry["row"]))
        if example is None:
            continue
        data: dict[str, Any] = {
            "id": entry["id"],
            "question": example.question,
            "context": example.context,
        }
        data |= {"label_error": entry["label_error"], "reason": entry["label_error_reason"]}
        predictions = []
        for name, score in (
            ("gold", entry["gold_probability"]),
            ("prediction", entry["probability"]),
        ):
            start, end = entry[f"{name}_start"], entry[f"{name}_end"]
            if start is not None and end is not None:
                value = {
                    "start": start,
                    "end": end,
                    "text": example.context[start:end],
                    "labels": ["Answer"],
                }
                result = {
                    "from_name": "answer",
                    "to_name": "context",
                    "type": "labels",
                    "value": value,
                }
                predictions.append({"model_version": name, "score": score, "result": [result]})
        tasks.append({"data": data, "predictions": predictions})
    return json.dumps(tasks, indent=1, ensure_ascii=False).encode("utf-8", "replace")


def is_filled_in(path: str) -> bool:
    """Return whether a relabel.csv or a Label Studio export exists and holds people's work.

    A file that breaks off before any work, as after a torn write, holds none.
    """
    try:
        # A spreadsheet may have saved it in another encoding: the cells are still where they were.
        text = as_text(read(path), "replace")
        if is_export(text):
            return any(task.get("annotations") for task in json.loads(text))
        rows = csv_rows(text, ("decision",), RunFiles.RELABEL_CSV)
        return any((row.get(name) or "").strip() for _, row in rows for name in FILLED_IN)
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return False


def read_corrections(content: bytes) -> dict[str, Correction]:
    """Return the corrections in a filled-in relabel.csv or a Label Studio export, by id.

    Rows without a decision, and rows whose gold is confirmed, have no correction.

    Raises CorrectionsError for a file that is neither, for an unknown decision, and for an id that
    is missing or decided twice.
    """
    try:
        text = as_text(content)
    except UnicodeDecodeError as error:
        raise CorrectionsError(f"it is neither UTF-8 nor UTF-16: {error}") from error
    decisions: dict[str, Correction | None] = {}
    parse = _from_label_studio if is_export(text) else _from_csv
    for where, row_id, correction in parse(text):
        if not row_id:
            raise CorrectionsError(f"{where}: there is a decision, but no id of a row")
        if row_id in decisions:
            raise CorrectionsError(f"{where}: the id {row_id!r} is decided twice")
        decisions[row_id] = correction
    corrections = {}
    for row_id, correction in decisions.items():
        if correction is not None:
            corrections[row_id] = correction
    return corrections


def _from_csv(text: str) -> Iterator[tuple[str, str, Correction | None]]:
    """Yield (line, id, correction) of the rows that are decided; None: the gold is right."""
    try:
        yield from _decisions(csv_rows(text, ("id", "decision"), RunFiles.RELABEL_CSV))
    except SpreadsheetError as error:
        raise CorrectionsError(str(error)) from error


def _decisions(
    rows: Iterator[tuple[str, dict[str, Any]]],
) -> Iterator[tuple[str, str, Correction | None]]:
    """Yield (line, id, correction) of the rows that are decided."""
    for where, row in rows:
        decision = (row["decision"] or "").strip().lower()
        if not decision:
            continue
        if decision not in DECISIONS:
            raise CorrectionsError(
                f"{where}: decision {decision!r} is not one of {', '.join(DECISIONS)}"
            )
        yield where, unguard(row["id"]), _decided(decision, row, where)


def _decided(decision: str, row: Mapping[str, str | None], where: str) -> Correction | None:
    """Return the correction of a decision, None if the gold is right."""
    if decision == "gold":
        return None
    if decision == "unanswerable":
        return ()
    if decision == "prediction":
        start, end = (_number(row, f"prediction_{side}", where) for side in ("start", "end"))
        if start is None and end is None:
            if row.get("prediction_start") is None or row.get("prediction"):
                raise CorrectionsError(
                    f"{where}: decision 'prediction' needs prediction_start and prediction_end"
                )
            return ()  # the model predicted that there is no answer
        try:
            span = _range(start, end)
        except ValueError as error:
            raise CorrectionsError(f"{where}: {error}") from error
        return ((unguard(row.get("prediction") or "") or None, *span),)
    # decision is "other"
    corrected = row.get("corrected_text") or ""
    if not corrected.strip():
        raise CorrectionsError(f"{where}: decision 'other' needs a corrected_text")
    return ((corrected, _number(row, "corrected_start", where), None),)


def _number(row: Mapping[str, str | None], name: str, where: str) -> int | None:
    """Return a code point offset, None for an empty cell. Raises CorrectionsError."""
    text = (row.get(name) or "").strip()
    if text and not text.isdecimal():
        raise CorrectionsError(f"{where}: {name} {text!r} is not a whole number")
    number = int(text) if text else None
    if number is not None and number > _LAST:
        raise CorrectionsError(f"{where}: {name} {text}: a start is at most {_LAST}")
    return number


def _range(start: Any, end: Any) -> tuple[int, int]:
    """Return the ends of a span. Raises ValueError if they are missing or out of range."""
    if start is None or end is None or not 0 <= int(start) < int(end) <= _LAST:
        raise ValueError(f"{start} to {end} is not a span")
    return int(start), int(end)


def _from_label_studio(text: str) -> Iterator[tuple[str, str, Correction | None]]:
    """Yield (task, id, correction) of the tasks that are decided."""
    try:
        for where, (row_id, correction) in each_task(text, _task_decision):
            if correction is not None:
                yield where, row_id, correction
    except ValueError as error:
        raise CorrectionsError(str(error)) from error


def _task_decision(
    data: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> tuple[str, Correction | None]:
    """Return the id of a task, and the correction that its results are; None: undecided."""
    marks = []
    for value in (each["value"] for each in results if each["type"] == "labels"):
        marks.append((*_range(value["start"], value["end"]), value.get("text")))
    context = data.get("context")
    marks.sort(key=lambda mark: mark[:2])
    correction = tuple(_marked(*mark, context) for mark in marks)
    no_answer = any(each["type"] == "choices" for each in results)
    return str(data["id"] or ""), correction if correction or no_answer else None


def _marked(start: int, end: int, text: Any, context: Any) -> CorrectedGold:
    """Return the gold of a marked span: the span and its text, unless the mark names another one.

    Some versions of Label Studio count an emoji as two characters. Text and start are kept as they
    are then, so that the gold counts as misaligned. White space is not compared, because Label
    Studio changes the ends of lines.
    """
    if not isinstance(text, str):
        text = None
    if not isinstance(context, str):
        return text, start, end
    judged = context[start:end]
    if text is not None and without_blanks(text) != without_blanks(judged):
        return text, start, None
    return judged or None, start, end


def without_blanks(text: str) -> str:
    """Return a text without white space, nor the `\\n` that Label Studio writes for a line end."""
    return "".join(text.replace("\\n", "").split())
