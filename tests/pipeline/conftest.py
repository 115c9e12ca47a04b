"""Fixtures of the pipelines' tests: whole audits, each run once for all files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tests.pipeline.audits import ANSWERS, OPTIONS, ROWS, WINDOWS, Audit, gold_examples
from tests.runs import read_parts, run, write_input


@pytest.fixture(scope="session")
def audit(bert_folder: Path) -> Audit:
    """Return `audit(input, output, *options, stage="audit")`, which runs a stage.

    It uses the tiny checkpoint and returns the exit code.
    """

    def run_audit(
        inputs: Path | str, output: Path | str, *options: str, stage: str = "audit"
    ) -> int:
        arguments = (
            f"--input={inputs}",
            f"--output={output}",
            f"--model={bert_folder}",
            "--dtype=float32",
        )
        return run(stage, *arguments, *options)

    return run_audit


@pytest.fixture(scope="session")
def gold(audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two files, in row groups of 20 and of 15 rows.

    An untrained checkpoint is never right, so that rows of the last kind have its answers as golds.
    """
    folder = tmp_path_factory.mktemp("gold")
    table = gold_examples(ROWS)
    write_input(folder / "first.parquet", table)
    assert audit(folder / "first.parquet", folder / "answers", *WINDOWS, stage="annotate") == 0
    answers = table["answers"].to_pylist()
    for row in read_parts(folder / "answers").to_pylist()[10::11]:
        number = int(row["id"].split()[1])
        answers[number] = {"text": [row["answer_text"]], "answer_start": [row["answer_start"]]}
    table = table.set_column(
        table.column_names.index("answers"), "answers", pa.array(answers, ANSWERS)
    )
    write_input(folder / "in" / "a.parquet", table.slice(0, 40), row_group_size=20)
    write_input(folder / "in" / "b.parquet", table.slice(40), row_group_size=15)
    return folder / "in"


@pytest.fixture(scope="session", params=["off", "on"])
def null(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def finished(gold: Path, audit: Audit, null: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run an audit, without and with the null option; tests must not change its output."""
    output = tmp_path_factory.mktemp(f"null-{null}") / "out"
    assert audit(gold, output, f"--null={null}", *OPTIONS) == 0
    return output


@pytest.fixture(scope="session")
def priced(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Audit 22 rows in two parts, with a price per hour; tests must not change the output."""
    folder = tmp_path_factory.mktemp("priced")
    write_input(folder / "in" / "a.parquet", gold_examples(22))
    arguments = (f"--input={folder}/in/*", f"--output={folder}/out", f"--model={bert_folder}")
    assert run("audit", *arguments, "--chunk_rows=11", "--price_per_hour=3600") == 0
    return folder / "out"
