"""The files of a review set: what spreadsheets and Label Studio do to them, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.job.options import Refused
from pipeline.review.answers import DrawnAnswer, Identity
from pipeline.review.files import ReviewSet, read_marks, read_set, write_set
from pipeline.review.strata import Stratum

CONTEXT = "=SUM(A1) 🌊 was lit by Ada, keeper;\nat dusk. " + "It rained. " * 60
ADA = CONTEXT.index("Ada")
ANSWERS = [
    DrawnAnswer("-1", "", "=Who?", CONTEXT, ADA, ADA + 3, 0.25),
    DrawnAnswer("row 2", "+q", "What?", CONTEXT, 0, 8, 0.75),
    DrawnAnswer(
        "", "", "When?", CONTEXT, CONTEXT.index("dusk"), CONTEXT.index("dusk") + 4, 0.76543
    ),
]
DRAWN = ReviewSet(
    Identity("a run", "its content"),
    7,
    (Stratum(0.0, 0.5, 10, 0.3, 1), Stratum(0.5, 1.0, 5, 0.8, 2)),
    (0, 1, 1),
    ((0, 4, 0), (0, 9, 1), (1, 2, 0)),
)


def lines(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def filled(content: bytes, *marks: str, delimiter: str = ",") -> bytes:
    """Return the spreadsheet as a person returns it: with marks, and in another program's CSV."""
    out = io.StringIO(newline="")
    rows = lines(content)
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n", delimiter=delimiter)
    writer.writeheader()
    for row, mark in zip(rows, marks, strict=True):
        writer.writerow({**row, "right": mark})
    return out.getvalue().encode()


def judged(content: bytes, *marks: str | None) -> list[dict[str, Any]]:
    """Return the tasks as Label Studio exports them; None: skipped by the reviewer."""
    tasks = json.loads(content)
    for number, (task, mark) in enumerate(zip(tasks, marks, strict=True)):
        choice = {"type": "choices", "from_name": "right", "value": {"choices": [mark]}}
        note = {"type": "textarea", "from_name": "note", "value": {"text": ["well"]}}
        span = task["predictions"][0]["result"][0]
        older = {"result": [{**choice, "value": {"choices": ["unsure"]}}]}
        task |= {"id": 90 + number, "annotations": [older, {"result": [span, choice, note]}]}
        if mark is None:
            task["annotations"] = [{"was_cancelled": True, "result": []}]
        elif not mark:
            task["annotations"] = []
    return tasks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_set(str(tmp_path / "set"), DRAWN, ANSWERS)
    return tmp_path / "set"


@pytest.fixture
def sheet(folder: Path) -> bytes:
    return (folder / "review.csv").read_bytes()


