"""Read the answers of a finished run: all probabilities in one pass, texts of the drawn ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.formats.finished import FinishedRun, open_run
from pipeline.job.options import Refused
from transforms.read_examples import read_rows
from transforms.storage import open_parquet, read

_BATCH_ROWS = 1 << 14


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one state of a run from another.

    run      fingerprint in run.json
    content  digest of all answers, in manifest.json
    """

    run: str
    content: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with what a person needs to judge it.

    id           of the row; "" if the run did not keep its column
    start, end   of the answer in the context, code points
    probability  in [0, 1]
    """

    id: str
    question: str
    context: str
    start: int
    end: int
    probability: float


def open_annotated(folder: str) -> tuple[FinishedRun, Identity]:
    """Open an output of annotate. Raises Refused for another stage, and for an unfinished run."""
    run = open_run(folder)
    if run.stage != "annotate":
        raise Refused(f"{folder} is an output of {run.stage}: answers of annotate are reviewed")
    # The manifest is written last, and it has the digest of the answers.
    if not run.state:
        raise Refused(f"{folder} has no manifest: the run did not finish")
    fingerprint = json.loads(read(run.files.run))["run"]
    content = json.loads(read(run.files.manifest))["content"]
    return run, Identity(fingerprint, content)


def answers_of(run: FinishedRun) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the probabilities and the places of the answers given, in order, batch by batch.

    Reads two columns.

    Yields float64 [answers], and int64 [answers, 2]: index of the part, row in it.
    """
    probability, status = run.output("probability"), run.output("status")
    for number, part in enumerate(run.parts):
        first = 0
        with open_parquet(run.files.part(part)) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=[probability, status]):
                answered = pc.equal(batch.column(status), "answered").fill_null(False)
                rows = np.flatnonzero(answered.to_numpy(zero_copy_only=False))
                values = batch.column(probability).take(pa.array(rows))
                places = np.stack([np.full(len(rows), number), first + rows], axis=1)
                yield values.to_numpy(zero_copy_only=False).astype(np.float64), places
                first += batch.num_rows


def read_answers(run: FinishedRun, places: np.ndarray) -> list[Answer]:
    """Return the answers at some places, in order.

    places  int64 [answers, 2], as `answers_of` yields them

    Raises Refused if the run did not keep question or context, or if a row can't be read.
    """
    kept = {kind: run.input(kind) for kind in ("id", "question", "context")}
    for kind in ("question", "context"):
        if kept[kind] is None:
            raise Refused(
                f"{run.folder} did not keep its column "
                f"{run.configuration[f'{kind}_column']!r}, without which nobody can judge an answer"
            )
    outputs = [run.output(name) for name in ("answer_start", "answer_end", "probability")]
    wanted = [(run.files.part(run.parts[part]), row) for part, row in places.tolist()]
    rows = read_rows(wanted, [name for name in kept.values() if name] + outputs)
    answers = []
    for path, row in wanted:
        values = rows.get((path, row))
        if values is None:
            raise Refused(f"row {row} of {path} can't be read")
        answers.append(_answer(values, kept, outputs))
    return answers


def _answer(values: dict[str, Any], kept: dict[str, str | None], outputs: list[str]) -> Answer:
    texts = {kind: values[name] if name else None for kind, name in kept.items()}
    return Answer(
        "" if texts["id"] is None else str(texts["id"]),
        texts["question"] or "",
        texts["context"] or "",
        *(values[name] for name in outputs),
    )
