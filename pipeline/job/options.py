"""All flags of run_pipeline.py, their help and their bounds. Beam's own options pass through."""

from __future__ import annotations

import argparse
import datetime
import difflib
import re
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, _BeamArgumentParser

from model.command import bounded
from pipeline.job.runners import load

STAGES = ("annotate", "audit", "compare")

_MOST_DAYS = 366

DESCRIPTION = """Extractive question answering over whole corpora, Parquet to Parquet, on Apache Beam.

  annotate   answer every passage/question row: answer span, calibrated probability, n-best candidates
  audit      measure the span-prediction loss of a data set with gold answers, row by row and in total
  compare    two audits of the same data, example by example: what got better and what got worse, as a gate if you like

A finished run leaves OUTPUT/parts/*.parquet (one row per input row, in order), OUTPUT/rejections/*.parquet (rows that
could not be answered, and why), OUTPUT/run.json (what the run is) and OUTPUT/manifest.json (what it did, written last).
A rerun of the same job goes on where the last one stopped.

Exit codes: 0 all rows accounted for; 1 finished, but files, chunks or too many rows failed; 2 refused before any row;
3 did not finish; 129/130/143 interrupted, resumable. Of several days, the highest."""

EPILOG = """Any option of Apache Beam can be given too, for example --runner=DataflowRunner --project=P --region=R, or
--direct_running_mode=multi_processing --direct_num_workers=4 for several processes on this machine."""


class Refused(ValueError):
    """The job can't be started; the message names the option, its value and the limit. Exit code 2."""


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, cpu, cuda or cuda:N")
    return text


def _days(text: str) -> tuple[datetime.date, ...]:
    first, _, last = text.partition("..")
    try:
        begin, end = (datetime.datetime.strptime(each, "%Y-%m-%d").date() for each in (first, last or first))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day YYYY-MM-DD and no range of days A..B") from None
    if not 0 <= (end - begin).days < _MOST_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} must go forward, over at most {_MOST_DAYS} days")
    return tuple(begin + datetime.timedelta(days=each) for each in range((end - begin).days + 1))


