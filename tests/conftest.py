"""Fixtures that many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import build_bert


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT question answering checkpoint, built once."""
    return build_bert(tmp_path_factory.mktemp("bert"))
