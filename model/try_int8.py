"""Try a checkpoint in int8, and write whether `--dtype auto` may take it.

    python -m model.try_int8 --model DIR --data a.parquet,b.parquet

Answers questions in float32 and in int8 on this machine's CPU, as annotate does by default. The
checkpoint tolerates int8 if F1 falls by at most 0.2 points and at least 99 % of the answers stay,
near-ties apart: rows whose two best spans are less than 0.3 apart in float32. The verdict is
written to `spanmill` in the folder's config.json, as `"int8": true` or `false`. With true, `--dtype
auto` takes int8 on a CPU that is faster in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.audit.metrics import grade
from model.checkpoint import LocalFolder, write_settings
from model.command import argument, option, run_command
from model.reading.span_reader import SpanReader
from model.settings import SettingError, whole
from model.training.data import read_training_rows

NEAR_TIE = 0.3
"""Least distance between the scores of the two best spans at which they are not a near-tie."""

MOST_LOST = 0.2
"""Most points of F1 that int8 may cost."""

LEAST_EQUAL = 99.0
"""Least percentage of answers, near-ties aside, that must stay the same."""


@dataclass(frozen=True, slots=True)
class GradedAnswers:
    """The answers to R questions in one dtype.

    spans   [R], start and end of the answer; both None without one
    scores  [R], the scores of the best spans, best first; empty for a rejected row
    f1      [R], of the answer, in [0, 1]
    """

    spans: Sequence[tuple[int | None, int | None]]
    scores: Sequence[Sequence[float]]
    f1: Sequence[float]


@dataclass(frozen=True, slots=True)
class DtypeDifference:
    """How answers in a dtype differ from those in float32; in per cent, apart from the counts.

    rows         number of questions
    f1           of the answers in float32
    f1_change    what the dtype adds to it
    equal        share of the questions with the same answer
    clear_rows   number of questions whose best span in float32 is not a near-tie; a rejected row
                 has no span
    clear_equal  share of these with the same answer; 0 if there are none
    """

    rows: int
    f1: float
    f1_change: float
    equal: float
    clear_rows: int
    clear_equal: float

    @property
    def passes(self) -> bool:
        """Return whether the answers are as good as in float32 and nearly the same."""
        return self.f1_change >= -MOST_LOST and self.clear_equal >= LEAST_EQUAL


def compare(answered: GradedAnswers, reference: GradedAnswers) -> DtypeDifference:
    """Return how answers differ from those in float32, `reference`."""
    equal = np.array(
        [one == other for one, other in zip(answered.spans, reference.spans, strict=True)]
    )
    clear = np.array(
        [
            len(best) > 0 and best[0] - max(best[1:], default=-np.inf) >= NEAR_TIE
            for best in reference.scores
        ]
    )
    f1 = 100 * float(np.mean(reference.f1))
    return DtypeDifference(
        rows=len(equal),
        f1=f1,
        f1_change=100 * float(np.mean(answered.f1)) - f1,
        equal=100 * float(equal.mean()),
        clear_rows=int(clear.sum()),
        clear_equal=100 * float((equal & clear).sum()) / max(1, int(clear.sum())),
    )


def try_int8(folder: Path, data: list[str], most_rows: int) -> dict[str, Any]:
    """Answer questions of a checkpoint in float32 and in int8, and write the verdict.

    data       Parquet files of development data
    most_rows  how many of their answerable questions to take, evenly spread, if there are more

    Returns the verdict and the figures behind it. Raises SettingError for files without answerable
    questions, CheckpointError if this machine does not compute in int8.
    """
    rows = [
        row
        for path in data
        for row in read_training_rows(path, given_as="data")
        if row["answers"]["text"]
    ]
    if not rows:
        raise SettingError(f"data={','.join(data)}: no question has an answer")
    count = min(most_rows, len(rows))
    rows = [rows[k * len(rows) // count] for k in range(count)]
    with option("model", folder):
        int8, float32 = (_answer(folder, rows, dtype) for dtype in ("int8", "float32"))
        found = compare(int8, float32)
        write_settings(folder, {"int8": found.passes})
    return {"int8": found.passes, **asdict(found)}


def _answer(folder: Path, rows: Sequence[dict], dtype: str) -> GradedAnswers:
    """Answer the questions of rows in one dtype, with two candidates each.

    All of them have an answer, so that the null option has no part in it.
    """
    location = LocalFolder(str(folder))
    reader = SpanReader.load(location, device="cpu", dtype=dtype, null=False)
    answers = reader.answer(
        [row["question"] for row in rows], [row["context"] for row in rows], n_best=2
    )
    return GradedAnswers(
        [(answer.answer_start, answer.answer_end) for answer in answers],
        [[best.start_logit + best.end_logit for best in answer.n_best] for answer in answers],
        [
            grade(answer.answer_text or "", row["answers"]["text"])[1]
            for answer, row in zip(answers, rows, strict=True)
        ],
    )


def main(arguments: list[str] | None = None) -> int:
    """Try the checkpoint that the command line names, and print the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m model.try_int8", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--model", required=True, help="checkpoint folder; its config.json is written"
    )
    parser.add_argument(
        "--data", required=True, help="comma-separated Parquet files of development data"
    )
    parser.add_argument(
        "--rows",
        type=argument(whole(1, 10**9)),
        default=8000,
        help="largest number of questions; a few hundred are too few to decide (8000)",
    )
    options = parser.parse_args(arguments)
    data = [path for path in options.data.split(",") if path]
    return run_command(
        lambda: json.dumps(try_int8(Path(options.model), data, options.rows), indent=2)
    )


if __name__ == "__main__":
    sys.exit(main())
