"""Fixtures that many tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported: threads that wait for each other slow tiny networks down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from model.reading.tokenizer import Tokenizer
    from tests.runs import Annotate

# Slow examples are the fault of a busy machine.
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
    """Return a tiny BERT question answering checkpoint, built once."""
    # Seconds of imports that a process which only distributes the tests does not need.
    from tests.checkpoints import (
        build_bert,
    )

    return build_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def words(bert_folder: Path) -> Tokenizer:
    """Return the tokenizer of the tiny checkpoint."""
    from model.reading.tokenizer import Tokenizer

    return Tokenizer(bert_folder)


@pytest.fixture(scope="session")
def hub_address() -> Iterator[str]:
    """Run the stand-in of the Hugging Face hub, a process. Yield its address."""
    from tests.hub import serving_hub

    with serving_hub() as running:
        yield running


@pytest.fixture
def memory() -> Iterator[AbstractFileSystem]:
    """Yield fsspec's memory file system, the object store of these tests, and clear it after."""
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def no_models_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Download models into a folder of the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def annotate(bert_folder: Path) -> Annotate:
    """Return a function that runs annotate with the tiny checkpoint.

    `annotate(input, output, *options)` returns the exit code.
    """

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
    """Return the path of an output that does not exist yet."""
    return tmp_path / "out"
