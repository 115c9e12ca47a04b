"""The command line: refusals name option, value and limit; Beam's options pass through."""

from __future__ import annotations

import argparse

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, WorkerOptions

from pipeline.job.options import Refused, make_parser, parse
from pipeline.job.settings import ALL as STAGES

FILES = ("--input=in.parquet", "--output=out")


def parsed(*arguments: str) -> argparse.Namespace:
    return parse(["annotate", *FILES, *arguments])[0]


class TestStage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("annotate", *FILES),
            ("--stage=annotate", *FILES),
            ("--stage", "annotate", *FILES),
            (*FILES, "annotate"),
            ("annotate", *FILES, "--stage=annotate"),
            ("--runner", "DirectRunner", "annotate", *FILES),
            (*FILES, "--runner", "DirectRunner", "--stage=annotate", "--job_name", "nightly"),
            ("annotate", *FILES, "--job_name", "annotate"),
        ],
    )
    def test_it_may_stand_anywhere_or_be_an_option(self, arguments: tuple[str, ...]):
        options, rest = parse(arguments)
        assert options.stage == "annotate"
        beam = PipelineOptions(rest).get_all_options(drop_default=True)
        assert beam == {
            name: arguments[arguments.index(f"--{name}") + 1]
            for name in ("runner", "job_name")
            if f"--{name}" in arguments
        }

    @pytest.mark.parametrize("stage", STAGES)
    def test_every_stage_is_known(self, stage: str):
        files = ("--before=a", "--after=b", "--output=out") if stage == "compare" else FILES
        assert parse([stage, *files])[0].stage == stage

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (FILES, "not none"),
            (("anotate", *FILES), "'anotate'"),
            ((*FILES, "--stage=nothing"), "'nothing'"),
            (("annotate", "audit", *FILES), "'annotate' and 'audit'"),
            (("annotate", *FILES, "--stage=audit"), "'annotate' and 'audit'"),
        ],
    )
    def test_none_an_unknown_one_or_two_are_refused(self, arguments: tuple[str, ...], named: str):
        with pytest.raises(Refused, match="STAGE: give one of annotate, audit") as refused:
            parse(arguments)
        assert named in str(refused.value)

    def test_files_of_a_pattern_that_the_shell_has_replaced_are_refused(self):
        with pytest.raises(Refused) as refused:
            parse(["annotate", "--input", "a.parquet", "b.parquet", "c.parquet", "--output", "out"])
        assert str(refused.value) == (
            "'b.parquet' belongs to no option (2 such words): "
            "quote patterns, --input='data/*.parquet'"
        )
        with pytest.raises(Refused, match=r"^'in\.parquet' belongs to no option: quote patterns"):
            parse([*FILES, "in.parquet", "--stage=audit"])


