"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch: threads that wait for each other cost tiny networks most

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.runs import Annotate

# What draws examples slowly, or takes long for one, is a busy machine.
settings.register_profile(
    "spanmill",
    deadline=None,
    max_examples=100,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("spanmill")


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT question answering checkpoint, built once."""
    from tests.checkpoints import (
        build_bert,
    )  # seconds of imports, which a process that hands out the tests does without

    return build_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def annotate(bert_folder: Path) -> Annotate:
    """Runs annotate with the tiny checkpoint: `annotate(input, output, *options)` is the exit code."""

    def run_annotate(inputs: Path | str, output: Path | str, *options: str) -> int:
        from tests.runs import run

        return run(
            "annotate",
            f"--input={inputs}",
            f"--output={output}",
            f"--model={bert_folder}",
            *options,
        )

    return run_annotate


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output that is not there yet."""
    return tmp_path / "out"