def make_parser() -> argparse.ArgumentParser:
    """The parser of our own options."""
    parser = argparse.ArgumentParser(
        prog="run_pipeline.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="run_pipeline.py annotate|audit --input PATTERN[,PATTERN] --output DIR [options] [Beam options]\n"
        "       run_pipeline.py compare --before DIR --after DIR --output DIR [options] [Beam options]",
    )
    parser.add_argument("--stage", metavar="STAGE", help="the stage as an option, for launchers that pass nothing else")

    files = parser.add_argument_group("input and output")
    files.add_argument(
        "--input",
        metavar="PATTERNS",
        help="comma-separated files, globs, folders (every .parquet below) or URLs (gs://, s3://, ...); "
        "\\, is a comma in a name; bundled: the sample that comes with the package",
    )
    files.add_argument("--output", required=True, metavar="DIR", help="folder or URL; made if need be")
    files.add_argument(
        "--date",
        type=_days,
        metavar="DAY|A..B",
        help="what {date} in --input and --output stands for, YYYY-MM-DD; of a range, each day is a run of its own "
        "(today in UTC)",
    )
    _flag(files, "--overwrite", "remove an earlier run of another configuration from the output first")
    files.add_argument("--limit", type=bounded(int, 1, 10**12), metavar="N", help="only the first N rows, for a trial")

    columns = parser.add_argument_group("columns")
    columns.add_argument("--question_column", default="question", metavar="NAME", help="(question)")
    columns.add_argument("--context_column", default="context", metavar="NAME", help="(context)")
    columns.add_argument(
        "--id_column", default="id", metavar="NAME", help="(id); without such a column, ids are made of file, row group, row"
    )
    columns.add_argument(
        "--keep_columns", metavar="A,B", help="input columns that the output keeps, in this order (all of them)"
    )
    columns.add_argument("--output_prefix", default="", metavar="TEXT", help="stands before the names of output columns")

    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default="bundled",
        metavar="DIR_OR_ID",
        help="folder, URL or hub id[@revision] of a question answering checkpoint (the bundled one)",
    )
    model.add_argument("--device", type=_device, default="auto", help="auto, cpu, cuda or cuda:N (auto: CUDA if there is one)")
    model.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="of the encoder (auto: bfloat16 where the device computes in it at full speed, else float32)",
    )
    _flag(model, "--compile", "pass the network through torch.compile: slower start, faster on long runs")
    model.add_argument(
        "--batch_tokens",
        type=bounded(int, 1, 10**8),
        metavar="N",
        help="padded tokens per batch (4096 on a CPU, 65536 on CUDA)",
    )

    windows = parser.add_argument_group("windows")
    windows.add_argument(
        "--max_length",
        type=bounded(int, 8, 10**6),
        metavar="N",
        help="tokens per window, question included (384, or the model's limit)",
    )
    windows.add_argument(
        "--overlap",
        type=bounded(int, 0, 10**6),
        metavar="N",
        help="context tokens that neighbouring windows share (128); at least max_answer_length - 1",
    )
    windows.add_argument(
        "--max_question", type=bounded(int, 1, 10**6), default=64, metavar="N", help="longer questions are cut, in tokens (64)"
    )
    windows.add_argument(
        "--max_windows", type=bounded(int, 1, 10**7), default=2000, metavar="N", help="longer rows are rejected (2000)"
    )

    answers = parser.add_argument_group("answers")
    answers.add_argument("--n_best", type=bounded(int, 1, 1000), default=5, metavar="N", help="candidates kept (5)")
    answers.add_argument(
        "--max_answer_length", type=bounded(int, 1, 10**4), default=30, metavar="N", help="longest answer, in tokens (30)"
    )
    answers.add_argument(
        "--null",
        choices=["auto", "on", "off"],
        default="auto",
        help="whether 'no answer' is an option (auto: as the checkpoint's config says, else off)",
    )
    answers.add_argument(
        "--null_score_diff_threshold",
        type=bounded(float, -1e6, 1e6),
        metavar="X",
        help="no answer when null_score - best span_score is above X (the checkpoint's, else 0)",
    )

    audit = parser.add_argument_group("audit")
    _flag(audit, "--audit", "with annotate: audit in the same pass over the network, into OUTPUT/audit")
    audit.add_argument(
        "--answers_column",
        default="answers",
        metavar="NAME",
        help="gold answers, struct<text: list<string>, answer_start: list<int32>>, starts in code points (answers)",
    )
    audit.add_argument(
        "--against", default="", metavar="DIR", help="another audit's output: pairs, contexts and questions that both hold"
    )
    audit.add_argument(
        "--corrections",
        default="",
        metavar="FILE",
        help="a filled-in relabel.csv or a Label Studio export: corrected golds replace those of the same id",
    )
    audit.add_argument("--slice_by", metavar="A,B", help="input columns by whose values figures are given too")
    audit.add_argument("--worst", type=bounded(int, 0, 10**4), metavar="N", help="examples of highest loss in audit.json (50)")
    audit.add_argument(
        "--suspects",
        type=bounded(int, 0, 10**4),
        metavar="N",
        help="suspected label errors in audit.json and in the files for relabelling (100)",
    )

    compare = parser.add_argument_group("compare")
    compare.add_argument("--before", metavar="DIR", help="output of an audit")
    compare.add_argument("--after", metavar="DIR", help="output of another audit of the same examples, joined by id")
    for name, limit in (("f1", "points of F1"), ("em", "points of exact match")):
        compare.add_argument(
            f"--max_{name}_drop",
            type=bounded(float, 0, 100),
            metavar="X",
            help=f"exit 1 when the mean over pairs falls by more than X {limit}",
        )
    compare.add_argument(
        "--max_loss_rise",
        type=bounded(float, 0, 1e6),
        metavar="X",
        help="exit 1 when the mean loss over pairs rises by more than X nats",
    )

    work = parser.add_argument_group("units of work")
    work.add_argument("--chunk_rows", type=bounded(int, 1, 10**7), default=2048, metavar="N", help="rows per part (2048)")
    work.add_argument(
        "--chunk_bytes",
        type=bounded(int, 1, 2**40),
        default=32 * 2**20,
        metavar="N",
        help="input bytes per part, by the row group's average (33554432)",
    )
    work.add_argument(
        "--accelerator",
        default="",
        metavar="TYPE",
        help="resource hint for the steps that work on chunks, where the runner follows it (Dataflow Prime): "
        "type:nvidia-l4;count:1;install-nvidia-driver",
    )
    work.add_argument(
        "--max_failed_fraction",
        type=bounded(float, 0, 1),
        default=0.5,
        metavar="X",
        help="exit 1 when more than this share of the rows was rejected or failed (0.5)",
    )
    return parser


