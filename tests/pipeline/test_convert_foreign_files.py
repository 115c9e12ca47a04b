"""Conversion of files that others have written: odd values, encodings, delimiters and shapes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.test_convert import convert

FERRY = "The ferry to Holm leaves at noon. Its bell weighs 340 kilograms."


def squad(*qas: dict[str, Any], context: str = FERRY, **others: Any) -> str:
    return json.dumps({"data": [{"paragraphs": [{"context": context, "qas": qas}], **others}]})


def lines(*rows: dict[str, Any]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def gold(text: Any, start: Any) -> dict[str, Any]:
    return {"text": text, "answer_start": start}


CASES: dict[str, tuple[str, str, list[Any], list[str]]] = {
    "the title comes after the paragraphs": (
        "a.json",
        squad(
            {
                "id": "a",
                "question": "When?",
                "answers": [gold("noon", 28)],
                "question_type": "when",
            },
            title="Ferry",
        ),
        [gold(["noon"], [28]) | {"title": "Ferry", "question_type": "when"}],
        ["golds: 1 aligned"],
    ),
    "a number and a null where texts belong": (
        "a.json",
        squad(
            *(
                {"id": str(n), "question": "?", "answers": [each]}
                for n, each in enumerate([gold("noon", 28), gold(340, 50)])
            ),
            {"id": "c", "question": "?", "answers": [gold(None, 0)]},
            {"id": "d", "question": "?", "answers": [gold("Holm", 13)]},
        ),
        [gold(["noon"], [28]), gold(["340"], [50]), None, gold(["Holm"], [13])],
        ["golds: 3 aligned", "1 numbers read as text", "problems: 1 gold_not_text: "],
    ),
    "one start is missing": (
        "a.jsonl",
        lines(
            *(
                {"question": "?", "context": FERRY, "answers": gold(["noon"], starts)}
                for starts in ([28], [], [28])
            )
        ),
        [gold(["noon"], [28]), gold(["noon"], []), gold(["noon"], [28])],
        ["golds: 2 aligned", "problems: 1 answers_unequal: "],
    ),
    "placeholders of unanswerable questions": (
        "a.json",
        squad(
            {"question": "?", "answers": [gold("", -1)], "is_impossible": True},
            {"question": "?", "answers": [gold("", -1)] * 2, "is_impossible": "true"},
            {"question": "?", "is_impossible": "false"},
            {"question": "?", "answers": [], "is_impossible": False},
        ),
        [gold([], []), gold([], []), None, None],
        [
            "golds: none",
            "problems: 1 answers_missing_though_possible: ",
            "written as text: is_impossible",
        ],
    ),
    "starts from one": (
        "a.json",
        squad(
            {"question": "?", "answers": [gold("noon", 29)]},
            {"question": "?", "answers": [gold("Holm", 14)]},
        ),
        [gold(["noon"], [29]), gold(["Holm"], [14])],
        [
            "golds: 2 misaligned",
            "2 of them are right if starts count from 1: see --offsets=from_one",
        ],
    ),
    "no ids": (
        "a.json",
        squad({"question": "?", "answers": [gold("noon", 28)]}),
        [gold(["noon"], [28])],
        ["1 rows"],
    ),
    "answers as Python and numpy print them": (
        "a.csv",
        f"question,context,answers\n?,{FERRY},\"{{'text': array(['noon'], dtype=object), "
        "'answer_start': array([28])}\"\n"
        f"?,{FERRY},\"{{'text': [], 'answer_start': []}}\"\n?,{FERRY},\"['noon' 'Holm']\"\n",
        [gold(["noon"], [28]), gold([], []), None],
        ["golds: 1 aligned", "problems: 1 answers_unreadable: "],
    ),
    "inside a word": (
        "a.jsonl",
        lines(
            *(
                {"question": "?", "context": "Otto often mends 12016 nets.", "answers": [text]}
                for text in ("ten", "2016")
            )
        ),
        [None, None],
        ["golds: 2 inside_word", "2 rows have golds, but none that can be placed"],
    ),
    "case alone": (
        "a.json",
        squad(
            {"question": "?", "answers": [gold("the ferry", 0)]},
            {"question": "?", "answers": [gold("The barge", 0)]},
        ),
        [gold(["the ferry"], [0]), gold(["The barge"], [0])],
        ["golds: 2 misaligned", "1 of them differs only in case"],
    ),
    "minus one for no start": (
        "a.jsonl",
        lines({"question": "?", "context": FERRY, "answers": gold(["noon"], [-1])}),
        [gold(["noon"], [28])],
        ["golds: 1 located"],
    ),
    "a column of nearly that name": (
        "a.jsonl",
        lines({"question": "?", "context": FERRY, "answer": "noon"}),
        [{"answer": "noon"}],
        ["there is no column 'answers', but 'answer': see --answers_column=answer"],
    ),
    "lines in a file that ends in .json": (
        "a.json",
        lines(*[{"question": "?", "context": FERRY, "answers": gold(["noon"], [28])}] * 2),
        [gold(["noon"], [28]), gold(["noon"], [28])],
        ["golds: 2 aligned"],
    ),
    "a number as a context": (
        "a.jsonl",
        lines(
            {"question": "?", "context": 2024, "answers": ["2024"]},
            {"question": "?", "context": FERRY},
        ),
        [gold(["2024"], [0]), None],
        ["golds: 1 located", "1 numbers read as text"],
    ),
    "a list as a context among texts": (
        "a.jsonl",
        lines(
            {"question": "?", "context": [FERRY], "answers": ["noon"]},
            {"question": "?", "context": FERRY},
        ),
        [None, None],
        ["2 rows", "problems: 1 context_not_text: "],
    ),
    "columns with values of several types": (
        "a.jsonl",
        lines(
            *(
                {"question": "?", "context": FERRY, "page": page}
                for page in (1, "two", None, [3.5], {}, True)
            )
        ),
        [{"page": page} for page in ("1", "two", None, "[3.5]", "{}", "true")],
        ["columns with values of several types, written as text: page"],
    ),
    "whole numbers too big for the floats of the same column": (
        "a.jsonl",
        lines(*({"question": "?", "context": FERRY, "page": page} for page in (2**53 + 1, 0.5))),
        [{"page": "9007199254740993"}, {"page": "0.5"}],
        ["columns with values of several types, written as text: page"],
    ),
    "numbers without bounds": (
        "a.json",
        squad({"question": "?", "answers": [gold("noon", 28)], "page": 3}).replace(
            "3}", "1" + "0" * 5000 + "}"
        ),
        [gold(["noon"], [28]) | {"page": "1" + "0" * 5000}],
        ["golds: 1 aligned"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_files_of_other_people(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The rows of each file, and the findings about it."""
    name, content, rows, said = CASES[case]
    (tmp_path / name).write_text(content, "utf-8")
    assert convert(tmp_path / name, tmp_path / "made.parquet") == 0
    told = capsys.readouterr().out
    for line in said:
        assert line in told
    # The last line counts what the report lists.
    counted = told.splitlines()[-1].removesuffix(f": {tmp_path}/made.parquet.golds.jsonl")
    listed = (tmp_path / "made.parquet.golds.jsonl").read_text("utf-8").splitlines()
    assert sum(map(int, re.findall(r"\d+", counted))) == len(listed)
    for made, row in zip(pq.read_table(tmp_path / "made.parquet").to_pylist(), rows, strict=True):
        wanted = (
            {"text": row.pop("text"), "answer_start": row.pop("answer_start")}
            if row and "text" in row
            else None
        )
        assert made["answers"] == wanted
        assert row is None or row.items() <= made.items()


