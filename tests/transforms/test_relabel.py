"""Relabel: what a spreadsheet may do to the file, and which corrections are refused."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from transforms.read_examples import Example, RowPlace
from transforms.relabel import (
    COLUMNS,
    CorrectionsError,
    is_filled_in,
    label_studio,
    read_corrections,
    relabel_csv,
)
from transforms.spreadsheets import unguard

CONTEXT = '=SUM(A1) 🌊 was lit by Ada, keeper;\n"dusk" came.'


def studio(start: bytes) -> bytes:
    """Return an export of one task whose span begins at `start` and ends at 2."""
    value = b'{"start": ' + start + b', "end": 2}'
    return (
        b'[{"annotations": [{"result": [{"type": "labels", "value": '
        + value
        + b'}]}], "data": {"id": "1"}}]'
    )


def suspect(row: int, row_id: str | None = None, **changes: Any) -> dict[str, Any]:
    entry = {
        "id": row_id or f"row {row}",
        "path": "/a.parquet",
        "row": row,
        "question": "-Who?",
        "gold": ["=SUM(A1)"],
        "gold_start": 0,
        "gold_end": 8,
        "gold_probability": 0.01,
        "prediction": "Ada",
        "prediction_start": CONTEXT.index("Ada"),
        "prediction_end": CONTEXT.index("Ada") + 3,
        "probability": 0.9,
        "label_error": 5.12345,
        "label_error_reason": "elsewhere",
    }
    return {**entry, **changes}


def texts(*rows: int) -> dict[RowPlace, Example]:
    return {("/a.parquet", row): Example("-Who?", CONTEXT) for row in rows}


def lines(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def filled(content: bytes, **decided: dict[str, str]) -> bytes:
    """Return the file as a person returns it: some rows decided, other columns and line ends."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(reversed(COLUMNS)), lineterminator="\n")
    writer.writeheader()
    for line in lines(content):
        writer.writerow({**line, **decided.get(unguard(line["id"]).replace(" ", "_"), {})})
    return out.getvalue().encode()


class TestOut:
    def test_no_cell_of_corpus_text_is_a_formula(self):
        signs = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "＝1", "＋1", "－1", "＠x"]
        suspects = [
            suspect(row, row_id=sign, gold=[sign], prediction=sign, question=sign)
            for row, sign in enumerate(signs)
        ]
        for line, sign in zip(lines(relabel_csv(suspects, {})), signs, strict=True):
            for name in ("id", "gold", "prediction", "question"):
                assert line[name] == "'" + sign
                assert unguard(line[name]) == sign

    def test_a_line_holds_what_a_person_needs(self):
        (line,) = lines(relabel_csv([suspect(0)], texts(0)))
        assert tuple(line) == COLUMNS
        assert line["passage"] == "'" + CONTEXT  # a short context is whole, with its line end
        assert (line["gold_start"], line["prediction_end"]) == ("0", str(CONTEXT.index("Ada") + 3))
        assert (line["label_error"], line["reason"], line["decision"]) == ("5.123", "elsewhere", "")

    def test_a_passage_says_where_it_is_cut(self):
        spans = {"gold_start": 0, "gold_end": 3, "prediction_start": 2000, "prediction_end": 2003}
        example = replace(texts(0)["/a.parquet", 0], context="Ada" + " and so on" * 999)
        (line,) = lines(relabel_csv([suspect(0, **spans)], {("/a.parquet", 0): example}))
        assert re.sub(r"[\w ]+", "_", line["passage"]) == "_…_…"
        spans["gold_start"], spans["gold_end"] = 1000, 1003
        (line,) = lines(relabel_csv([suspect(0, **spans)], {("/a.parquet", 0): example}))
        assert re.sub(r"[\w ]+", "_", line["passage"]) == "…_…_…"
        (line,) = lines(relabel_csv([suspect(0, **spans)], {}))
        assert line["passage"] == ""

    def test_label_studio_marks_gold_and_prediction_by_code_points(self):
        # The text of the second row could not be read.
        (task,) = json.loads(label_studio([suspect(0), suspect(1)], texts(0)))
        assert task["data"]["context"] == CONTEXT
        assert [each["model_version"] for each in task["predictions"]] == ["gold", "prediction"]
        for each in task["predictions"]:
            value = each["result"][0]["value"]
            assert value["text"] == CONTEXT[value["start"] : value["end"]]
        assert task["predictions"][1]["result"][0]["value"]["text"] == "Ada"

    def test_no_answer_has_no_mark(self):
        nothing = {"prediction": "", "prediction_start": None, "prediction_end": None}
        (task,) = json.loads(label_studio([suspect(0, **nothing)], texts(0)))
        assert [each["model_version"] for each in task["predictions"]] == ["gold"]
        assert lines(relabel_csv([suspect(0, **nothing)], texts(0)))[0]["prediction_start"] == ""


