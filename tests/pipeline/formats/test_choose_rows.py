"""The rows that are shown. Whatever must not be read for them is damaged first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.formats.choose_rows import Chooser
from pipeline.formats.finished import open_run
from pipeline.job.options import Refused
from tests.runs import examples, part_files, read_parts, run, write_input

SHOWN = ("id", "question", "context", "qa_nll")


@pytest.fixture(scope="module")
def audited(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run an audit of 21 rows in parts of four, with prefixed columns."""
    folder = tmp_path_factory.mktemp("choose")
    table = examples(21).append_column(
        "answers", pa.array([{"text": ["Ada"], "answer_start": [28]}] * 21)
    )
    table = table.append_column("third", pa.array([n % 3 for n in range(21)]))
    source = write_input(folder / "a.parquet", table)
    options = ("--chunk_rows=4", "--output_prefix=qa_", f"--model={bert_folder}")
    assert run("audit", f"--input={source}", f"--output={folder}/out", *options) == 0
    return folder / "out"


@pytest.fixture
def damaged(audited: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the audit with unreadable columns (all but some) in parts (all but some)."""

    def damage(keep_parts: set[int], keep_columns: set[str]) -> Path:
        output = tmp_path / "out"
        shutil.copytree(audited, output)
        for number, part in enumerate(part_files(output)):
            metadata = pq.read_metadata(part)
            content = bytearray(part.read_bytes())
            for group in (metadata.row_group(k) for k in range(metadata.num_row_groups)):
                for column in (group.column(k) for k in range(group.num_columns)):
                    if (
                        number not in keep_parts
                        and column.path_in_schema.split(".")[0] not in keep_columns
                    ):
                        start = column.dictionary_page_offset or column.data_page_offset
                        content[start : start + column.total_compressed_size] = (
                            b"\xff" * column.total_compressed_size
                        )
            part.write_bytes(content)
        return output

    return damage


def chooser(output: Path, where: str | None = None) -> Chooser:
    return Chooser(open_run(str(output)), SHOWN, where)


def ids(rows: list[dict[str, object]]) -> list[object]:
    return [row["id"] for row in rows]


def test_damage_is_damage(damaged: Callable[..., Path]):
    with pytest.raises(OSError):
        chooser(damaged(set(), {"id"})).sample(3)


def test_the_worst_come_first_and_the_rest_is_not_read(audited: Path, damaged: Callable[..., Path]):
    rows = read_parts(audited).to_pylist()
    ranked = sorted(rows, key=lambda row: -row["qa_nll"])
    wanted = [row["id"] for row in ranked[:2]]
    parts = {int(str(name).split()[1]) // 4 for name in wanted}
    assert len(parts) < 6
    found = chooser(damaged(parts, {"qa_nll"})).worst(2)
    assert ids(found) == wanted
    assert found[0]["context"] == ranked[0]["context"]


def test_the_worst_of_those_that_meet_a_condition(audited: Path):
    rows = [row for row in read_parts(audited).to_pylist() if row["third"] == 2]
    ranked = sorted(rows, key=lambda row: -row["qa_nll"])
    assert ids(chooser(audited, "third == 2").worst(3)) == [row["id"] for row in ranked[:3]]
    assert ids(chooser(audited, "third == 2").worst(99)) == [row["id"] for row in ranked]
    assert chooser(audited, "third == 7").worst(3) == []


def test_an_id_is_found_by_statistics(damaged: Callable[..., Path]):
    """No other part's range of ids has it: as text, "row 9" is above all of "row 1x"."""
    (row,) = chooser(damaged({2}, set())).by_id("row 9")
    assert row["question"] == "Who kept lamp 9?"


def test_an_id_that_is_not_there_or_not_of_the_type(
    audited: Path, tmp_path: Path, bert_folder: Path
):
    assert chooser(audited).by_id("row 99") == []
    numbered = examples(2).set_column(0, "id", pa.array([7, 8]))
    source = write_input(tmp_path / "a.parquet", numbered)
    assert (
        run("annotate", f"--input={source}", f"--output={tmp_path}/out", f"--model={bert_folder}")
        == 0
    )
    assert ids(chooser(tmp_path / "out").by_id("8")) == [8]
    with pytest.raises(Refused, match="--id=eight: ids are int64"):
        chooser(tmp_path / "out").by_id("eight")


def test_a_sample_is_spread_and_reads_its_own_parts_only(
    audited: Path, damaged: Callable[..., Path]
):
    assert ids(chooser(audited).sample(21)) == [f"row {n}" for n in range(21)]
    assert ids(chooser(audited).sample(14)) == [f"row {place * 21 // 14}" for place in range(14)]
    assert ids(chooser(audited).sample(5)) == [f"row {n}" for n in range(0, 20, 4)]
    assert ids(chooser(damaged({0, 2}, set())).sample(2)) == ["row 0", "row 10"]


def test_a_sample_of_those_that_meet_a_condition(audited: Path, damaged: Callable[..., Path]):
    assert ids(chooser(audited, "third == 1").sample(7)) == [f"row {n}" for n in range(1, 21, 3)]
    assert ids(chooser(damaged({0, 2}, {"third"}), "third == 1").sample(2)) == ["row 1", "row 10"]


def test_a_condition_that_means_nothing_is_refused(audited: Path):
    with pytest.raises(Refused, match="--where='' is not a condition: it is empty"):
        chooser(audited, "")
    with pytest.raises(Refused, match="--where='loss' in 'loss > 3': no such column"):
        chooser(audited, "loss > 3")


def test_annotate_has_no_losses(tmp_path: Path, bert_folder: Path):
    source = write_input(tmp_path / "a.parquet", examples(2))
    assert (
        run("annotate", f"--input={source}", f"--output={tmp_path}/out", f"--model={bert_folder}")
        == 0
    )
    with pytest.raises(Refused, match=r"--worst=3: .* has no losses"):
        chooser(tmp_path / "out").worst(3)
