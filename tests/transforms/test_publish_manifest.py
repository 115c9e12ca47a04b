"""The pending manifest becomes the manifest, whatever happened to the step before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.transforms.fakes import claimed
from transforms.claim import RUN, ClaimLost
from transforms.publish_manifest import publish_manifest
from transforms.write_manifest import MANIFEST, PENDING


def test_what_was_pending_is_the_manifest(tmp_path: Path):
    output = claimed(tmp_path)
    output.commit(b"earlier", MANIFEST)
    output.commit(b"content", PENDING)
    publish_manifest(output)
    assert (tmp_path / MANIFEST).read_bytes() == b"content"
    assert not (tmp_path / PENDING).exists()


def test_it_may_be_repeated(tmp_path: Path):
    """After all of it, and after half of it."""
    output = claimed(tmp_path)
    output.commit(b"content", PENDING)
    publish_manifest(output)
    publish_manifest(output)
    output.commit(b"content", PENDING)
    publish_manifest(output)
    assert (tmp_path / MANIFEST).read_bytes() == b"content"
    assert not (tmp_path / PENDING).exists()


def test_another_runs_output_is_left_alone(tmp_path: Path):
    output = claimed(tmp_path)
    output.commit(b"content", PENDING)
    (tmp_path / RUN).write_bytes(b'{"run": "another run"}')
    with pytest.raises(ClaimLost, match="belongs to another run now"):
        publish_manifest(output)
    assert not (tmp_path / MANIFEST).exists()