class TestBack:
    def test_every_decision(self):
        content = relabel_csv([suspect(row) for row in range(7)], texts(*range(7)))
        found = read_corrections(
            filled(
                content,
                row_0={"decision": "gold"},
                row_1={"decision": " Prediction "},
                row_2={"decision": "unanswerable"},
                row_3={"decision": "other", "corrected_text": "keeper"},
                row_4={"decision": "other", "corrected_text": "=SUM(A1)", "corrected_start": "0"},
            )
        )
        start = CONTEXT.index("Ada")
        assert found == {
            "row 1": (("Ada", start, start + 3),),
            "row 2": (),
            "row 3": (("keeper", None, None),),
            "row 4": (("=SUM(A1)", 0, None),),
        }

    def test_a_prediction_of_no_answer(self):
        content = relabel_csv(
            [suspect(0, prediction="", prediction_start=None, prediction_end=None)], {}
        )
        assert read_corrections(filled(content, row_0={"decision": "prediction"})) == {"row 0": ()}

    def test_a_judged_prediction_is_unguarded(self):
        (line,) = [suspect(0, prediction="=SUM(A1)", prediction_start=0, prediction_end=8)]
        content = filled(relabel_csv([line], texts(0)), row_0={"decision": "prediction"})
        assert read_corrections(content) == {"row 0": (("=SUM(A1)", 0, 8),)}

    def test_ids_come_back_as_they_were(self):
        ids = ["-3", "=a", "'quoted", 'a,b"c']
        content = relabel_csv([suspect(row, row_id=each) for row, each in enumerate(ids)], {})
        decided = {each.replace(" ", "_"): {"decision": "unanswerable"} for each in ids}
        assert set(read_corrections(filled(content, **decided))) == set(ids)

    def annotated(self, *results: list[dict[str, Any]] | None) -> bytes:
        tasks = json.loads(
            label_studio([suspect(row) for row in range(len(results))], texts(*range(len(results))))
        )
        cancelled = {"result": [{"type": "labels", "value": {}}], "was_cancelled": True}
        for task, result in zip(tasks, results, strict=True):
            task["annotations"] = (
                [] if result is None else [cancelled, {"result": result, "was_cancelled": False}]
            )
        return json.dumps(tasks).encode()

    def test_label_studio(self):
        def marked(text: str) -> dict[str, Any]:
            start = CONTEXT.index(text)
            return {
                "type": "labels",
                "value": {
                    "start": start,
                    "end": start + len(text),
                    "text": text,
                    "labels": ["Answer"],
                },
            }

        nothing = {"type": "choices", "value": {"choices": ["unanswerable"]}}
        found = read_corrections(
            self.annotated([marked("keeper"), marked("Ada")], [nothing], [], None)
        )
        start = CONTEXT.index("Ada")
        assert found == {
            "row 0": (("Ada", start, start + 3), ("keeper", start + 5, start + 11)),
            "row 1": (),
        }

    def test_a_mark_in_label_studio_that_says_another_text(self):
        """Some versions count an emoji as two characters, and line ends are changed."""
        start, end = CONTEXT.index("keeper"), CONTEXT.index(" came")

        def marked(shift: int, text: str) -> dict[str, Any]:
            return {
                "type": "labels",
                "value": {"start": start + shift, "end": end + shift, "text": text},
            }

        found = read_corrections(
            self.annotated([marked(1, CONTEXT[start:end])], [marked(0, 'keeper;\\n"dusk"')])
        )
        assert found == {
            "row 0": ((CONTEXT[start:end], start + 1, None),),
            "row 1": ((CONTEXT[start:end], start, end),),
        }

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"id,gold\n1,x\n", "it has no column 'decision'"),
            (b"", "it has no column 'id'"),
            (b"\xff", "it is neither UTF-8 nor UTF-16"),
            (
                b"id,decision\n1,perhaps\n",
                "line 2: decision 'perhaps' is not one of gold, prediction, unanswerable, other",
            ),
            (b"id,decision\n1,unanswerable\n1,gold\n", "line 3: the id '1' is decided twice"),
            (b"id,decision\n,gold\n", "line 2: there is a decision, but no id"),
            (
                b"id,decision,corrected_text\n1,other, \n",
                "line 2: decision 'other' needs a corrected_text",
            ),
            (
                b"id,decision,prediction_start,prediction_end\n1,prediction,1.0,2\n",
                "prediction_start '1.0' is not a whole number",
            ),
            (
                b"id,decision\n1,prediction\n",
                "line 2: decision 'prediction' needs prediction_start and prediction_end",
            ),
            (
                b"id,decision,prediction_start,prediction_end\n1,prediction,5,\n",
                "line 2: 5 to None is not a span",
            ),
            (
                b"id,decision,prediction_start,prediction_end\n1,prediction,5,2\n",
                "line 2: 5 to 2 is not a span",
            ),
            (
                b"id,decision,corrected_text,corrected_start\n1,other,Ada,99999999999\n",
                "a start is at most 2147483647",
            ),
            (b"decision,id\ngold\n", "line 2: there is a decision, but no id"),
            (b'id,decision\n"a', "unexpected end of data"),
            (
                studio(b"-3"),
                "-3 to 2 is not a span",
            ),
            (
                studio(b"Infinity"),
                "task 1 is not a task",
            ),
            (b"[{", "it is not JSON"),
            (b"[1]", "task 1 is not a task of a Label Studio export"),
            (
                b'[{"annotations": [{"result": [{"type": "labels", "value": {}}]}], '
                b'"data": {"id": "1"}}]',
                "task 1 is not a task",
            ),
        ],
    )
    def test_what_can_t_be_used_is_named(self, content: bytes, message: str):
        with pytest.raises(CorrectionsError, match=message.replace(".", r"\.")):
            read_corrections(content)

    def test_a_table_with_semicolons_is_read(self):
        content = (
            b"id;decision;prediction_start;prediction_end\n1;prediction;2;5\n2;unanswerable;;\n"
        )
        assert read_corrections(content) == {"1": ((None, 2, 5),), "2": ()}


