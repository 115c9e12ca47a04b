"""ReadExamples: the rows that the report shows and that relabelling starts from, read again after all receipts are merged.

Receipts carry places, never passages: what a run lists is small, and known only at its end.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from model.columns import NotUTF8, each_value
from model.pairs import WindowLimits
from model.reader import Reader, shared
from model.statistics import Statistics
from model.token_probabilities import token_probabilities
from transforms.chunk_step import NAMESPACE
from transforms.make_windows import InputColumns, make_windows
from transforms.merge_receipts import Totals
from transforms.records import Chunk, ChunkSpec
from transforms.storage import open_parquet

SHOWN = 20
"""How many examples of each list the report shows, with the probabilities of their tokens."""

_MOST_WINDOWS = 16
"""Token probabilities are made for passages of at most so many windows."""

_LANES_SHARE = 4
"""So few windows would make a batch or two; they go in this part of a batch's tokens, so that every lane has some."""

_log = logging.getLogger(NAMESPACE)

Place = tuple[str, int]
"""Path of an input file, and a row in it."""


@dataclass(frozen=True, slots=True)
class Example:
    """The texts of one input row, and what the network says of its context's tokens.

    offsets        int32 [2, tokens], char_start and char_end in code points; no token where nothing was computed
    probabilities  float32 [2, tokens], of a start and of an end
    unmeasured     why nothing was computed
    """

    question: str
    context: str
    offsets: np.ndarray
    probabilities: np.ndarray
    unmeasured: str = ""


def read_rows(places: Iterable[Place], columns: list[str]) -> dict[Place, dict[str, Any]]:
    """Some columns of the rows at some places; None for a value that is no UTF-8. Unreadable files are left out."""
    by_path: dict[str, set[int]] = defaultdict(set)
    for path, row in places:
        by_path[path].add(row)
    found: dict[Place, dict[str, Any]] = {}
    for path, rows in sorted(by_path.items()):
        try:
            found.update(_read_file(path, rows, columns))
        except Exception as error:  # a list is no reason to lose a run that is done
            _log.warning("rows of %s can't be read again and are shown without their texts: %s", path, error)
    return found


def _read_file(path: str, rows: set[int], columns: list[str]) -> dict[Place, dict[str, Any]]:
    found: dict[Place, dict[str, Any]] = {}
    with open_parquet(path) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            wanted = sorted(row for row in rows if first <= row < first + count)
            begin = first
            for batch in file.iter_batches(1024, row_groups=[group], columns=columns) if wanted else ():
                here = [row for row in wanted if begin <= row < begin + batch.num_rows]
                taken = batch.take(pa.array([row - begin for row in here], pa.int64()))
                for place, row in enumerate(here):
                    values = {name: each_value(taken.column(name).slice(place, 1))[0] for name in columns}
                    found[path, row] = {name: None if isinstance(each, NotUTF8) else each for name, each in values.items()}
                begin += batch.num_rows
                if begin > wanted[-1]:
                    break
            first += count
    return found


def read_examples(
    statistics: Statistics, reader: Reader, limits: WindowLimits, columns: InputColumns, null: bool, batch_tokens: int
) -> dict[Place, Example]:
    """The texts of the first SHOWN examples of highest loss and of all suspects; of those shown, token probabilities."""
    worst, suspects = ([entry[1:3] for entry in ranking.entries] for ranking in (statistics.worst, statistics.suspects))
    shown = list(dict.fromkeys([*worst[:SHOWN], *suspects[:SHOWN]]))
    rows = read_rows([*shown, *suspects], [columns.question, columns.context])
    examples = {
        place: Example(row[columns.question] or "", row[columns.context] or "", np.zeros((2, 0), np.int32), np.zeros((2, 0)))
        for place, row in rows.items()
    }
    shown = [place for place in shown if place in examples]
    try:
        examples.update(_with_probabilities({place: examples[place] for place in shown}, reader, limits, null, batch_tokens))
    except Exception as error:
        _log.warning("token probabilities can't be shown: %s", error)
        why = "the network failed when this page was made"
        examples.update({place: replace(examples[place], unmeasured=why) for place in shown})
    return examples


def _with_probabilities(
    examples: Mapping[Place, Example], reader: Reader, limits: WindowLimits, null: bool, batch_tokens: int
) -> dict[Place, Example]:
    if not examples:
        return {}
    each = examples.values()
    texts = {"question": [example.question for example in each], "context": [example.context for example in each]}
    spec = ChunkSpec("", "", 0, 0, 0, len(examples), "")
    limits = replace(limits, max_windows=min(limits.max_windows, _MOST_WINDOWS))
    reader = shared(reader)
    windowed = make_windows(Chunk(spec, pa.table(texts)), reader.tokenizer(), limits)
    passages = windowed.windows.passages
    smaller = max(1, batch_tokens // _LANES_SHARE)
    tokens, probabilities, failures = token_probabilities(reader, windowed.windows, null, smaller)
    if failures:
        _log.warning("token probabilities of %d examples can't be shown: %s", len(failures), next(iter(failures.values())))
    problems = {each.row: each for each in windowed.rejections}
    done = {}
    for row, ((place, example), pair) in enumerate(zip(examples.items(), windowed.row_pair.tolist(), strict=True)):
        if row in problems:
            too_long = f"they are computed for passages of at most {_MOST_WINDOWS} context windows"
            why = too_long if problems[row].reason == "too_many_windows" else problems[row].message
            done[place] = replace(example, unmeasured=why)
        elif pair in failures:
            done[place] = replace(example, unmeasured="the network failed at it when this page was made")
        else:
            mine = tokens[pair]
            offsets = np.stack([passages.char_start[mine], passages.char_end[mine]])
            held = slice(tokens.bounds[pair], tokens.bounds[pair + 1])
            done[place] = replace(example, offsets=offsets, probabilities=probabilities[:, held])
    return done


@dataclass
class ReadExamples(beam.PTransform):
    """The one Totals by stage, the audit's with its examples."""

    reader: Reader
    limits: WindowLimits
    columns: InputColumns
    null: bool
    batch_tokens: int

    def expand(self, totals: beam.PCollection) -> beam.PCollection:
        return totals | beam.Map(_add_examples, self.reader, self.limits, self.columns, self.null, self.batch_tokens)


def _add_examples(
    totals: dict[str, Totals], reader: Reader, limits: WindowLimits, columns: InputColumns, null: bool, batch_tokens: int
) -> dict[str, Totals]:
    audit = totals["audit"]
    if audit.statistics is None:
        return totals
    examples = read_examples(audit.statistics, reader, limits, columns, null, batch_tokens)
    return {**totals, "audit": replace(audit, examples=examples)}
