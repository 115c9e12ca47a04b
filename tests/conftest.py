"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads that wait for each other cost tiny networks most

import pytest

from tests.checkpoints import build_bert
from tests.runs import Annotate, run


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT question answering checkpoint, built once."""
    return build_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def annotate(bert_folder: Path) -> Annotate:
    """Runs annotate with the tiny checkpoint: `annotate(input, output, *options)` is the exit code."""

    def run_annotate(inputs: Path | str, output: Path | str, *options: str) -> int:
        return run("annotate", f"--input={inputs}", f"--output={output}", f"--model={bert_folder}", *options)

    return run_annotate


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output that is not there yet."""
    return tmp_path / "out"