class TestFilledIn:
    def judged(self, tmp_path: Path, content: bytes) -> bool:
        (tmp_path / "relabel").write_bytes(content)
        return is_filled_in(f"{tmp_path}/relabel")

    def test_a_file_as_it_was_written_is_not(self, tmp_path: Path):
        assert not is_filled_in(f"{tmp_path}/missing")
        for content in (relabel_csv([suspect(0)], texts(0)), label_studio([suspect(0)], texts(0))):
            # A torn write leaves nothing of people either.
            assert not any(self.judged(tmp_path, content[:end]) for end in range(len(content) + 1))

    @pytest.mark.parametrize("name", ["decision", "corrected_text", "corrected_start"])
    def test_one_cell_is_enough(self, tmp_path: Path, name: str):
        content = relabel_csv([suspect(0, question="größe"), suspect(1)], texts(1))
        judged = filled(content, row_1={name: "1"})
        assert self.judged(tmp_path, judged)
        assert self.judged(tmp_path, judged.decode().replace(",", ";").encode("utf-16"))
        assert self.judged(tmp_path, judged.decode().encode("cp1252", "replace"))

    def test_an_annotation_is_enough(self, tmp_path: Path):
        tasks = json.loads(label_studio([suspect(0), suspect(1)], texts(0, 1)))
        tasks[1]["annotations"] = [{"result": []}]
        assert self.judged(tmp_path, json.dumps(tasks).encode())
