"""A fault at every operation of a small run: it completes, or reports why and can be resumed."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import run_pipeline
from tests.faults import KINDS, Fault, FaultyFileSystem
from tests.runs import examples, run
from transforms import retries

OUT = "/bucket/out/"


@dataclass
class Store:
    """The faulty store with an input of some rows, one of them rejected.

    whole       output of a run without faults
    operations  of that run, in order
    """

    arguments: tuple[str, ...]
    whole: dict[str, Any]
    operations: list[str]

    def run(self, fault: Fault | None = None, *more: str) -> int:
        FaultyFileSystem.fault = fault
        try:
            return run(*self.arguments, *more)
        finally:
            FaultyFileSystem.fault = None

    def clear(self) -> None:
        for name in [name for name in FaultyFileSystem.store if name.startswith(OUT)]:
            del FaultyFileSystem.store[name]


def objects() -> dict[str, bytes]:
    return {
        name: file.getvalue()
        for name, file in FaultyFileSystem.store.items()
        if name.startswith(OUT)
    }


def content() -> dict[str, Any]:
    """Return the output of a run without its times and retries."""
    found: dict[str, Any] = {}
    for name, value in objects().items():
        if name.endswith(".parquet"):
            found[name] = pq.ParquetFile(io.BytesIO(value)).read().to_pylist()
        elif name.endswith("manifest.json"):
            found[name] = {
                key: told
                for key, told in json.loads(value).items()
                if key not in ("steps", "retries")
            }
        else:
            found[name] = value
    return found


def chunks_that_are_done() -> dict[str, Any]:
    """Return the time of every readable part whose chunk has a part of annotate.

    The part of annotate is written last.
    """
    found = {}
    for name, file in FaultyFileSystem.store.items():
        if "/parts/" in name:
            with contextlib.suppress(Exception):
                pq.ParquetFile(io.BytesIO(file.getvalue()))
                found[name] = file.modified
    return {name: when for name, when in found.items() if name.replace("/audit/", "/") in found}


@pytest.fixture(scope="module", params=["annotate", "annotate with audit"])
def store(bert_folder: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries.POLICY, "sleep", lambda _: None)
        # It reads at times of its own, which vary.
        patch.setattr(run_pipeline, "progress", lambda _: contextlib.nullcontext())
        yield _make_store(bert_folder, request.param)
        FaultyFileSystem.empty()


def _make_store(bert_folder: Path, stage: str) -> Store:
    """Return a store with four chunks for annotate, one of two rows for the slower audit."""
    with_audit = stage.endswith("audit")
    rows = 2 if with_audit else 12
    table = examples(rows).set_column(
        1, "question", pa.array(["Who?"] * (rows - 2) + [None, "Who?"])
    )
    table = table.append_column(
        "answers", pa.array([{"text": ["Ada"], "answer_start": [28]}] * rows)
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=6)
    FaultyFileSystem.empty()
    FaultyFileSystem().pipe_file("/bucket/in/a.parquet", sink.getvalue().to_pybytes())
    arguments = [
        "annotate",
        "--input=faulty://bucket/in/*.parquet",
        f"--output=faulty:/{OUT}",
        f"--model={bert_folder}",
    ]
    made = Store((*arguments, "--chunk_rows=3", f"--audit={str(with_audit).lower()}"), {}, [])
    counting = Fault("none", 0)
    assert made.run(counting) == 0
    made.whole, made.operations = content(), counting.done
    return made


def outlive(store: Store, kind: str, at: int, capfd: pytest.CaptureFixture[str]) -> str:
    """Run once with a fault, and once without if that did not complete. Returns how it ended."""
    store.clear()
    fault = Fault(kind, at)
    capfd.readouterr()
    code = store.run(fault)
    printed = "".join(capfd.readouterr())
    where = f"{kind} at {at}, {fault.done[at - 1]}: exit {code}\n{printed}"
    assert code in (0, 1, 2, 3), where
    if code == 1:
        manifests = [json.loads(data) for name, data in objects().items() if "manifest" in name]
        assert "incomplete" in {manifest["state"] for manifest in manifests}, where
    if code:
        assert "incomplete:" in printed or "refused:" in printed or "did not finish" in printed, (
            where
        )
        kept = chunks_that_are_done()
        again = store.run()
        if again == 2:
            # With torn objects, a torn run.json is refused by name.
            assert kind in ("tear", "tear and gone"), where
            assert (
                "its run.json is damaged. --overwrite removes that first" in capfd.readouterr().err
            )
            kept, again = {}, store.run(None, "--overwrite")
        assert again == 0, where
        if kind != "write lost":  # the chunk of the lost file is recomputed
            assert kept.items() <= chunks_that_are_done().items(), where
    else:
        manifest = json.loads(objects()[f"{OUT}manifest.json"])
        assert manifest["state"] == "complete", where
    assert content() == store.whole, where
    return f"{code}"


ONCE = ("fail", "delay", "tear", "answer lost")
"""Transient kinds: a run must survive them."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_some_operations(store: Store, kind: str, capfd: pytest.CaptureFixture[str]):
    writes = [
        number for number, name in enumerate(store.operations, 1) if name.startswith("pipe_file")
    ]
    for at in (writes[2], int(0.8 * len(store.operations))):
        code = outlive(store, kind, at, capfd)
        if kind in ONCE:
            assert code == "0"


@pytest.mark.torture
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_every_operation(store: Store, kind: str, capfd: pytest.CaptureFixture[str]):
    codes = [outlive(store, kind, at, capfd) for at in range(1, len(store.operations) + 1)]
    with capfd.disabled():
        ends = {code: codes.count(code) for code in sorted(set(codes))}
        print(f"\n{kind} at each of {len(store.operations)} operations: exits {ends}", flush=True)
    if kind in ONCE:
        torn = sum(
            name.endswith("run.json") for name in store.operations if name.startswith("pipe_file")
        )
        assert len(codes) - codes.count("0") == (torn if kind == "tear" else 0)
    if kind == "full":
        assert "1" not in codes  # a full disk ends the run at once


def test_retries_are_counted(store: Store, capfd: pytest.CaptureFixture[str]):
    """The manifest counts retries before its write; those of reading it back are only logged."""
    store.clear()
    assert store.run(Fault("fail", len(store.operations) // 3)) == 0
    # A retry before the stages part is counted by both, a later one by its own stage alone.
    manifests = [content for name, content in objects().items() if name.endswith("manifest.json")]
    assert {json.loads(content)["retries"] for content in manifests} in ({1}, {0, 1})
    printed = capfd.readouterr()
    assert "1 retries after faults of the store" in printed.out
    assert "the store hung up" in printed.err
