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
from collections.abc import Sequence

logging.getLogger().addHandler(logging.NullHandler())  # Beam warns of optional packages on import

from model.command import argument
from model.settings import whole
from pipeline.job.options import Refused
from pipeline.looks.result import print_result
from pipeline.review.answers import open_annotated, probabilities_of, read_drawn
from pipeline.review.files import SHEET, TASKS, ReviewSet, read_marks, read_set, write_set
from pipeline.review.review import Review
from pipeline.review.strata import Draw
from transforms.storage import absolute, lies_below, read, real_path

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
    for probabilities, places in probabilities_of(run):
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
    write_set(output, drawn, read_drawn(run, places))
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
        review = Review.of(drawn, read_marks(read(absolute(options.estimate)), drawn))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise Refused(f"--estimate={options.estimate}: {reason}") from error
    return json.dumps(review.as_json(), indent=1) if options.json else review.in_words()


def _set_folder(options: argparse.Namespace) -> str:
    """Return the folder of the review set: --output, by default OUT-review."""
    return absolute(options.output) if options.output else f"{absolute(options.run)}-review"


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
        type=argument(whole(_FEWEST, _MOST)),
        metavar="N",
        help=f"answers to draw, {_FEWEST} to {_MOST}; all if there are fewer (default: {_ROWS})",
    )
    add(
        "--seed",
        type=argument(whole(0, 10**9)),
        metavar="N",
        help="random seed of the drawing (default: 0)",
    )
    add(
        "--estimate",
        metavar="FILE",
        help="the filled-in review.csv, or the export of Label Studio (JSON), of the set in "
        "--output; nothing is drawn",
    )
    add("--json", action="store_true", help="with --estimate: print JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code: 0, 2 if it was refused, 3 if it can't print."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.estimate is None and options.json:
        parser.error("--json applies to --estimate")
    if options.estimate is not None and (options.rows, options.seed) != (None, None):
        parser.error("--rows and --seed apply to drawing, not to --estimate")
    work = draw if options.estimate is None else estimate_run
    return print_result(lambda: work(options))


if __name__ == "__main__":
    sys.exit(main())
