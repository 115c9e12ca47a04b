"""Measure how often the interval of `pipeline.sample` holds the true precision of a run with golds.

    python run_pipeline.py annotate --input eval_squad_v1.parquet --limit 1500 --output OUT
    python -m benchmarks.review_sample OUT --rows 50,100,200 --draws 1000

An answer is right if it matches a gold exactly by SQuAD's rules. Each draw has a seed of its own.
Printed are, for each size: the share of intervals that hold the precision of all answers, their
mean width, the mean width for a simple random sample of that size (Wilson's interval), and the mean
error of the estimate. `--review FOLDER` fills in the spreadsheet of a review set instead, as a
person would.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from model.audit.golds import golds_of
from model.audit.metrics import grade
from pipeline.formats.finished import FinishedRun
from pipeline.review.answers import open_annotated, probabilities_of
from pipeline.review.estimate import Marks, estimate
from pipeline.review.files import SHEET, read_set
from pipeline.review.strata import Draw
from transforms.spreadsheets import csv_bytes, csv_rows


def rightness(run: FinishedRun) -> list[bool]:
    """Return whether the answers of a run are right, in order; bool [answers]."""
    text, status, golds = run.output("answer_text"), run.output("status"), run.input("answers")
    if golds is None:
        raise SystemExit(f"{run.folder} has no column of golds")
    right = []
    for row in run.rows([text, status, golds]):
        if row[status] == "answered":
            known = golds_of(row[golds])
            texts = [each for each in (known or {}).get("text") or [] if each]
            right.append(grade(row[text], texts)[0] == 1.0)
    return right


def measure(
    probabilities: np.ndarray, right: np.ndarray, rows: int, draws: int
) -> tuple[float, float, float, float]:
    """Return coverage, mean width, mean width of a simple random sample, and mean error."""
    numbers = np.stack([np.arange(len(right))] * 3, axis=1)
    truth = right.mean()
    held, widths, simple, errors = 0, [], [], []
    for seed in range(draws):
        draw = Draw(rows, seed)
        draw.add(probabilities, numbers)
        strata, places, stratum = draw.finish()
        found = np.bincount(stratum, right[places[:, 0]]).astype(int).tolist()
        result = estimate(
            [
                Marks(each.answers, yes, each.drawn - yes)
                for each, yes in zip(strata, found, strict=True)
            ]
        )
        held += result.low <= truth <= result.high
        widths.append(result.high - result.low)
        errors.append(abs(result.precision - truth))
        chosen = np.random.default_rng(seed).choice(right, rows, replace=False)
        plain = estimate([Marks(len(right), int(chosen.sum()), int(rows - chosen.sum()))])
        simple.append(plain.high - plain.low)
    return held / draws, float(np.mean(widths)), float(np.mean(simple)), float(np.mean(errors))


def fill_in(run: FinishedRun, folder: Path, right: np.ndarray, places: np.ndarray) -> None:
    """Fill in the spreadsheet of a review set by the golds."""
    known = dict(zip(map(tuple, places.tolist()), right.tolist(), strict=True))
    drawn = read_set(str(folder))
    path = folder / SHEET
    rows = [row for _, row in csv_rows(path.read_text("utf-8-sig"), ("number", "right"), SHEET)]
    for row in rows:
        row["right"] = "yes" if known[drawn.places[int(row["number"]) - 1]] else "no"
    path.write_bytes(csv_bytes(list(rows[0]), rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="output of annotate on rows with golds")
    parser.add_argument("--rows", default="50,100,200", help="sizes of samples")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--review", type=Path, help="folder of a review set to fill in")
    options = parser.parse_args()
    run, _ = open_annotated(options.run)
    probabilities, places = (
        np.concatenate(each) for each in zip(*probabilities_of(run), strict=True)
    )
    right = np.array(rightness(run))
    if options.review:
        fill_in(run, options.review, right, places)
        return
    print(f"{len(right)} answers, precision {right.mean():.4f}")
    print("rows  coverage  width  width of a simple sample  mean error")
    for rows in map(int, options.rows.split(",")):
        held, width, simple, error = measure(probabilities, right, rows, options.draws)
        print(f"{rows:4}  {held:8.3f}  {width:5.3f}  {simple:24.3f}  {error:10.3f}", flush=True)


if __name__ == "__main__":
    main()
