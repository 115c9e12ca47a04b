"""The recipe of deploy/gpu: its commands on a tiny hub and a tiny SQuAD, in this process."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model import calibrate, train, try_int8
from model.checkpoint import read_settings
from pipeline import convert
from tests.checkpoints import MPNET, build_bert
from tests.runs import HOUSE, examples, run

MODULES: dict[str, Callable[[list[str]], int]] = {
    "pipeline.convert": convert.main,
    "model.train": train.main,
    "model.calibrate": calibrate.main,
    "model.try_int8": try_int8.main,
}

COMMIT = "0" * 40


def commands(**variables: str) -> list[list[str]]:
    """Return the commands of the script, as its shell expands them, with these variables."""
    done = subprocess.run(
        ["sh", HOUSE / "deploy" / "gpu" / "train_reader.sh"],
        env={"PATH": os.environ["PATH"], "PYTHON": "echo", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return [shlex.split(line) for line in done.stdout.splitlines()]


def write_squad(path: Path, first: int, unanswerable: bool) -> None:
    """Write SQuAD JSON of 24 questions about 24 passages, a third of them unanswerable or none."""
    paragraphs = []
    for k, row in enumerate(examples(24, first).to_pylist()):
        found: dict[str, Any] = {"id": row["id"], "question": row["question"], "answers": []}
        if unanswerable:
            found["is_impossible"] = k % 3 == 0
        if not found.get("is_impossible"):
            found["answers"] = [{"text": "Ada", "answer_start": row["context"].index("Ada")}]
        paragraphs.append({"context": row["context"], "qas": [found]})
    data = [{"title": "Lamps", "paragraphs": paragraphs}]
    path.write_text(json.dumps({"version": "v2.0", "data": data}), "utf-8")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the hub's local cache, in which the two bases of the recipe are tiny networks."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, build in (("all-MiniLM-L6-v2", build_bert), ("all-mpnet-base-v2", MPNET.build)):
        repository = cache / f"models--sentence-transformers--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        build(repository / "snapshots" / COMMIT)
    return cache


def test_its_commands_make_a_reader_of_the_base_s_size(hub: Path, tmp_path: Path):
    squad, out = tmp_path / "squad", tmp_path / "out"
    squad.mkdir()
    write_squad(squad / "train-v2.0.json", 0, unanswerable=True)
    write_squad(squad / "dev-v1.1.json", 100, unanswerable=False)
    write_squad(squad / "dev-v2.0.json", 200, unanswerable=True)
    for command in commands(SQUAD=str(squad), OUT=str(out), BATCH_TOKENS="512"):
        if command[0] == "-m":
            assert MODULES[command[1]](command[2:]) == 0, command
        else:
            assert command[0] == "run_pipeline.py"
            assert run(*command[1:]) == 0, command

    settings = read_settings(out / "student")
    assert settings.null
    assert settings.temperature != 1.0
    assert "int8" in json.loads((out / "student" / "config.json").read_text("utf-8"))["spanmill"]
    # Distilling changes no shape: float16 halves the file of the float32 base.
    base = next(hub.glob("*MiniLM*/snapshots/*/model.safetensors")).stat().st_size
    assert 0.4 < (out / "student" / "model.safetensors").stat().st_size / base < 0.6
    first, second = (
        json.loads((out / f"audit-dev-{version}" / "audit.json").read_text("utf-8"))
        for version in ("v1.1", "v2.0")
    )
    assert first["rows"]["scored"] == 24
    assert (second["rows"]["scored"], second["rows"]["null_scored"]) == (16, 8)
    assert second["all"]["answerability_auc"]["unanswerable"] == 8


def test_without_a_network_it_takes_what_is_there(tmp_path: Path):
    """Data and a trained teacher that are given are used, neither imported nor trained."""
    given = {"TRAIN": "a.parquet,b.parquet", "EVAL": "c.parquet", "TEACHER": "t", "BASE": "b"}
    student, calibrated, audited, tried = commands(OUT=str(tmp_path), **given)
    assert student[:2] == ["-m", "model.train"]
    found = dict(zip(student[2:], student[3:], strict=False))
    assert (found["--train"], found["--keep_out"]) == ("a.parquet,b.parquet", "c.parquet")
    assert (found["--teacher"], found["--base"]) == ("t", "b")
    assert calibrated[:2] == ["-m", "model.calibrate"]
    assert tried[:2] == ["-m", "model.try_int8"]
    assert audited[-1] == f"{tmp_path}/audit-c"
