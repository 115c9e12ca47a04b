"""Exports of Label Studio: the annotation that counts, and files that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from transforms.label_studio import each_task, is_export


def annotation(results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"result": results, **more}


def test_the_last_annotation_that_was_not_skipped_counts() -> None:
    first, last = annotation([{"type": "first"}]), annotation([{"type": "last"}])
    skipped = annotation([{"type": "skipped"}], was_cancelled=True)
    tasks = [
        {"data": {"id": 1}, "annotations": [first, last, skipped]},
        {"data": {"id": 2}, "annotations": [skipped]},
        {"data": {"id": 3}},
    ]
    found = list(
        each_task(
            json.dumps(tasks),
            lambda data, results: (data["id"], [each["type"] for each in results]),
        )
    )
    assert found == [("task 1", (1, ["last"])), ("task 2", (2, [])), ("task 3", (3, []))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "it is not JSON: "),
        ("[3]", "task 1 is not a task of a Label Studio export: AttributeError"),
        ('[{"data": {}}, {}]', "task 2 is not a task of a Label Studio export: KeyError"),
        (
            '[{"data": {}, "annotations": [{}]}]',
            "task 1 is not a task of a Label Studio export: KeyError",
        ),
    ],
)
def test_other_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(each_task(text, lambda data, results: None))


def test_what_the_caller_finds_wrong_has_the_number_of_its_task() -> None:
    def judged(data: Any, results: Any) -> None:
        raise ValueError("no span")

    with pytest.raises(ValueError, match="task 1: no span"):
        list(each_task('[{"data": {}}]', judged))


def test_a_table_is_no_export() -> None:
    assert is_export(' \n[{"data": {}}]')
    assert not is_export("id,decision\n")
