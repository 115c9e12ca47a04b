"""Estimate the precision of a run on a corpus without golds, from a sample that people review:

    python -m pipeline.sample out/ --rows 200
    python -m pipeline.sample out/ --estimate out-review/review.csv

The first command draws answers at random, in strata by probability, and writes them to a folder as
a spreadsheet (review.csv), as tasks for Label Studio (review.json), and with what was drawn and how
(sample.json). The second reads the filled-in spreadsheet, or the export of Label Studio, and prints
the precision of all answers of the run with an interval of 95 %. The run itself is not changed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

logging.getLogger().addHandler(logging.NullHandler())  # Beam warns of optional packages on import

import pyarrow as pa

from model.command import say
from pipeline.job.options import Refused
from pipeline.looks.terminal import printable
from pipeline.review.answers import answers_of, open_annotated, read_answers
from pipeline.review.estimate import CONFIDENCE, Marks, estimate
from pipeline.review.files import SHEET, TASKS, ReviewSet, read_marks, read_set, write_set
from pipeline.review.strata import Draw, Stratum
from transforms.storage import StorageError, absolute, lies_below, read, real_path

_ROWS = 200
_FEWEST, _MOST = 2, 10_000


def draw(options: argparse.Namespace) -> str:
    """Draw a review set and write it. Return what was written. Raises Refused."""
    folder = absolute(options.run)
    output = _set_folder(options)
    run, identity = open_annotated(folder)
    if real_path(output) == real_path(folder) or lies_below(output, folder):
        raise Refused(f"--output={options.output} is inside the run {folder}")
    sample = Draw(options.rows or _ROWS, options.seed or 0)
    for probabilities, places in answers_of(run):
        sample.add(probabilities, places)
    if not sample.counts.any():
        raise Refused(f"{folder} has no answer to review: no row is answered")
    strata, places, stratum = sample.finish()
    drawn = ReviewSet(
        identity,
        sample.seed,
        tuple(strata),
        tuple(stratum.tolist()),
        tuple(map(tuple, places.tolist())),
    )
    write_set(output, drawn, read_answers(run, places))
    total = sum(each.answers for each in strata)
    lines = [
        f"{len(places)} of {total} answers in {len(strata)} strata by probability: {output}",
        f"{SHEET} is for a spreadsheet, {TASKS} for Label Studio; fill in `right` by yes, no or "
        "unsure",
    ]
    if run.state != "complete":
        lines.append(f"the run is {run.state}: this is a sample of the answers that it has")
    return "\n".join(lines)


def estimate_run(options: argparse.Namespace) -> str:
    """Estimate the precision of a run by a reviewed set, in words or as JSON. Raises Refused."""
    folder = absolute(options.run)
    _, identity = open_annotated(folder)
    drawn = read_set(_set_folder(options))
    if drawn.identity != identity:
        what = "another run" if drawn.identity.run != identity.run else "other answers of this run"
        raise Refused(f"the review set {drawn.name} was drawn from {what} than {folder} has now")
    try:
        marks = read_marks(read(absolute(options.estimate)), drawn)
    except ValueError as error:
        raise Refused(f"--estimate={options.estimate}: {error}") from error
    counts = Counter(
        (stratum, marks.get(number, "missing")) for number, stratum in enumerate(drawn.stratum, 1)
    )
    rows = []
    for number, stratum in enumerate(drawn.strata):
        right, wrong = counts[number, "yes"], counts[number, "no"]
        if not right + wrong:
            raise Refused(
                f"--estimate={options.estimate}: no answer of stratum {number + 1} (probability "
                f"{_range(stratum)}, {stratum.answers} answers) is marked yes or no: review at "
                "least one"
            )
        rows.append(Marks(stratum.answers, right, wrong))
    unsure = [counts[number, "unsure"] for number in range(len(rows))]
    review = Review(drawn, tuple(rows), tuple(unsure), len(drawn.stratum) - len(marks))
    return json.dumps(review.as_json(), indent=1) if options.json else review.in_words()


def _set_folder(options: argparse.Namespace) -> str:
    """Return the folder of the review set: --output, by default beside the run."""
    return absolute(options.output) if options.output else f"{absolute(options.run)}-review"


def _range(stratum: Stratum) -> str:
    return f"{stratum.low:.2f} to {stratum.high:.2f}"


@dataclass(frozen=True)
class Review:
    """A reviewed set.

    marks    of each stratum
    unsure   drawn answers of each stratum that are marked unsure
    missing  drawn answers without a mark
    """

    drawn: ReviewSet
    marks: tuple[Marks, ...]
    unsure: tuple[int, ...]
    missing: int

    @property
    def precisions_of_unsure(self) -> tuple[float, float]:
        """The precision if all answers marked unsure were wrong, and if they were right."""
        pairs = list(zip(self.marks, self.unsure, strict=True))
        wrong = [replace(each, wrong=each.wrong + count) for each, count in pairs]
        right = [replace(each, right=each.right + count) for each, count in pairs]
        return estimate(wrong).precision, estimate(right).precision

    def as_json(self) -> dict[str, Any]:
        """Return the estimate for programs."""
        low, high = self.precisions_of_unsure
        return {
            **asdict(estimate(self.marks)),
            "confidence": CONFIDENCE,
            "answers": sum(each.answers for each in self.marks),
            "reviewed": sum(each.reviewed for each in self.marks),
            "unsure": sum(self.unsure),
            "missing": self.missing,
            "precision_if_unsure_are_wrong": low,
            "precision_if_unsure_are_right": high,
            "run": self.drawn.identity.run,
            "set": self.drawn.name,
            "strata": [
                {**asdict(stratum), "right": marks.right, "wrong": marks.wrong}
                for stratum, marks in zip(self.drawn.strata, self.marks, strict=True)
            ],
        }

    def in_words(self) -> str:
        """Return the estimate for people, with a table of the strata."""
        result = estimate(self.marks)
        answers = sum(each.answers for each in self.marks)
        reviewed = sum(each.reviewed for each in self.marks)
        lines = [
            f"precision {result.precision:.3f}, {CONFIDENCE:.0%} interval {result.low:.3f} to "
            f"{result.high:.3f}",
            f"about {result.precision * answers:,.0f} of {answers:,} answers are right "
            f"({result.low * answers:,.0f} to {result.high * answers:,.0f})",
            f"{reviewed} of {len(self.drawn.stratum)} drawn answers are marked yes or no, "
            f"{sum(self.unsure)} unsure, {self.missing} missing",
        ]
        if any(self.unsure):
            low, high = self.precisions_of_unsure
            lines.append(f"precision {low:.3f} if all unsure are wrong, {high:.3f} if right")
        lines += [
            "",
            f"{'probability':>14} {'answers':>9} {'marked':>7} {'right':>6} {'share':>6} "
            f"{'mean p':>7}",
        ]
        for stratum, marks in zip(self.drawn.strata, self.marks, strict=True):
            lines.append(
                f"{_range(stratum):>14} {marks.answers:>9} {marks.reviewed:>7} {marks.right:>6} "
                f"{marks.right / marks.reviewed:>6.2f} {stratum.mean_probability:>7.2f}"
            )
        return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="OUT", help="output of annotate, a folder or URL")
    add(
        "--output",
        metavar="FOLDER",
        help="folder or URL of the review set, outside of the run (default: OUT-review)",
    )
    add(
        "--rows",
        type=_rows,
        metavar="N",
        help=f"answers to draw, {_FEWEST} to {_MOST}; all if there are fewer (default: {_ROWS})",
    )
    add(
        "--seed",
        type=_seed,
        metavar="N",
        help="number that decides which answers are drawn (default: 0)",
    )
    add(
        "--estimate",
        metavar="FILE",
        help="the filled-in review.csv, or the export of Label Studio (JSON), of the set in "
        "--output; nothing is drawn",
    )
    add("--json", action="store_true", help="with --estimate: print JSON")
    return parser


def _rows(text: str) -> int:
    if not text.isdecimal() or not _FEWEST <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from {_FEWEST} to {_MOST}"
        )
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code: 0, 2 if it was refused, 3 if it can't print."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.estimate is None and options.json:
        parser.error("--json applies to --estimate")
    if options.estimate is not None and (options.rows, options.seed) != (None, None):
        parser.error("--rows and --seed apply to drawing, not to --estimate")
    try:
        text = draw(options) if options.estimate is None else estimate_run(options)
    except (Refused, StorageError, OSError, pa.ArrowException) as error:
        print(printable(f"refused: {error}"), file=sys.stderr)
        return 2
    unsaid = say(printable(text))
    if unsaid and not isinstance(unsaid, BrokenPipeError):  # a closed pipe has read enough
        print(f"standard output: {unsaid.strerror or unsaid}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
