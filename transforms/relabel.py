"""Suspected label errors out to people who judge them, and their judgement back: `relabel.csv` and Label Studio's JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transforms.read_examples import Example, Place
from transforms.records import CorrectedGold, Correction
from transforms.report.passages import excerpts

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
    *("label_error", "reason", "decision", "corrected_text", "corrected_start"),
)
DECISIONS = ("gold", "prediction", "unanswerable", "other")

_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

csv.field_size_limit(2**31 - 1)


class CorrectionsError(ValueError):
    """A file of corrections that can't be used; the message says where."""


_LAST = 2**31 - 1
"""The last character that a gold may start at: `answer_start` is int32."""


def guard(text: str) -> str:
    """A text that no spreadsheet takes for a formula (OWASP, CSV injection): an apostrophe stands before it."""
    return "'" + text if text.startswith((*_FORMULA_SIGNS, "'")) else text


def unguard(text: str) -> str:
    """The text that `guard` was given."""
    return text[1:] if text.startswith("'") else text


def relabel_csv(suspects: Sequence[Mapping[str, Any]], examples: Mapping[Place, Example]) -> bytes:
    """One line per suspect for a spreadsheet; `decision` and what follows is left for a person to fill in."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for entry in suspects:
        example = examples.get((entry["path"], entry["row"]))
        context = example.context if example else ""
        spans = [(entry[f"{name}_start"], entry[f"{name}_end"]) for name in ("gold", "prediction")]
        parts = excerpts(len(context), [span for span in spans if span[0] is not None])
        texts = {
            "id": entry["id"] or "",
            "question": example.question if example else entry["question"],
            "passage": _with_gaps(context, parts) if context else "",
            "gold": " | ".join(entry["gold"]),
            "prediction": entry["prediction"],
        }
        values: dict[str, Any] = {
            **dict.fromkeys(COLUMNS, ""),
            **{name: entry[name] for name in COLUMNS if name in entry},
            **{name: guard(text) for name, text in texts.items()},
            "label_error": round(entry["label_error"], 3),
            "reason": entry["label_error_reason"],
        }
        writer.writerow(["" if values[name] is None else values[name] for name in COLUMNS])
    return out.getvalue().encode("utf-8-sig", "replace")  # the mark tells Excel that it is UTF-8


def _with_gaps(context: str, parts: Sequence[tuple[int, int]]) -> str:
    """Parts of a text with a sign wherever some of it is left out."""
    before, after = "… " if parts[0][0] > 0 else "", " …" if parts[-1][1] < len(context) else ""
    return before + " … ".join(context[low:high] for low, high in parts) + after


def label_studio(suspects: Sequence[Mapping[str, Any]], examples: Mapping[Place, Example]) -> bytes:
    """Tasks for Label Studio, gold and prediction as two pre-annotations. It counts code points too."""
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


def read_corrections(content: bytes) -> dict[str, Correction]:
    """The corrections of a filled-in relabel.csv or of a Label Studio export, by id. Undecided rows have none.

    Raises CorrectionsError for a file that is neither, a decision that is none, and an id that is missing or decided twice.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorrectionsError(f"it is no UTF-8: {error}") from error
    found: dict[str, Correction] = {}
    for where, row_id, correction in (
        _from_label_studio if text.lstrip().startswith("[") else _from_csv
    )(text):
        if not row_id:
            raise CorrectionsError(f"{where}: it is decided, but has no id to know the row by")
        if row_id in found:
            raise CorrectionsError(f"{where}: the id {row_id!r} is decided twice")
        found[row_id] = correction
    return {row_id: correction for row_id, correction in found.items() if correction is not None}


def _from_csv(text: str) -> Iterator[tuple[str, str, Any]]:
    head = text.partition("\n")[0]
    delimiter = (
        ";" if ";" in head and "," not in head else ","
    )  # what spreadsheets save where the comma is decimal
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=delimiter, restval="", strict=True
    )
    missing = [name for name in ("id", "decision") if name not in (reader.fieldnames or ())]
    if missing:
        raise CorrectionsError(
            f"it has no column {missing[0]!r}: it is neither a relabel.csv nor a Label Studio export"
        )
    for row in _rows(reader):
        where = f"line {reader.line_num}"
        decision = (row["decision"] or "").strip().lower()
        if not decision:
            continue
        if decision not in DECISIONS:
            raise CorrectionsError(
                f"{where}: decision {decision!r} is none of {', '.join(DECISIONS)}"
            )
        yield where, unguard(row["id"]), _decided(decision, row, where)


def _rows(reader: csv.DictReader[str]) -> Iterator[dict[str, Any]]:
    try:
        yield from reader
    except csv.Error as error:
        raise CorrectionsError(f"line {reader.line_num}: {error}") from error


def _decided(decision: str, row: Mapping[str, str | None], where: str) -> Correction | None:
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
            return ()  # the model's decision was that there is no answer
        return ((None, *_range(start, end, where)),)
    corrected = row.get("corrected_text") or ""
    if not corrected.strip():
        raise CorrectionsError(f"{where}: decision 'other' needs a corrected_text")
    return ((corrected, _number(row, "corrected_start", where), None),)


def _number(row: Mapping[str, str | None], name: str, where: str) -> int | None:
    text = (row.get(name) or "").strip()
    if text and not text.isdecimal():
        raise CorrectionsError(f"{where}: {name} {text!r} is no whole number")
    number = int(text) if text else None
    if number is not None and number > _LAST:
        raise CorrectionsError(f"{where}: {name} {text}: a start is at most {_LAST}")
    return number


def _range(start: Any, end: Any, where: str) -> tuple[int, int]:
    """A span's characters. Raises CorrectionsError unless they are some."""
    if start is None or end is None or not 0 <= int(start) < int(end) <= _LAST:
        raise CorrectionsError(f"{where}: from {start} to {end} is no span")
    return int(start), int(end)


def _from_label_studio(text: str) -> Iterator[tuple[str, str, Any]]:
    try:
        tasks = json.loads(text)
    except ValueError as error:
        raise CorrectionsError(f"it is no JSON: {error}") from error
    for place, task in enumerate(tasks, 1):
        where = f"task {place}"
        try:
            done = [each for each in task.get("annotations", []) if not each.get("was_cancelled")]
            results = done[-1]["result"] if done else []
            spans = [each["value"] for each in results if each["type"] == "labels"]
            marks = [
                (*_range(value["start"], value["end"], where), value.get("text")) for value in spans
            ]
            context = task["data"].get("context")
            correction = tuple(
                _marked(*mark, context) for mark in sorted(marks, key=lambda mark: mark[:2])
            )
            nothing = any(each["type"] == "choices" for each in results)
            row_id = str(task["data"]["id"] or "")
        except CorrectionsError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise CorrectionsError(
                f"{where} is no task of a Label Studio export: {error!r}"
            ) from error
        if correction or nothing:
            yield where, row_id, correction


def _marked(start: int, end: int, text: Any, context: Any) -> CorrectedGold:
    """A span that was marked: what stands there, unless the mark says that it is another text. Some versions of Label Studio
    count an emoji as two; then text and start are kept as they are, and the row is misaligned by name.

    White space is not compared: Label Studio writes a line end in its own way.
    """
    known = isinstance(text, str) and isinstance(context, str)
    if known and _without_blanks(text) != _without_blanks(context[start:end]):
        return text, start, None
    return None, start, end


def _without_blanks(text: str) -> str:
    return "".join(text.replace("\\n", "").split())
