"""Fine-tune a span predictor with the objective that the audit measures.

    python -m model.train --train a.parquet,b.parquet --output DIR

One loop over token-budget batches of context windows (the same windows, golds and losses as the
pipeline's), AdamW with warm-up and linear decay, an average of the weights, and a state file from
which a killed training resumes.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import torch

from model.command import add_windows, argument, option, run_command
from model.settings import number, whole
from model.training.joint import OBJECTIVES
from model.training.loop import take_steps
from model.training.start import prepare

_log = logging.getLogger("spanmill.train")


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train for `max_minutes` or `epochs`, whichever ends first; save the averaged weights.

    Resumes from `state.pt` in the output folder if an earlier run left one. Returns the last
    evaluation, {} without one. Raises SettingError for options that can't be met, before anything
    is written.
    """
    torch.manual_seed(options.seed)
    training = prepare(options)
    with option("output", options.output):
        Path(options.output).mkdir(parents=True, exist_ok=True)
        # Refuse a folder that can't be written to now rather than after the training.
        (Path(options.output) / "state.tmp").touch()
    training.resume()
    try:
        take_steps(training)
    finally:
        # An interrupted training keeps what its teacher has computed.
        if training.teacher:
            training.teacher.save()
    # With this state, the same command with more epochs or minutes continues the training.
    training.save_state()
    if training.eval_rows:
        training.evaluate()
        _log.info("final evaluation of the averaged weights %s", training.result)
    training.save_checkpoint()
    return training.result


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; help gives defaults in parentheses."""
    parser = argparse.ArgumentParser(
        prog="python -m model.train",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    _add_data(parser)
    _add_objective(parser)
    _add_windows(parser)
    _add_optimisation(parser)
    _add_running(parser)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of files and rows."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--train", required=True, help="comma-separated Parquet files in the input layout"
    )
    data.add_argument("--eval", default="", help="Parquet files to evaluate on")
    data.add_argument(
        "--keep_out",
        default="",
        help="Parquet files whose passages must not be in training: refused if one is",
    )
    data.add_argument(
        "--eval_every_nth",
        type=argument(whole(1, 10**9)),
        default=1,
        help="evaluate on every nth row only (1)",
    )
    data.add_argument(
        "--output", required=True, help="folder of the checkpoint, and of the state to resume from"
    )
    data.add_argument(
        "--base",
        default="",
        help="checkpoint to start from, a folder or a hub id (the bundled one)",
    )
    data.add_argument(
        "--split",
        type=argument(whole(1, 1000)),
        default=None,
        metavar="LAYERS",
        help="lower layers that read question and passage apart: a split reader (the base's)",
    )
    data.add_argument(
        "--frozen_layers",
        type=argument(whole(1, 1000)),
        default=None,
        metavar="LAYERS",
        help="keep the base's embeddings and its lowest layers as they are: saves time (none)",
    )
    data.add_argument(
        "--mix",
        type=_mix,
        default={},
        metavar="PATTERN=TIMES,...",
        help="how often rows are taken by their `source`, e.g. 'squad*=2,qamr*=0.3' (each once)",
    )
    data.add_argument(
        "--unanswerable_share",
        type=argument(number(0, 100)),
        default=0.2,
        help="made-up unanswerable rows to add per row (0.2)",
    )
    data.add_argument(
        "--joined_share",
        type=argument(number(0, 1)),
        default=0.0,
        help="share of the rows whose passage is joined with its neighbours (0)",
    )
    data.add_argument(
        "--joined_passages",
        type=argument(whole(1, 10**4)),
        default=8,
        help="largest number of passages to join (8)",
    )


def _add_objective(parser: argparse.ArgumentParser) -> None:
    """Add the options of the loss."""
    loss = parser.add_argument_group("objective")
    loss.add_argument(
        "--objective",
        choices=["categorical", "tokenwise", *OBJECTIVES],
        default="categorical",
        help="softmax over tokens, labels of tokens, softmax over spans, both (categorical)",
    )
    loss.add_argument(
        "--max_answer_length",
        type=argument(whole(1, 10**4)),
        default=30,
        help="tokens of the longest span that joint and compound count (30)",
    )
    loss.add_argument(
        "--link",
        choices=["softmax", "sigmoid"],
        default="softmax",
        help="how logits become probabilities; sigmoid goes with tokenwise (softmax)",
    )
    loss.add_argument(
        "--null",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train the null option (yes)",
    )
    loss.add_argument(
        "--shared_normalisation",
        action="store_true",
        help="one softmax over the windows of a question",
    )
    loss.add_argument(
        "--teacher", default="", help="a checkpoint to learn from, in addition to the golds (none)"
    )
    loss.add_argument(
        "--teacher_cache",
        default="",
        metavar="FOLDER",
        help="where the teacher's probabilities are stored, for later epochs and trainings (none)",
    )
    loss.add_argument(
        "--unlabelled",
        default="",
        metavar="FILES",
        help="Parquet files of questions and contexts that only the teacher teaches (none)",
    )
    loss.add_argument(
        "--teacher_share",
        type=argument(number(1e-6, 1)),
        default=0.5,
        help="share of the divergence from the teacher in the loss (0.5)",
    )


def _add_windows(parser: argparse.ArgumentParser) -> None:
    """Add the limits of windows, in tokens."""
    windows = parser.add_argument_group("windows")
    add_windows(windows)
    windows.add_argument(
        "--max_question",
        type=argument(whole(1, 10**6)),
        default=64,
        help="tokens of a question; longer ones are cut (64)",
    )


def _add_optimisation(parser: argparse.ArgumentParser) -> None:
    """Add the options of the optimiser and its schedule."""
    optimisation = parser.add_argument_group("optimisation")
    optimisation.add_argument(
        "--learning_rate",
        type=argument(number(1e-12, 1e3)),
        default=1.5e-4,
        help="highest learning rate, reached after warm-up (1.5e-4)",
    )
    optimisation.add_argument(
        "--batch_tokens",
        type=argument(whole(1, 10**8)),
        default=4096,
        help="padded tokens per batch (4096)",
    )
    optimisation.add_argument(
        "--epochs",
        type=argument(number(1e-6, 1e6)),
        default=2.0,
        help="passes over the rows (2)",
    )
    optimisation.add_argument(
        "--max_minutes",
        type=argument(number(0, 1e6)),
        default=0.0,
        help="stop after this many minutes, the learning rate fallen to 0 (0: no limit)",
    )
    optimisation.add_argument(
        "--warmup",
        type=argument(whole(1, 10**9)),
        default=200,
        help="steps in which the learning rate rises (200)",
    )
    optimisation.add_argument(
        "--weight_decay",
        type=argument(number(0, 1e3)),
        default=0.01,
        help="weight decay of AdamW (0.01)",
    )
    optimisation.add_argument(
        "--clip",
        type=argument(number(1e-12, 1e12)),
        default=1.0,
        help="largest gradient norm (1.0)",
    )
    optimisation.add_argument(
        "--dropout",
        type=argument(number(0, 0.99)),
        default=0.0,
        help="share of values that every layer drops (0)",
    )
    optimisation.add_argument(
        "--average",
        type=argument(number(0, 1 - 1e-9)),
        default=0.999,
        help="decay of the averaged weights (0.999)",
    )
    optimisation.add_argument(
        "--seed",
        type=argument(whole(0, 2**32 - 1)),
        default=0,
        help="seed of everything that is random (0)",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    """Add how often to log, save and evaluate."""
    running = parser.add_argument_group("running")
    running.add_argument(
        "--log_seconds",
        type=argument(number(0, 1e9)),
        default=30,
        help="seconds between two lines of the log (30)",
    )
    running.add_argument(
        "--save_minutes",
        type=argument(number(0, 1e9)),
        default=10,
        help="minutes between two saved states (10)",
    )
    running.add_argument(
        "--eval_minutes",
        type=argument(number(0, 1e9)),
        default=30,
        help="minutes between two evaluations on --eval (30)",
    )


def _mix(value: str) -> dict[str, float]:
    """Parse `pattern=times,...` into a mapping. Raises ArgumentTypeError."""
    try:
        return {
            name: argument(number(0, 1e6))(times)
            for name, times in (part.rsplit("=", 1) for part in value.split(","))
        }
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not PATTERN=TIMES,...") from None


def _refuse_contradictions(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with a usage error if two options do not go together."""
    # Both need a softmax over tokens, which the tokenwise objective does not have.
    if options.shared_normalisation and options.objective == "tokenwise":
        parser.error("--shared_normalisation does not go with --objective tokenwise")
    if options.teacher and options.objective == "tokenwise":
        parser.error(
            "--teacher does not go with --objective tokenwise: it teaches distributions over tokens"
        )
    if options.teacher_cache and not options.teacher:
        parser.error("--teacher_cache goes with --teacher")
    if options.unlabelled and not options.teacher:
        parser.error("--unlabelled goes with --teacher: without one, there is nothing to learn")
    if options.link == "sigmoid" and options.objective != "tokenwise":
        parser.error("--link sigmoid goes with --objective tokenwise")
    if options.link == "sigmoid" and options.null:
        parser.error(
            "--link sigmoid goes with --no-null: binary cross-entropy does not train the null "
            "option"
        )
    # With less overlap, some span would be in no window.
    if options.objective in OBJECTIVES and options.overlap < options.max_answer_length - 1:
        parser.error(
            f"--overlap={options.overlap}: with --objective {options.objective} it must be at "
            f"least --max_answer_length - 1 = {options.max_answer_length - 1}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Train as the command line says, print the last evaluation as JSON, return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    parser = make_parser()
    options = parser.parse_args(arguments)
    _refuse_contradictions(parser, options)
    return run_command(lambda: json.dumps(train(options)))


if __name__ == "__main__":
    sys.exit(main())