def test_a_table_in_another_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.csv").write_bytes(
        "question,context,answers,answer_start\ncafé?,Café Zorn opens at six.,six,19\n".encode(
            "cp1252"
        )
    )
    assert convert(tmp_path / "a.csv", tmp_path / "a.parquet") == 2
    assert (
        "line 2: question_not_utf8: if the file is in another encoding, --encoding=cp1252"
        in capsys.readouterr().err
    )
    assert convert(tmp_path / "a.csv", tmp_path / "a.parquet", "--encoding=cp1252") == 0
    assert "golds: 1 aligned" in capsys.readouterr().out


def test_a_table_with_another_delimiter(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.csv").write_text(
        "\ufeffquestion;context;answers;answer_start\n?;It leaves at noon.;noon;13\n", "utf-8"
    )
    assert convert(tmp_path / "a.csv", tmp_path / "a.parquet") == 2
    assert "its header is divided by ';', not by ',': --delimiter=';'" in capsys.readouterr().err
    assert convert(tmp_path / "a.csv", tmp_path / "a.parquet", "--delimiter=;") == 0
    assert "golds: 1 aligned" in capsys.readouterr().out


def test_parquet_whose_answers_are_of_another_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    table = pa.table(
        {
            "id": ["a", "b"],
            "question": ["?"] * 2,
            "context": [FERRY] * 2,
            "answers": [[gold("noon", 28)], []],
            "at": pa.array([1, None], pa.timestamp("ns")),
            "tags": pa.array([None, [["a"], None]], pa.list_(pa.list_(pa.string()))),
            "kind": pa.array(["a", "b"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    assert convert(tmp_path / "a.parquet", tmp_path / "b.parquet") == 0
    made = pq.read_table(tmp_path / "b.parquet")
    assert made.column("answers").to_pylist() == [gold(["noon"], [28]), gold([], [])]
    for name in ("id", "at", "tags", "kind"):
        assert made.column(name).combine_chunks().equals(table.column(name).combine_chunks())
