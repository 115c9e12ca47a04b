"""Fixtures of the tests of transforms/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from model.reading.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def words(bert_folder: Path) -> Tokenizer:
    """Return the tokenizer of the tiny checkpoint."""
    return Tokenizer(bert_folder)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """Yield fsspec's memory file system, the object store of these tests, and clear it after."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path of an output that does not exist yet, in each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "out")
    request.getfixturevalue("memory")
    return "memory://out"
