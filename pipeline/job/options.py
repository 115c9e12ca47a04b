"""Parse the command line of run_pipeline.py; Beam's own options pass through."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.options.pipeline_options import (
    PipelineOptions,
    StandardOptions,
    _BeamArgumentParser,
)

from model.command import argument
from model.settings import ANNOTATE, AUDIT, COMPARE, Setting, declared
from pipeline.job.runners import load_runner
from pipeline.job.settings import ALL, GROUPS

DESCRIPTION = """\
Extractive question answering over whole corpora, Parquet to Parquet, on Apache Beam.

  annotate   answer each row of passage and question: answer span, calibrated probability,
             n-best candidates
  audit      measure the span-prediction loss of a data set with gold answers, per row and in total
  compare    compare two audits of the same data, example by example; can serve as a gate

A finished run leaves these files:

  OUTPUT/parts/*.parquet        one row per input row, in order
  OUTPUT/rejections/*.parquet   rows that could not be answered, and why
  OUTPUT/run.json               the configuration and the inputs of the run
  OUTPUT/manifest.json          the accounting of the run, written last

A rerun of the same job resumes where the last one stopped.

Exit codes: 0 all rows accounted for; 1 finished, but files, chunks or too many rows failed;
2 refused before any row; 3 did not finish; 129, 130 or 143 interrupted, resumable. A job of several
days returns the highest."""

EPILOG = """\
Options of Apache Beam can also be given, for example --runner=DataflowRunner --project=P
--region=R, or --direct_running_mode=multi_processing --direct_num_workers=4 for several processes
on this machine."""


class Refused(ValueError):
    """The job can't be started (exit code 2); the message names option, value and limit."""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all settings."""
    parser = argparse.ArgumentParser(
        prog="run_pipeline.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="run_pipeline.py annotate|audit --input PATTERN[,PATTERN] --output DIR "
        "[options] [Beam options]\n"
        "       run_pipeline.py compare --before DIR --after DIR --output DIR "
        "[options] [Beam options]",
    )
    parser.add_argument(
        "--stage",
        metavar="STAGE",
        help="the stage, for launchers that pass only options",
    )
    for title, group in GROUPS.items():
        arguments = parser.add_argument_group(title)
        for name, default, declaration in declared(group):
            if declaration.option:
                _add_argument(arguments, name, default, declaration)
    return parser


def _add_argument(
    arguments: argparse._ArgumentGroup, name: str, default: Any, declaration: Setting
) -> None:
    kind = declaration.kind
    bare: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(default, bool) else {}
    words = default_in_words(default, declaration)
    arguments.add_argument(
        f"--{name}",
        type=argument(kind),
        default=default,
        required=name == "output",
        metavar=kind.metavar,
        help=declaration.help + (f" (default: {words})" if words else ""),
        **bare,
    )


def default_in_words(default: Any, declaration: Setting) -> str:
    """Return in words what a setting is if it is left out; "" if that goes without saying."""
    if declaration.unset:
        return declaration.unset
    return "" if default is None or default is False or default in ("", ()) else str(default)


def _check_stage(stage: str, audited: bool, given: Mapping[str, Any]) -> None:
    """Raise Refused for a setting that the stage does not take, or a missing one that it needs.

    audited  whether --audit is given
    given    the settings on the command line, as text; True for a flag without a value
    """
    declarations = {
        name: declaration for group in GROUPS.values() for name, _, declaration in declared(group)
    }
    for name, value in given.items():
        # `stage` is an option, but not a declared setting.
        stages = declarations[name].stages if name in declarations else ()
        if stages and stage not in stages and not (audited and AUDIT in stages):
            hint = ""
            if stage == ANNOTATE and AUDIT in stages:
                hint = ": give the stage audit, or add --audit"
            shown = f"--{name}" if value is True else f"--{name}={value}"
            raise Refused(f"{shown} applies to {' and '.join(stages)}, not to {stage}{hint}")
    for name in ("before", "after") if stage == COMPARE else ("input",):
        if not given.get(name):
            raise Refused(f"--{name} is missing: {stage} needs it")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return Spanmill's options, each checked, and the arguments for Beam.

    Raises Refused for a missing stage, a setting that the stage does not take, and an argument that
    is neither Spanmill's nor Beam's. argparse prints other errors and exits with 2.
    """
    parser = make_parser()
    options, rest = parser.parse_known_args(list(arguments))

    # Some runners declare options of their own: import them before Beam's options are listed.
    runner = PipelineOptions(rest).view_as(StandardOptions).runner
    try:
        load_runner(runner)
    except ImportError as error:
        raise Refused(f"--runner={runner}: {error}") from error
    # Options that Beam lists twice would clash, so that groups are taken once by name.
    beam_parser = _BeamArgumentParser(allow_abbrev=False, add_help=False)
    for group in {str(group): group for group in PipelineOptions.__subclasses__()}.values():
        group._add_argparse_args(beam_parser)
    _, unknown = beam_parser.parse_known_args(rest)
    _refuse_unknown(unknown, (parser, beam_parser))

    # Only now is a bare word certainly the stage and not the value of an option of Beam.
    stages = list(dict.fromkeys([*unknown, *filter(None, [options.stage])]))
    strays = [word for word in unknown if word not in ALL]
    if strays and len(stages) > len(set(strays)):
        # Most likely the shell has replaced a pattern by the names of many files.
        count = f" ({len(strays)} such words)" if len(strays) > 1 else ""
        raise Refused(
            f"{strays[0]!r} belongs to no option{count}: quote patterns, --input='data/*.parquet'"
        )
    if len(stages) != 1 or stages[0] not in ALL:
        raise Refused(
            f"STAGE: give one of {', '.join(ALL)}, not {' and '.join(map(repr, stages)) or 'none'}"
        )
    options.stage = stages[0]

    # Parsing again without defaults yields only the settings on the command line. Without types,
    # their values are the text that messages show.
    for action in parser._actions:
        action.default, action.type = argparse.SUPPRESS, None
    given = vars(parser.parse_known_args(list(arguments))[0])
    _check_stage(options.stage, options.audit, given)
    for word in unknown:
        rest.remove(word)
    return options, rest


def _refuse_unknown(arguments: Sequence[str], parsers: Sequence[argparse.ArgumentParser]) -> None:
    """Raise Refused, with the nearest known option, if an argument is an option of no parser."""
    options = [argument for argument in arguments if argument.startswith("-")]
    if not options:
        return
    known = [
        name for parser in parsers for action in parser._actions for name in action.option_strings
    ]
    name = options[0].split("=", 1)[0]
    nearest = difflib.get_close_matches(name, known, 1)
    hint = f": did you mean {nearest[0]}?" if nearest else ""
    raise Refused(f"{name} is an option neither of Spanmill nor of Beam{hint}")