def test_three_files_and_nothing_else(folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == [
        "review.csv",
        "review.json",
        "sample.json",
    ]
    assert read_set(str(folder)) == DRAWN


def test_a_line_has_what_a_person_needs_and_no_formula(sheet: bytes):
    assert sheet.startswith(b"\xef\xbb\xbf")  # Excel reads UTF-8 by it
    first, second, third = lines(sheet)
    assert (first["id"], first["question"], first["answer"]) == ("'-1", "'=Who?", "Ada")
    assert first["passage"].startswith("'=SUM(A1) 🌊 was lit by «Ada», keeper;\nat dusk. It")
    assert first["passage"].endswith(" …")
    assert (second["answer"], second["passage"][:10]) == ("'=SUM(A1)", "«=SUM(A1)»")
    assert second["question_id"] == "'+q"
    assert (third["id"], third["probability"], third["weight"]) == ("", "0.7654", "2.5")
    assert [line["stratum"] for line in (first, second, third)] == ["1", "2", "2"]
    assert [(line["number"], line["right"], line["note"]) for line in (first, third)] == [
        ("1", "", ""),
        ("3", "", ""),
    ]


def test_label_studio_shows_the_answer_by_code_points(folder: Path):
    tasks = json.loads((folder / "review.json").read_text("utf-8"))
    assert [task["data"]["number"] for task in tasks] == [1, 2, 3]
    for task, answer in zip(tasks, ANSWERS, strict=True):
        (prediction,) = task["predictions"]
        (result,) = prediction["result"]
        value = result["value"]
        assert task["data"]["context"][value["start"] : value["end"]] == value["text"]
        assert (result["from_name"], result["to_name"]) == ("answer", "context")
        assert prediction["score"] == task["data"]["probability"] == answer.probability


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_marks_of_a_spreadsheet(sheet: bytes, delimiter: str):
    assert read_marks(filled(sheet, " Yes", "", "UNSURE", delimiter=delimiter), DRAWN) == {
        1: "yes",
        3: "unsure",
    }


def test_a_spreadsheet_may_be_saved_in_another_encoding():
    content = f"number;set;question;right\r\n2;{DRAWN.name};Où?;yes\r\n"
    assert read_marks(content.encode("cp1252"), DRAWN) == {2: "yes"}
    assert read_marks(content.replace(";", "\t").encode("utf-16"), DRAWN) == {2: "yes"}


def test_lines_may_be_missing_moved_or_blank():
    name = DRAWN.name
    content = f'right,number,set\nno,3,{name}\n"","",""\n\nyes,1,{name}\n'.encode()
    assert read_marks(content, DRAWN) == {3: "no", 1: "yes"}


def test_marks_of_label_studio(folder: Path):
    tasks = judged((folder / "review.json").read_bytes(), "no", None, "yes")
    assert read_marks(json.dumps(tasks).encode(), DRAWN) == {1: "no", 3: "yes"}
    tasks = judged((folder / "review.json").read_bytes(), "", "unsure", "yes")
    assert read_marks(json.dumps(tasks[1:]).encode(), DRAWN) == {2: "unsure", 3: "yes"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("right", "maybe"), "line 3: right 'maybe' is not one of yes, no, unsure"),
        (("number", "4"), "no answer of the set has the number '4'"),
        (("number", "0"), "no answer of the set has the number '0'"),
        (("number", "x"), "no answer of the set has the number 'x'"),
        (("number", "2"), "line 4: the number 2 occurs twice"),
        (("set", "set-0"), "it is of 'set-0', not of 'set-"),
        (("set", ""), "it is of '', not of 'set-"),
    ],
)
def test_what_can_not_be_right_is_named(sheet: bytes, change: tuple[str, str], message: str):
    rows = lines(sheet)
    rows[0][change[0]] = change[1]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["number", "set", "right"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows([{"number": "", "set": "", "right": ""}, *rows])
    with pytest.raises(ValueError, match=message):
        read_marks(out.getvalue().encode(), DRAWN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"number,set\n", "it has no column 'right': it is neither a review.csv nor a Label"),
        (b"PK\x03\x04\xff", "it has no column 'number'"),
        (b"[{", "it is not JSON"),
        (b"[1]", "task 1 is not a task of a Label Studio export"),
        (b'[{"annotations": [{"result": [{"type": "choices"}]}]}]', "task 1 is not a task"),
    ],
)
def test_another_file_is_refused(content: bytes, message: str):
    with pytest.raises(ValueError, match=message):
        read_marks(content, DRAWN)


@pytest.mark.parametrize("name", ["review.csv", "review.json", "sample.json"])
def test_what_somebody_may_have_filled_in_is_never_replaced(folder: Path, name: str):
    for path in folder.iterdir():
        if path.name != name:
            path.unlink()
    before = (folder / name).read_bytes()
    with pytest.raises(Refused, match=f"has a {name}, which somebody may be filling in"):
        write_set(str(folder), DRAWN, ANSWERS)
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"seed": 7', '"seed": 8'), "has been changed since"),
        (lambda text: text[:-2], "Expecting|delimiter"),
        (lambda text: "{}", "it does not describe a sample"),
        (lambda text: "[]", "it does not describe a sample"),
    ],
)
def test_a_sample_that_was_changed_is_refused(folder: Path, damage: Any, message: str):
    path = folder / "sample.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(Refused, match=message):
        read_set(str(folder))


def test_a_folder_without_a_set_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match=r"has no sample.json"):
        read_set(str(tmp_path))
