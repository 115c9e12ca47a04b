"""Read the answers of a finished run: all probabilities in one pass, texts of the drawn ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.reading.tokenizer import consecutive
from pipeline.formats.finished import FinishedRun, open_run, read_manifest
from pipeline.job.options import Refused
from transforms.parquet_files import open_parquet
from transforms.read_examples import read_rows
from transforms.storage import read

_BATCH_ROWS = 1 << 14
_OUTPUTS = ("answer_start", "answer_end", "probability")


@dataclass(frozen=True, slots=True)
class Identity:
    """A state of a run: it changes if a rerun changes answers.

    run      fingerprint in run.json
    content  digest of all answers, in manifest.json
    """

    run: str
    content: str


@dataclass(frozen=True, slots=True)
class DrawnAnswer:
    """An answer with what a person needs to judge it.

    id           of the row; "" if the run did not keep its column
    question_id  of a run with a question list; else ""
    start, end   of the answer in the context, code points
    probability  in [0, 1]
    """

    id: str
    question_id: str
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
    return run, Identity(fingerprint, read_manifest(run.files)["content"])


def probabilities_of(run: FinishedRun) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the probabilities and the places of the answers given, in order, batch by batch.

    Reads two columns, or with a question list two fields of its column.

    Yields float64 [answers], and int64 [answers, 3]: index of the part, row in it, question (0 in a
    run without a question list).
    """
    listed = run.question_answers
    inside = f"{listed}.list.element." if listed else run.output("")
    columns = [f"{inside}probability", f"{inside}status"]
    for number, part in enumerate(run.parts):
        first = 0
        with open_parquet(run.files.part(part)) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                row, question, asks = _asks(batch, listed, columns)
                answered = pc.fill_null(pc.equal(asks[1], "answered"), False)
                at = np.flatnonzero(answered.to_numpy(zero_copy_only=False))
                probabilities = asks[0].take(pa.array(at)).to_numpy(zero_copy_only=False)
                places = [np.full(len(at), number), first + row[at], question[at]]
                yield probabilities.astype(np.float64), np.stack(places, axis=1)
                first += batch.num_rows


def _asks(
    batch: pa.RecordBatch, listed: str, columns: list[str]
) -> tuple[np.ndarray, np.ndarray, list[pa.Array]]:
    """Return the row and the question of each ask of a batch, and columns of the asks."""
    if not listed:
        rows = np.arange(batch.num_rows)
        return rows, np.zeros_like(rows), [batch.column(name) for name in columns]
    lists = batch.column(listed)
    structs = lists.flatten()
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(batch.num_rows), counts)
    names = [name.rpartition(".")[2] for name in columns]
    return rows, consecutive(0, counts), [pc.struct_field(structs, name) for name in names]


def read_drawn(run: FinishedRun, places: np.ndarray) -> list[DrawnAnswer]:
    """Return the answers at some places, in order.

    places  int64 [answers, 3], as `probabilities_of` yields them

    Raises Refused if the run did not keep question or context, or if a row can't be read.
    """
    listed = run.question_answers
    kept = {kind: run.input(kind) for kind in ("id", "question", "context")}
    if listed:
        del kept["question"]  # a column of that name was not asked
    for kind in kept.keys() - {"id"}:
        if kept[kind] is None:
            raise Refused(
                f"{run.folder} did not keep its column "
                f"{run.configuration[f'{kind}_column']!r}, without which nobody can judge an answer"
            )
    inputs = {kind: name for kind, name in kept.items() if name}
    outputs = [listed] if listed else [run.output(name) for name in _OUTPUTS]
    wanted = [(run.files.part(run.parts[part]), row) for part, row, _ in places.tolist()]
    rows = read_rows(wanted, [*inputs.values(), *outputs])
    answers = []
    for (path, row), question in zip(wanted, places[:, 2].tolist(), strict=True):
        values = rows.get((path, row))
        if values is None:
            raise Refused(f"row {row} of {path} can't be read")
        ask = {kind: values[name] for kind, name in inputs.items()}
        if listed:
            ask |= values[listed][question]
        else:
            ask |= {name: values[run.output(name)] for name in _OUTPUTS}
        answers.append(_answer(ask))
    return answers


def _answer(ask: dict[str, Any]) -> DrawnAnswer:
    """Return an answer, from its values by name; texts that are missing or not UTF-8 are empty."""
    names = ("id", "question_id", "question", "context")
    row_id, question_id, question, context = (
        "" if ask.get(name) is None else str(ask[name]) for name in names
    )
    start, end, probability = (ask[name] for name in _OUTPUTS)
    return DrawnAnswer(row_id, question_id, question, context, start, end, probability)
