"""Fixtures of the transforms' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from model.reading.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def words(bert_folder: Path) -> Tokenizer:
    """The tiny checkpoint's tokenizer."""
    return Tokenizer(bert_folder)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's memory file system, the object store of these tests, empty before and after."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An output that does not exist yet, in each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "out")
    request.getfixturevalue("memory")
    return "memory://out"
