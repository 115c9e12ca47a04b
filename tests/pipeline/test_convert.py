"""Conversion of other formats from the command line: Parquet, reports and refusals."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from pipeline.convert import main
from pipeline.formats.survey_rows import ANSWERS_TYPE
from tests.runs import read_manifest, run

CONTEXT = "Ada 🌊 lit the lamp. Ben rang the bell."


def convert(source: Path | str, output: Path | str, *options: str) -> int:
    return main(["import", f"--input={source}", f"--output={output}", *options])


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


def asked(number: int = 0, start: int | None = 14, **others: Any) -> dict[str, Any]:
    answers = {"text": ["lamp"], "answer_start": [start]}
    return {
        "id": f"row {number}",
        "question": "What?",
        "context": CONTEXT,
        "answers": answers,
        **others,
    }


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
    assert (
        run(
            "audit",
            f"--input={tmp_path}/a.parquet",
            f"--output={tmp_path}/out",
            f"--model={bert_folder}",
        )
        == 0
    )
    assert read_manifest(tmp_path / "out")["rows"]["scored"] == 1


def test_documents_need_no_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, output = tmp_path / "a.csv", tmp_path / "a.parquet"
    source.write_text("id,context,year\nlease,Ada lit the lamp.,1871\n", "utf-8")
    assert convert(source, output) == 2
    assert "--documents imports rows without questions" in capsys.readouterr().err
    assert not output.exists()
    assert convert(source, output, "--documents") == 0
    assert capsys.readouterr().out == f"1 rows: {output}\n"
    assert pq.read_table(output).to_pylist() == [
        {"id": "lease", "context": "Ada lit the lamp.", "year": "1871"}
    ]


def test_documents_need_contexts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write_lines(tmp_path / "a.jsonl", {"question": "Who?", "body": "Ada."})
    assert convert(source, tmp_path / "a.parquet", "--documents") == 2
    assert "no row has text as its context" in capsys.readouterr().err


def test_misaligned_golds_are_kept_reported_and_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = write_lines(tmp_path / "a.jsonl", asked(0), asked(1, 15), asked(2, 15), asked(3, None))
    assert convert(source, tmp_path / "a.parquet") == 0
    told = capsys.readouterr().out
    assert "4 rows" in told
    assert "golds: 1 aligned, 1 located, 2 misaligned" in told
    assert "2 of them are right if starts count utf16: see --offsets=utf16" in told
    lines = [
        json.loads(line)
        for line in (tmp_path / "a.parquet.golds.jsonl").read_text("utf-8").splitlines()
    ]
    assert [(line["id"], line["reason"], line["fits"]) for line in lines] == [
        ("row 1", "gold_misaligned", "utf16"),
        ("row 2", "gold_misaligned", "utf16"),
    ]
    starts = [
        row["answers"]["answer_start"] for row in pq.read_table(tmp_path / "a.parquet").to_pylist()
    ]
    assert starts == [[14], [15], [15], [14]]
    assert (
        convert(write_lines(source, asked(1, 15)), tmp_path / "a.parquet", "--offsets=utf16") == 0
    )
    assert pq.read_table(tmp_path / "a.parquet").to_pylist()[0]["answers"]["answer_start"] == [14]
    assert (tmp_path / "a.parquet.golds.jsonl").read_text() == ""


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_the_ending_says_the_format_and_the_compression(name: str, tmp_path: Path):
    qas = [{"id": 1, "question": "What?", "answers": [{"text": "lamp", "answer_start": 14}]}]
    content = json.dumps(
        {"data": [{"title": "Lamps", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}
    ).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert convert(tmp_path / name, tmp_path / "a.parquet") == 0
    (row,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert (row["id"], row["title"], row["answers"]["text"]) == ("1", "Lamps", ["lamp"])


def test_from_store_to_store(memory: fsspec.AbstractFileSystem):
    memory.pipe_file(
        "/convert/a.csv", f'question,context,answers\nWhat?,"{CONTEXT}",lamp\n'.encode()
    )
    assert convert("memory://convert/a.csv", "memory://convert/a.parquet") == 0
    (row,) = pq.read_table(memory.open("/convert/a.parquet")).to_pylist()
    assert row == {
        "question": "What?",
        "context": CONTEXT,
        "answers": {"text": ["lamp"], "answer_start": [14]},
    }


def test_rows_that_parquet_can_t_hold_are_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bad: dict[str, Any] = {
        "question_not_utf8": asked(1) | {"question": "\ud83c?"},
        "context_not_utf8": asked(2) | {"context": "\udf0a lit"},
        "answers_not_utf8": asked(3) | {"answers": ["lamp", "\ud83c"]},
        "tags_not_utf8": asked(4, tags=[{"a": "\ud83c"}]),
        "id_not_utf8": asked(5) | {"id": "\ud83c"},
        "column_name_not_utf8": asked(6) | {"\ud83c": 1},
    }
    source = write_lines(tmp_path / "a.jsonl", asked(0), *bad.values(), asked(7))
    assert convert(source, tmp_path / "a.parquet") == 0
    assert pq.read_table(tmp_path / "a.parquet").column("id").to_pylist() == ["row 0", "row 7"]
    told = capsys.readouterr().out
    assert "2 rows: " in told
    reasons = ", ".join(f"1 {reason}" for reason in sorted(bad))
    assert f"6 rows left out, which Parquet can't hold: {reasons}: " in told
    assert "text that is not UTF-8: if the file is in another encoding, --encoding=cp1252" in told
    lines = [
        json.loads(line)
        for line in (tmp_path / "a.parquet.golds.jsonl").read_text("utf-8").splitlines()
    ]
    assert [(line["id"], line["where"], line["reason"]) for line in lines] == [
        (row["id"], f"line {number}", reason) for number, (reason, row) in enumerate(bad.items(), 2)
    ]


def test_a_start_that_parquet_can_t_hold_is_left_out(tmp_path: Path):
    source = write_lines(tmp_path / "a.jsonl", asked(0, 10**12), asked(1), asked(2, 2**31 - 1))
    assert convert(source, tmp_path / "a.parquet") == 0
    answers = [row["answers"] for row in pq.read_table(tmp_path / "a.parquet").to_pylist()]
    assert answers == [None, asked(1)["answers"], {"text": ["lamp"], "answer_start": [2**31 - 1]}]


def test_half_a_surrogate_pair_in_squad_json(tmp_path: Path):
    qas = [{"id": name, "question": name, "answers": []} for name in ("a?", "b\ud83c")]
    (tmp_path / "a.json").write_text(
        json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]})
    )
    assert convert(tmp_path / "a.json", tmp_path / "a.parquet") == 0
    assert pq.read_table(tmp_path / "a.parquet").column("question").to_pylist() == ["a?"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("rows", "options", "message"),
        [
            ([], (), "it has no row that Parquet can hold"),
            (
                [{"question": "Who?", "text": "a"}],
                (),
                "no row has text as its context (the other columns are 'text')",
            ),
            (
                [{"question": "Who?", "text": "a"}],
                (),
                "--context_column=NAME names the column that holds it",
            ),
            (
                [asked() | {"context": ["a", "b"]}],
                (),
                "(line 1: context_not_text, but list: ['a', 'b'])",
            ),
            (
                [asked() | {"context": "\ud83c"}],
                (),
                "line 1: context_not_utf8: if the file is in another encoding",
            ),
            (
                [asked() | {"id": "\ud83c"}],
                (),
                "it has no row that Parquet can hold; line 1: id_not_utf8",
            ),
            (
                [asked() | {"ask": "Who?"}],
                ("--question_column=ask",),
                "column 'question' clashes with the column chosen as question",
            ),
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

    def test_files_that_are_not_there_or_say_no_format(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        assert convert(tmp_path / "a.json", tmp_path / "b.parquet") == 2
        assert f"--input={tmp_path}/a.json: No such file" in capsys.readouterr().err
        assert convert(tmp_path, tmp_path / "b.parquet") == 2
        assert f"--input={tmp_path}: Is a directory" in capsys.readouterr().err
        (tmp_path / "a.data").write_text("Who?")
        assert convert(tmp_path / "a.data", tmp_path / "b.parquet") == 2
        assert (
            "the ending says no format, give --format=squad|mrqa|jsonl|csv|tsv|parquet"
            in capsys.readouterr().err
        )

    def test_an_output_that_can_not_be_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        source = write_lines(tmp_path / "a.jsonl", asked())
        assert convert(source, source / "b.parquet") == 2
        assert f"--output={source}/b.parquet: " in capsys.readouterr().err
        assert convert(source, source) == 2
        assert f"--output={source} is the --input itself" in capsys.readouterr().err
        assert source.read_text("utf-8") == json.dumps(asked())

    def test_a_compressed_file_that_is_cut(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        content = gzip.compress("\n".join(json.dumps(asked(n)) for n in range(500)).encode())
        (tmp_path / "a.jsonl.gz").write_bytes(content[: len(content) // 2])
        assert convert(tmp_path / "a.jsonl.gz", tmp_path / "b.parquet") == 2
        assert f"--input={tmp_path}/a.jsonl.gz: Compressed file ended" in capsys.readouterr().err
        assert not (tmp_path / "b.parquet").exists()

    @pytest.mark.parametrize(
        "option", ["--encoding=nonesuch", "--encoding=hex", "--delimiter=ab", "--delimiter="]
    )
    def test_options_that_mean_nothing(
        self, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        (tmp_path / "a.csv").write_text("question,context\nWho?,a\n")
        with pytest.raises(SystemExit, match="2"):
            convert(tmp_path / "a.csv", tmp_path / "b.parquet", option)
        assert option.split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_columns_to_leave_out_are_named_as_everywhere(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source, output = tmp_path / f"a.{ending}", tmp_path / "b.parquet"
    if ending == "csv":
        source.write_text('question,context,"x,y",z\nWho?,Ada,1,2\nWhat?,Ada,1,2\n')
    else:
        write_lines(source, asked(0, z=2), asked(1, **{"x,y": 1}))
    assert convert(source, output, r"--drop_columns=x\,y") == 0
    assert {"z"} == set(pq.read_schema(output).names) - {"id", "question", "context", "answers"}
    capsys.readouterr()
    assert convert(source, tmp_path / "none" / "b.parquet", "--drop_columns=z,Z") == 2
    message = f"refused: --drop_columns=Z: --input={source} has the other columns x,y, z\n"
    assert capsys.readouterr().err == message
    assert not [*(tmp_path / "none").glob("*")]


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [("/dev/full", 3, "standard output: No space left"), ("pipe", 0, "")],
)
def test_results_that_can_t_be_printed(
    target: str,
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """`convert import ... | head -c1` ends quietly; a full disk is an error."""
    if target == "pipe":
        reading, writing = os.pipe()
        os.close(reading)
    with os.fdopen(writing, "w") if target == "pipe" else open(target, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        source = write_lines(tmp_path / "a.jsonl", asked(0))
        assert convert(source, tmp_path / "a.parquet") == code
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 1
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert bool(message) == bool(said)
