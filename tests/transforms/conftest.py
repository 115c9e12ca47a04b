"""Fixtures of the transforms' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def words(bert_folder: Path) -> Tokenizer:
    """The tiny checkpoint's tokenizer."""
    return Tokenizer(bert_folder)