def _flag(group: argparse._ArgumentGroup, name: str, text: str) -> None:
    group.add_argument(name, type=_boolean, nargs="?", const=True, default=False, metavar="true|false", help=text)


COMPARE_ONLY = ("before", "after", "max_f1_drop", "max_em_drop", "max_loss_rise")
COMPARE_TOO = ("stage", "output", "overwrite", "worst", "max_failed_fraction")
"""Options of compare that the other stages have too."""


def _check_options_of_stage(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Raises Refused for an option of another stage, and for a required one that is missing."""
    parser = make_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    given = vars(parser.parse_known_args(list(arguments))[0])
    compare = options.stage == "compare"
    for name in given:
        if compare and name not in (*COMPARE_ONLY, *COMPARE_TOO):
            raise Refused(f"--{name}={given[name]} is of annotate and audit, compare has no such option")
        if not compare and name in COMPARE_ONLY:
            raise Refused(f"--{name}={given[name]} is of the stage compare, not of {options.stage}")
    for name in ("before", "after") if compare else ("input",):
        if not given.get(name):
            raise Refused(f"--{name} is missing: {options.stage} needs it")


class BeamOptions(PipelineOptions):
    """Beam's options, each group parsed once: Beam would parse one anew a hundred times and more for one job."""

    def view_as(self, cls: type[Any]) -> Any:
        views = self.__dict__.setdefault("_views", {})  # no attribute: those are options
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_views"}


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, checked one by one, and the arguments that are Beam's.

    Raises Refused for a missing stage and for an argument that neither Beam nor we know; argparse itself prints other
    errors and exits with 2.
    """
    parser = make_parser()
    options, rest = parser.parse_known_args(list(arguments))
    runner = PipelineOptions(rest).view_as(StandardOptions).runner
    try:
        load(runner)
    except ImportError as error:
        raise Refused(f"--runner={runner}: {error}") from error
    beam_parser = _BeamArgumentParser(allow_abbrev=False, add_help=False)
    for group in {str(group): group for group in PipelineOptions.__subclasses__()}.values():
        group._add_argparse_args(beam_parser)
    _, unknown = beam_parser.parse_known_args(rest)  # the stage is among these: only now is it no value of an option
    strange = [argument for argument in unknown if argument.startswith("-")]
    if strange:
        known = [name for p in (parser, beam_parser) for action in p._actions for name in action.option_strings]
        name = strange[0].split("=", 1)[0]
        nearest = difflib.get_close_matches(name, known, 1)
        hint = f": did you mean {nearest[0]}?" if nearest else ""
        raise Refused(f"{name} is an option neither of Spanmill nor of Beam{hint}")
    stages = list(dict.fromkeys([*unknown, *filter(None, [options.stage])]))
    if len(stages) != 1 or stages[0] not in STAGES:
        raise Refused(f"STAGE: give one of {', '.join(STAGES)}, not {' and '.join(map(repr, stages)) or 'none'}")
    options.stage = stages[0]
    _check_options_of_stage(options, arguments)
    for word in unknown:
        rest.remove(word)
    return options, rest
