"""Fixtures of the tests of transforms/."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.reading.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def words(bert_folder: Path) -> Tokenizer:
    """Return the tokenizer of the tiny checkpoint."""
    return Tokenizer(bert_folder)


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path of an output that does not exist yet, in each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "out")
    request.getfixturevalue("memory")
    return "memory://out"