class TestValues:
    @pytest.mark.parametrize(
        ("option", "value", "limit"),
        [
            ("--limit", "0", "a whole number from 1"),
            ("--limit", "1.5", "a whole number from 1"),
            ("--batch_tokens", "0", "a whole number from 1 to 1e+08"),
            ("--max_length", "7", "a whole number from 8 to 1e+06"),
            ("--max_length", "many", "a whole number from 8 to 1e+06"),
            ("--overlap", "-1", "a whole number from 0 to 1e+06"),
            ("--max_question", "0", "a whole number from 1 to 1e+06"),
            ("--max_windows", "0", "a whole number from 1 to 1e+07"),
            ("--n_best", "0", "a whole number from 1 to 1000"),
            ("--n_best", "1001", "a whole number from 1 to 1000"),
            ("--max_answer_length", "0", "a whole number from 1 to 10000"),
            ("--null", "maybe", "auto"),
            ("--null_score_diff_threshold", "nan", "a number from -1e+06 to 1e+06"),
            ("--null_score_diff_threshold", "inf", "a number from -1e+06 to 1e+06"),
            ("--worst", "-1", "a whole number from 0 to 10000"),
            ("--chunk_rows", "0", "a whole number from 1 to 1e+07"),
            ("--chunk_bytes", "0", "a whole number from 1"),
            ("--max_failed_fraction", "1.01", "a number from 0 to 1"),
            ("--max_failed_fraction", "-0.1", "a number from 0 to 1"),
            ("--max_failed_fraction", "", "a number from 0 to 1"),
            ("--device", "gpu", "auto, cpu, cuda or cuda:N"),
            ("--device", "cuda:", "auto, cpu, cuda or cuda:N"),
            ("--dtype", "float8", "bfloat16"),
            ("--overwrite", "yes", "not true or false"),
            ("--compile", "1", "not true or false"),
            ("--audit", "on", "not true or false"),
        ],
    )
    def test_a_value_out_of_bounds_is_refused_with_option_value_and_limit(
        self, option: str, value: str, limit: str, capsys: pytest.CaptureFixture[str]
    ):
        with pytest.raises(SystemExit) as stopped:
            parsed(f"{option}={value}")
        assert stopped.value.code == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert option in message
        assert repr(value) in message
        assert limit in message

    def test_output_is_required(self, capsys: pytest.CaptureFixture[str]):
        with pytest.raises(SystemExit) as stopped:
            parse(["annotate", FILES[0]])
        assert stopped.value.code == 2
        assert "--output" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("stage", "given", "missing"),
        [
            ("annotate", (), "input"),
            ("audit", ("--input=",), "input"),
            ("compare", ("--before=a",), "after"),
            ("compare", ("--after=a",), "before"),
        ],
    )
    def test_what_a_stage_reads_is_required(self, stage: str, given: tuple[str, ...], missing: str):
        with pytest.raises(Refused, match=f"--{missing} is missing: {stage} needs it"):
            parse([stage, "--output=out", *given])

    def test_an_option_of_another_stage_is_refused(self):
        with pytest.raises(Refused, match="--max_em_drop=1 applies to compare, not to annotate"):
            parse(["annotate", *FILES, "--max_em_drop=1"])
        with pytest.raises(
            Refused, match="--chunk_rows=5 applies to annotate and audit, not to compare"
        ):
            parse(["compare", "--before=a", "--after=b", "--output=o", "--chunk_rows=5"])
        options, _ = parse(
            ["compare", "--before=a", "--after=b", "--output=o", "--worst=5", "--overwrite"]
        )
        assert (options.worst, options.overwrite, options.max_f1_drop) == (5, True, None)

    @pytest.mark.parametrize(
        ("stage", "given"),
        [
            ("compare", "--date=2026-01-01"),
            ("annotate", "--slice_by=a,b"),
            ("compare", "--null=auto"),
            ("compare", "--audit=true"),
            ("compare", "--audit"),
        ],
    )
    def test_it_is_shown_as_it_was_given(self, stage: str, given: str):
        files = ("--before=a", "--after=b", "--output=o") if stage == "compare" else FILES
        with pytest.raises(Refused, match=f"^{given} applies to .*, not to {stage}"):
            parse([stage, *files, given])

    @pytest.mark.parametrize("option", ["overwrite", "compile", "audit"])
    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            ((), False),
            (("--{}",), True),
            (("--{}=true",), True),
            (("--{}=True",), True),
            (("--{}=false",), False),
            (("--{}", "false"), False),
        ],
    )
    def test_booleans_can_be_flags_or_values(
        self, option: str, given: tuple[str, ...], meant: bool
    ):
        assert getattr(parsed(*(argument.format(option) for argument in given)), option) is meant

    def test_values_that_bound_themselves_are_taken(self):
        options = parsed(
            "--max_failed_fraction=0",
            "--overlap=0",
            "--null_score_diff_threshold",
            "-2.5",
            "--device=cuda:1",
        )
        assert (options.max_failed_fraction, options.overlap, options.device) == (0, 0, "cuda:1")
        assert options.null_score_diff_threshold == -2.5


class TestUnknownOptions:
    @pytest.mark.parametrize(
        ("argument", "hint"),
        [
            ("--nbest=3", "did you mean --n_best?"),
            ("--chunk_row=3", "did you mean --chunk_rows?"),
            ("--max-length=100", "did you mean --max_length?"),
            ("--direct_num_worker=4", "did you mean --direct_num_workers?"),
        ],
    )
    def test_the_nearest_name_is_told(self, argument: str, hint: str):
        with pytest.raises(Refused, match="an option neither of Spanmill nor of Beam") as refused:
            parsed(argument)
        assert argument.split("=")[0] in str(refused.value)
        assert hint in str(refused.value)

    def test_without_anything_near_there_is_no_hint(self):
        with pytest.raises(Refused) as refused:
            parsed("--xyzzy_plugh=1")
        assert "did you mean" not in str(refused.value)

    @pytest.mark.parametrize(
        "argument", ["--in=a", "--chunk_r=3", "--over", "--run=DirectRunner", "--streamin"]
    )
    def test_there_are_no_abbreviations(self, argument: str):
        with pytest.raises(Refused, match=argument.split("=")[0]):
            parsed(argument)

    @pytest.mark.parametrize("arguments", [("--nbest", "3"), ("-v",)])
    def test_however_they_are_written(self, arguments: tuple[str, ...]):
        with pytest.raises(Refused, match=arguments[0]):
            parsed(*arguments)


def test_options_of_beam_pass_through():
    arguments = [
        "--runner=DirectRunner",
        "--num_workers",
        "3",
        "--streaming",
        "--experiments=a",
        "--experiments=b",
    ]
    _, rest = parse(["annotate", *FILES, "--n_best=2", *arguments])
    assert rest == arguments
    options = PipelineOptions(rest)
    assert options.view_as(StandardOptions).runner == "DirectRunner"
    assert options.view_as(StandardOptions).streaming is True
    assert options.view_as(WorkerOptions).num_workers == 3


def test_help_shows_every_group_and_option(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    groups = (
        "input and output",
        "columns",
        "model",
        "windows",
        "answers",
        "audit",
        "units of work",
    )
    assert all(f"\n{group}:\n" in shown for group in groups)
    assert all(
        option in shown for action in make_parser()._actions for option in action.option_strings
    )
    for wanted in (*STAGES, "Exit codes:", "--runner=DataflowRunner"):
        assert wanted in shown


def test_the_help_names_every_default():
    for action in make_parser()._actions:
        if action.type and action.default is not False and action.default not in (None, "", ()):
            assert str(action.help).endswith(f"(default: {action.default})"), action.option_strings
