"""Fixtures of the tests of transforms/."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path of an output that does not exist yet, in each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "out")
    request.getfixturevalue("memory")
    return "memory://out"
