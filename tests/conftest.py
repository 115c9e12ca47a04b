"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads that wait for each other cost tiny networks most

import pytest

from tests.checkpoints import build_bert


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT question answering checkpoint, built once."""
    return build_bert(tmp_path_factory.mktemp("bert"))
