"""Read exports of Label Studio: what the last annotation of each task says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def is_export(text: str) -> bool:
    """Return whether the text of a file is a list of tasks; a CSV begins with its header."""
    return text.lstrip().startswith("[")


def each_task(
    text: str, judged: Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], T]
) -> Iterator[tuple[str, T]]:
    """Yield for each task its place, such as "task 3", and what `judged` makes of it.

    judged  gets the task's data and the results of its last annotation that was not skipped, none
            without one; may raise ValueError

    Raises ValueError for another file, and what `judged` raises; the message says where.
    """
    try:
        tasks = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    for number, task in enumerate(tasks, 1):
        try:
            done = [each for each in task.get("annotations", []) if not each.get("was_cancelled")]
            found = judged(task["data"], done[-1]["result"] if done else [])
        except ValueError as error:
            raise ValueError(f"task {number}: {error}") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
            raise ValueError(
                f"task {number} is not a task of a Label Studio export: {error!r}"
            ) from error
        yield f"task {number}", found
