"""The files of a review set: a spreadsheet, tasks for Label Studio, and how the set was drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.job.options import Refused
from pipeline.review.answers import DrawnAnswer, Identity
from pipeline.review.strata import Stratum
from transforms.label_studio import each_task, is_export
from transforms.spreadsheets import SpreadsheetError, as_text, csv_bytes, csv_rows, guard
from transforms.storage import building, exists, join, read

SHEET, TASKS, DRAWN = "review.csv", "review.json", "sample.json"

MARKS = ("yes", "no", "unsure")

_COLUMNS = (
    *("number", "set", "id", "question_id", "question", "answer", "passage"),
    *("probability", "stratum", "weight", "right", "note"),
)
_AROUND = 240
"""Code points of the passage on either side of an answer."""


@dataclass(frozen=True)
class ReviewSet:
    """A drawn sample.

    identity  of the run that it was drawn from
    seed      of the draw
    stratum   stratum of each drawn answer, from 0; answers are numbered from 1 in this order
    places    where each drawn answer is, as `pipeline.review.answers.probabilities_of` yields it
    """

    identity: Identity
    seed: int
    strata: tuple[Stratum, ...]
    stratum: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """Return a name that differs if anything about the set does, and is not a number."""
        return f"set-{hashlib.sha256(self._content().encode()).hexdigest()[:12]}"

    def _content(self) -> str:
        return json.dumps(asdict(self))

    def to_json(self) -> bytes:
        """Return the content of `sample.json`."""
        content = {"set": self.name, **json.loads(self._content())}
        return json.dumps(content, indent=1).encode()

    @staticmethod
    def from_json(content: bytes) -> ReviewSet:
        """Return the set of a `sample.json`. Raises ValueError for another file."""
        parsed = json.loads(content)
        try:
            drawn = ReviewSet(
                Identity(**parsed["identity"]),
                parsed["seed"],
                tuple(Stratum(**each) for each in parsed["strata"]),
                tuple(parsed["stratum"]),
                tuple(map(tuple, parsed["places"])),
            )
            intact = drawn.name == parsed["set"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"it does not describe a sample: {error!r}") from error
        if not intact:
            raise ValueError("it has been changed since it was written")
        return drawn


def write_set(folder: str, drawn: ReviewSet, answers: Sequence[DrawnAnswer]) -> None:
    """Write the three files of a review set. Raises Refused if the folder has one of them."""
    contents = {
        SHEET: csv_bytes(_COLUMNS, _lines(drawn, answers)),
        TASKS: _tasks(drawn, answers),
        DRAWN: drawn.to_json(),
    }
    for name in contents:
        if exists(join(folder, name)):
            raise Refused(
                f"--output={folder} has a {name}, which somebody may be filling in: move it away, "
                "or give another --output"
            )
    for name, content in contents.items():
        with building(join(folder, name)) as path, open(path, "wb") as file:
            file.write(content)


def read_set(folder: str) -> ReviewSet:
    """Read how a set was drawn. Raises Refused."""
    path = join(folder, DRAWN)
    if not exists(path):
        raise Refused(f"--output={folder} has no {DRAWN}: it is not a folder with a review set")
    try:
        return ReviewSet.from_json(read(path))
    except ValueError as error:
        raise Refused(f"{path}: {error}") from error


def _lines(drawn: ReviewSet, answers: Sequence[DrawnAnswer]) -> Iterator[dict[str, Any]]:
    """Yield the lines of the spreadsheet. Texts of the corpus are guarded against formulas."""
    for number, (answer, stratum) in enumerate(zip(answers, drawn.stratum, strict=True), 1):
        yield {
            "number": number,
            "set": drawn.name,
            "id": guard(answer.id),
            "question_id": guard(answer.question_id),
            "question": guard(answer.question),
            "answer": guard(answer.context[answer.start : answer.end]),
            "passage": guard(_excerpt(answer)),
            "probability": round(answer.probability, 4),
            "stratum": stratum + 1,
            "weight": round(drawn.strata[stratum].weight, 4),
            "right": "",
            "note": "",
        }


def _excerpt(answer: DrawnAnswer) -> str:
    """Return the passage around the answer, which is between « and »."""
    context, start, end = answer.context, answer.start, answer.end
    low, high = max(0, start - _AROUND), min(len(context), end + _AROUND)
    before, after = "… " if low else "", " …" if high < len(context) else ""
    return f"{before}{context[low:start]}«{context[start:end]}»{context[end:high]}{after}"


def _tasks(drawn: ReviewSet, answers: Sequence[DrawnAnswer]) -> bytes:
    """Return the tasks for Label Studio, with the answer as a pre-annotation of the context."""
    tasks = []
    for number, (answer, stratum) in enumerate(zip(answers, drawn.stratum, strict=True), 1):
        value = {
            "start": answer.start,
            "end": answer.end,
            "text": answer.context[answer.start : answer.end],
            "labels": ["Answer"],
        }
        result = {"from_name": "answer", "to_name": "context", "type": "labels", "value": value}
        data = {
            "number": number,
            "set": drawn.name,
            "id": answer.id,
            "question_id": answer.question_id,
            "question": answer.question,
            "context": answer.context,
            "probability": answer.probability,
            "stratum": stratum + 1,
        }
        prediction = {"model_version": "run", "score": answer.probability, "result": [result]}
        tasks.append({"data": data, "predictions": [prediction]})
    return json.dumps(tasks, indent=1, ensure_ascii=False).encode("utf-8", "replace")


def read_marks(content: bytes, drawn: ReviewSet) -> dict[int, str]:
    """Return what a filled-in review.csv or a Label Studio export says, by number of the answer.

    "yes", "no" and "unsure"; answers without a mark are left out.

    Raises ValueError for another file or another set, for unknown marks, and for numbers that are
    unknown or occur twice; the message says where.
    """
    # Spreadsheets also save in the encoding of their country. What is read of it is ASCII.
    text = as_text(content, "replace")
    marks: dict[int, str] = {}
    seen: set[int] = set()
    parse = _from_label_studio if is_export(text) else _from_csv
    for where, row, mark in parse(text):
        if str(row.get("set")) != drawn.name:
            raise ValueError(f"{where}: it is of {row.get('set')!r}, not of {drawn.name!r}")
        number = str(row.get("number"))
        if not number.isdecimal() or not 1 <= int(number) <= len(drawn.stratum):
            raise ValueError(f"{where}: no answer of the set has the number {number!r}")
        if int(number) in seen:
            raise ValueError(f"{where}: the number {number} occurs twice")
        seen.add(int(number))
        if mark and mark not in MARKS:
            raise ValueError(f"{where}: right {mark!r} is not one of {', '.join(MARKS)}")
        if mark:
            marks[int(number)] = mark
    return marks


def _from_csv(text: str) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Yield (line, row, mark) of the lines of a spreadsheet that are not empty."""
    try:
        for where, row in csv_rows(text, ("number", "set", "right"), SHEET):
            if any(row.get(name) for name in _COLUMNS):
                yield where, row, (row["right"] or "").strip().lower()
    except SpreadsheetError as error:
        raise ValueError(str(error)) from error


def _from_label_studio(text: str) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Yield (task, its data, mark) of the tasks of an export."""
    for where, (data, mark) in each_task(text, _chosen):
        yield where, data, mark


def _chosen(
    data: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], str]:
    """Return the data of a task and what was chosen, "" for nothing."""
    chosen = [each["value"]["choices"][0] for each in results if each["type"] == "choices"]
    return dict(data), "".join(map(str, chosen))
