"""Claim: what is published in the output of this run, and in one that another has taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.transforms.fakes import claimed
from transforms import claim
from transforms.claim import ClaimLost
from transforms.run_files import RunFiles


def test_while_the_claim_stands_files_come_and_go(tmp_path: Path):
    output = claimed(tmp_path)
    output.commit(b"content", "parts", "p")
    assert (tmp_path / "parts" / "p").read_bytes() == b"content"
    output.remove("parts", "p")
    output.remove("parts", "p")
    assert not (tmp_path / "parts" / "p").exists()


@pytest.mark.parametrize("left", [None, b"", b'{"run": "another run"}', b'{"configuration": {}}'])
def test_in_the_output_of_another_run_nothing_is_changed(tmp_path: Path, left: bytes | None):
    output = claimed(tmp_path)
    output.commit(b"theirs", "parts", "p")
    (tmp_path / RunFiles.RUN).unlink()
    if left is not None:
        (tmp_path / RunFiles.RUN).write_bytes(left)
    with pytest.raises(ClaimLost, match="now belongs to another run"):
        output.commit(b"mine", "parts", "p")
    with pytest.raises(ClaimLost, match="now belongs to another run"):
        output.remove("parts", "p")
    assert (tmp_path / "parts" / "p").read_bytes() == b"theirs"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_published_while_another_run_takes_over_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
):
    output, part = claimed(tmp_path), tmp_path / "parts" / "p"
    publish = claim.commit

    def be_overtaken(*arguments: Any) -> None:
        publish(*arguments)
        (tmp_path / RunFiles.RUN).write_bytes(b'{"run": "another run"}')
        if replaced:
            part.write_bytes(b"theirs")

    monkeypatch.setattr(claim, "commit", be_overtaken)
    with pytest.raises(ClaimLost, match="now belongs to another run"):
        output.commit(pa.py_buffer(b"mine"), "parts", "p")
    assert (part.read_bytes() if part.exists() else None) == (b"theirs" if replaced else None)


@pytest.mark.parametrize("before", [None, b"of an earlier try"])
def test_what_is_published_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
):
    output = claimed(tmp_path)
    output.publish(b"content", "audit.json")
    assert (tmp_path / "audit.json").read_bytes() == b"content"
    (tmp_path / "audit.json").unlink()
    if before is not None:
        (tmp_path / "audit.json").write_bytes(before)
    monkeypatch.setattr(claim, "commit", lambda *_: None)  # the store loses the write
    with pytest.raises(OSError, match=r"audit\.json"):
        output.publish(b"content", "audit.json")
