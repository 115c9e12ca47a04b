"""The commands in the pages of deploy/ have only options of Spanmill or Beam."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.job.options import parse
from tests.runs import HOUSE

DEPLOY = HOUSE / "deploy"
VARIABLES = {
    "BUCKET": "gs://my-bucket",
    "PROJECT": "my-project",
    "REGION": "us-central1",
    "IMAGE": "docker.pkg.dev/p/spanmill",
}


def with_variables(text: str) -> str:
    return re.sub(r"\$(\w+)", lambda found: VARIABLES[found[1]], text)


def commands(page: str, program: str) -> Iterator[list[str]]:
    """Return the arguments of each command of a page that begins so, also over several lines."""
    text = (DEPLOY / page).read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith(program):
            yield shlex.split(
                with_variables(line.removeprefix(program).replace("$(date -u +%Y%m%d)", "20261124"))
            )


def parameters() -> set[str]:
    """Return the parameters of the Flex Template; a launch with others may be refused."""
    return {
        each["name"]
        for each in json.loads((DEPLOY / "dataflow" / "metadata.json").read_text("utf-8"))[
            "parameters"
        ]
    }


@pytest.mark.parametrize(("page", "count"), [("dataflow/README.md", 2), ("flink/README.md", 1)])
def test_jobs(page: str, count: int):
    found = list(commands(page, "python run_pipeline.py "))
    assert len(found) == count
    for arguments in found:
        options, rest = parse(arguments)
        assert options.stage == "annotate"
        assert any(argument.startswith("--runner=") for argument in rest)


def test_the_templates_launch():
    """The template's launcher passes every parameter as an option."""
    (arguments,) = commands("dataflow/README.md", "gcloud dataflow flex-template run ")
    given = [
        argument.split("^~^")[1].split("~")
        for argument in arguments
        if argument.startswith("--parameters=")
    ]
    assert {each.split("=")[0] for several in given for each in several} <= parameters()
    options, rest = parse(
        [f"--{each}" for several in given for each in several] + ["--runner=DataflowRunner"]
    )
    assert (options.stage, options.device, options.dtype) == ("annotate", "cuda", "bfloat16")
    assert any(
        argument.startswith("--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1")
        for argument in rest
    )


def test_the_nightly_launch():
    script = (DEPLOY / "dataflow" / "schedule.sh").read_text("utf-8")
    body = json.loads(with_variables(script.split("<<JSON\n")[1].split("\nJSON\n")[0]))
    given = body["launchParameter"]["parameters"]
    assert given.keys() <= parameters()
    options, rest = parse([f"--{name}={value}" for name, value in given.items()])
    assert (options.stage, options.output) == ("annotate", "gs://my-bucket/out/date={date}")
    assert rest == ["--number_of_worker_harness_threads=2"]


@pytest.mark.parametrize(("exists", "verb"), [(False, "create"), (True, "update")])
def test_the_nightly_job_is_made_or_brought_up_to_date(tmp_path: Path, exists: bool, verb: str):
    """A script in gcloud's place writes down how it is called."""
    gcloud = tmp_path / "gcloud"
    code = 0 if exists else 1
    gcloud.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$3" != describe ] || exit {code}\n'
    )
    gcloud.chmod(0o755)
    names = ("PROJECT", "REGION", "BUCKET", "IMAGE", "ACCOUNT")
    subprocess.run(
        ["bash", DEPLOY / "dataflow" / "schedule.sh"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **{name: name.lower() for name in names}},
        check=True,
    )
    asked, made, *_ = (tmp_path / "calls").read_text().splitlines()
    assert asked.startswith("scheduler jobs describe spanmill-nightly --project=project")
    assert made.startswith(f"scheduler jobs {verb} http spanmill-nightly --project=project")
