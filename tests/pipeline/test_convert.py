"""Files of other formats on the command line: what becomes Parquet, what is reported, what is refused."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from pipeline.convert import ANSWERS_TYPE, convert_rows, main
from pipeline.formats.read_formats import FormatError, ImportedRow
from tests.runs import read_manifest, run

CONTEXT = "Ada 🌊 lit the lamp. Ben rang the bell."


def convert(source: Path | str, output: Path | str, *options: str) -> int:
    return main(["import", f"--input={source}", f"--output={output}", *options])


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


def asked(number: int = 0, start: int | None = 14, **others: Any) -> dict[str, Any]:
    answers = {"text": ["lamp"], "answer_start": [start]}
    return {"id": f"row {number}", "question": "What?", "context": CONTEXT, "answers": answers, **others}


def test_what_is_written_is_the_input_of_an_audit(tmp_path: Path, bert_folder: Path):
    unanswerable = asked(1) | {"answers": {"text": [], "answer_start": []}}
    source = write_lines(tmp_path / "a.jsonl", asked(0, page=3), unanswerable)
    assert convert(source, tmp_path / "a.parquet") == 0
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.field("answers").type == ANSWERS_TYPE
    assert table.to_pylist() == [
        {**asked(0), "page": 3},
        {**unanswerable, "page": None},
    ]
    assert run("audit", f"--input={tmp_path}/a.parquet", f"--output={tmp_path}/out", f"--model={bert_folder}") == 0
    assert read_manifest(tmp_path / "out")["rows"]["scored"] == 1


def test_misaligned_golds_are_kept_reported_and_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write_lines(tmp_path / "a.jsonl", asked(0), asked(1, 15), asked(2, 15), asked(3, None))
    assert convert(source, tmp_path / "a.parquet") == 0
    told = capsys.readouterr().out
    assert "4 rows" in told
    assert "golds: 1 aligned, 1 located, 2 misaligned" in told
    assert "2 of them are right if starts count utf16: see --offsets=utf16" in told
    lines = [json.loads(line) for line in (tmp_path / "a.parquet.golds.jsonl").read_text("utf-8").splitlines()]
    assert [(line["id"], line["reason"], line["fits"]) for line in lines] == [
        ("row 1", "gold_misaligned", "utf16"),
        ("row 2", "gold_misaligned", "utf16"),
    ]
    starts = [row["answers"]["answer_start"] for row in pq.read_table(tmp_path / "a.parquet").to_pylist()]
    assert starts == [[14], [15], [15], [14]]
    assert convert(write_lines(source, asked(1, 15)), tmp_path / "a.parquet", "--offsets=utf16") == 0
    assert pq.read_table(tmp_path / "a.parquet").to_pylist()[0]["answers"]["answer_start"] == [14]
    assert (tmp_path / "a.parquet.golds.jsonl").read_text() == ""


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_the_ending_says_the_format_and_the_compression(name: str, tmp_path: Path):
    qas = [{"id": 1, "question": "What?", "answers": [{"text": "lamp", "answer_start": 14}]}]
    content = json.dumps({"data": [{"title": "Lamps", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert convert(tmp_path / name, tmp_path / "a.parquet") == 0
    (row,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert (row["id"], row["title"], row["answers"]["text"]) == ("1", "Lamps", ["lamp"])


def test_from_store_to_store():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/convert/a.csv", f'question,context,answers\nWhat?,"{CONTEXT}",lamp\n'.encode())
    assert convert("memory://convert/a.csv", "memory://convert/a.parquet") == 0
    (row,) = pq.read_table(fs.open("/convert/a.parquet")).to_pylist()
    assert row == {"question": "What?", "context": CONTEXT, "answers": {"text": ["lamp"], "answer_start": [14]}}


def test_many_rows_are_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.convert._ROWS_AT_ONCE", 4)
    monkeypatch.setattr("pipeline.convert._CHARACTERS_AT_ONCE", 100)
    source = write_lines(tmp_path / "a.jsonl", *[asked(n) for n in range(8)])
    assert convert(source, tmp_path / "a.parquet") == 0
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] == [3, 3, 2]  # of 39 characters each
    assert file.read().column("id").to_pylist() == [f"row {n}" for n in range(8)]


def test_columns_have_the_type_that_holds_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.convert._ROWS_AT_ONCE", 1)
    rows = [
        asked(0),
        asked(1, page=None, tags=[]),
        asked(2, page=1, tags=["a"], at={"x": 1}),
        asked(3, page=2.5, at={"y": "b"}),
    ]
    assert convert(write_lines(tmp_path / "a.jsonl", *rows), tmp_path / "a.parquet") == 0
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column("page").to_pylist() == [None, None, 1.0, 2.5]
    assert table.column("tags").to_pylist() == [None, [], ["a"], None]
    assert table.column("at").to_pylist() == [None, None, {"x": 1, "y": None}, {"x": None, "y": "b"}]


def test_rows_that_parquet_can_t_hold_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bad = {
        "question_not_utf8": asked(1) | {"question": "\ud83c?"},
        "context_not_utf8": asked(2) | {"context": "\udf0a lit"},
        "answers_not_utf8": asked(3) | {"answers": ["lamp", "\ud83c"]},
        "tags_not_utf8": asked(4, tags=[{"a": "\ud83c"}]),
        "id_not_utf8": asked(5) | {"id": "\ud83c"},
        "gold_out_of_range": asked(6, 10**12),
    }
    source = write_lines(tmp_path / "a.jsonl", asked(0), *bad.values(), asked(7))
    assert convert(source, tmp_path / "a.parquet") == 0
    assert pq.read_table(tmp_path / "a.parquet").column("id").to_pylist() == ["row 0", "row 7"]
    told = capsys.readouterr().out
    assert "2 rows: " in told
    assert "6 rows left out, which Parquet can't hold: " in told
    lines = [json.loads(line) for line in (tmp_path / "a.parquet.golds.jsonl").read_text("utf-8").splitlines()]
    assert lines == [{"id": row["id"], "reason": reason} for reason, row in bad.items()]


def test_half_a_surrogate_pair_in_squad_json(tmp_path: Path):
    qas = [{"id": name, "question": name, "answers": []} for name in ("a?", "b\ud83c")]
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]}))
    assert convert(tmp_path / "a.json", tmp_path / "a.parquet") == 0
    assert pq.read_table(tmp_path / "a.parquet").column("question").to_pylist() == ["a?"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("rows", "options", "message"),
        [
            ([], (), "there is no row in it"),
            ([{"question": "Who?"}], (), "line 1: no 'context'"),
            ([asked(page=1), asked(page="two")], (), "column 'page'"),
            ([asked(page=1), asked(page="two")], (), "--drop_columns=page leaves it out"),
            ([asked() | {"question": 7}], (), "rows 0 to 0, column 'question'"),
            ([asked() | {"ask": "Who?"}], ("--question_column=ask",), "column 'question' stands beside the one"),
        ],
    )
    def test_what_is_wrong_is_named_and_nothing_is_left_behind(
        self,
        rows: list[dict[str, Any]],
        options: tuple[str, ...],
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ):
        source = write_lines(tmp_path / "a.jsonl", *rows)
        assert convert(source, tmp_path / "out" / "a.parquet", *options) == 2
        error = capsys.readouterr().err
        assert f"--input={source} as --format=jsonl: " in error
        assert message in error
        assert list((tmp_path / "out").iterdir()) == []

    def test_what_can_be_read_only_once(self, tmp_path: Path):
        rows = iter([ImportedRow("1", "Who?", CONTEXT, [])])
        with pytest.raises(FormatError, match="it had 1 rows, then 0: it was changed, or is a pipe"):
            convert_rows(lambda: rows, str(tmp_path / "a.parquet"), "code_points", io.StringIO(), Counter())
        assert not (tmp_path / "a.parquet").exists()

    def test_files_that_are_not_there_or_say_no_format(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        assert convert(tmp_path / "a.json", tmp_path / "b.parquet") == 2
        assert "a.json" in capsys.readouterr().err
        assert convert(tmp_path / "a.data", tmp_path / "b.parquet") == 2
        assert "the ending says no format, give --format=squad|mrqa|jsonl|csv|tsv" in capsys.readouterr().err
