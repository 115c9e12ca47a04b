"""Training data: rows of Parquet files, cut into windows with targets, planned into batches.

A row is a dict of `question`, `context` and `answers` = {"text": [...], "answer_start": [...]},
with offsets in code points of the context. With empty lists it is unanswerable; with `answers` None
it is unlabelled: whether there is an answer is not known.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.audit.golds import gold_problem, gold_tokens, golds_of
from model.audit.metrics import normalise
from model.command import option
from model.reading.posterior import PassageSpans
from model.reading.tokenizer import Tokenizer
from model.reading.windows import WindowLimits, Windows, cut_windows
from model.settings import SettingError
from model.training.unanswerables import unanswerables

_log = logging.getLogger("spanmill.train")

UNLABELLED, ABSENT, NULL = -3, -2, -1
"""Targets of a window of an unlabelled row (none), of one that contains the other end of the gold
but not this one, or neither end but a part between them (none), and of one that contains nothing of
it (null)."""

STRETCH = 1500
"""Groups that are sorted by length together: many for little padding, few so that epochs differ."""


@dataclass(frozen=True, slots=True)
class TrainingWindows:
    """Training windows with their targets; W windows.

    start, end  int64 [W], passage tokens of the gold, `end` inclusive, each where the window
                contains it; else one of the constants above
    group       int64 [W], ascending from 0. The windows of a row and of the unanswerable rows made
                from it form a group; they stay in one batch and may share one normaliser. Each
                window of an unlabelled row is a group of its own.
    questions   the texts of `windows.questions`, whole
    contexts    the texts of `windows.passages`
    """

    windows: Windows
    start: np.ndarray
    end: np.ndarray
    group: np.ndarray
    questions: list[str]
    contexts: list[str]


def read_training_rows(
    files: str,
    mix: dict[str, float] | None = None,
    seed: int = 0,
    given_as: str = "train",
    labelled: bool = True,
) -> list[dict]:
    """Read the rows of comma-separated Parquet files in the layout of the input contract.

    Leaves out, with a warning, rows without a question, a context or whole golds, and golds that
    are not in the context where they should be, with their row if all of its golds are such. Raises
    SettingError, which names the option `given_as`, for a file that can't be read or lacks columns,
    and if no row is left.

    mix   glob pattern of the column `source` -> how many times to take a row: 2 means twice, 0.3
          means with a chance of 0.3. The first pattern that matches counts; other rows are taken
          once.
    seed  of the random choice
    labelled  whether golds are read; if not, files need none and all rows are unlabelled
    """
    # Read only the columns that are used.
    columns = ["question", "context"]
    columns += [*(["answers"] if labelled else []), *(["source"] if mix else [])]
    rows: list[dict] = []
    for table in _read_files(files, columns, given_as):
        rows += table.to_pylist()
    rows = [{**row, "answers": golds_of(row.get("answers"))} for row in rows]

    # Leave out unusable rows, but say so.
    usable = [row for row in rows if _has_texts(row) and (not labelled or _has_golds(row))]
    needed = ["a question", "a context", *(["whole golds"] if labelled else [])]
    if len(usable) < len(rows):
        _log.warning(
            "--%s: %d of %d rows lack %s, and are left out",
            given_as,
            len(rows) - len(usable),
            len(rows),
            " or ".join([", ".join(needed[:-1]), needed[-1]]),
        )
    if labelled:
        usable = _with_placed_golds(usable, given_as)
    if not usable:
        every = " and ".join([", ".join(needed[:-1]), needed[-1]])
        raise SettingError(f"{given_as}={files}: no row has {every}")

    return _mixed(usable, mix, seed) if mix else usable


def _mixed(rows: list[dict], mix: dict[str, float], seed: int) -> list[dict]:
    """Take each row as often as `mix` says: the fraction of a weight is a chance."""
    chosen, taken, matched = random.Random(seed), [], set()
    for row in rows:
        source = row["source"] or ""
        pattern = next((pattern for pattern in mix if fnmatch(source, pattern)), None)
        matched.add(pattern)
        weight = 1.0 if pattern is None else mix[pattern]
        taken += [row] * (int(weight) + (chosen.random() < weight % 1))
    if not taken:
        sources = ", ".join(sorted({row["source"] or "(null)" for row in rows}))
        raise SettingError(f"mix: it takes none of the {len(rows)} rows; their sources: {sources}")
    if unused := [pattern for pattern in mix if pattern not in matched]:
        _log.warning("--mix: no source is taken by %s", ", ".join(unused))
    return taken


def _read_files(files: str, columns: list[str], given_as: str) -> Iterator[pa.Table]:
    """Read columns of comma-separated files, one after the other. Raises SettingError."""
    paths = [path for path in files.split(",") if path]
    if not paths:
        raise SettingError(f"{given_as}={files}: it names no file")
    for path in paths:
        with option(given_as, path):
            table = _read_columns(path, columns)
        yield table


def _read_columns(path: str, columns: list[str]) -> pa.Table:
    """Read columns of a Parquet file, or of a folder of them.

    Raises ValueError for one that lacks them or has them in other types, and what pyarrow raises.
    """
    try:
        dataset = pq.ParquetDataset(path)
    except FileNotFoundError as error:  # its message is the path alone
        raise ValueError("there is no such file") from error
    missing = [name for name in columns if name not in dataset.schema.names]
    if missing:
        raise ValueError(
            f"it has no column {missing[0]!r}, but {', '.join(dataset.schema.names) or 'none'}"
        )
    for name in columns:
        kind = dataset.schema.field(name).type
        if name != "answers" and not _is_text(kind):
            raise ValueError(f"its column {name!r} is {kind}, not text")
        if name == "answers" and not _holds_golds(kind):
            raise ValueError(f"its column 'answers' is {kind}, without text and answer_start")
    return dataset.read(columns=columns)


def _is_text(kind: pa.DataType) -> bool:
    """Return whether a column of a type holds texts, or nothing but nulls."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    )


def _holds_golds(kind: pa.DataType) -> bool:
    """Return whether a column of a type holds golds, or nothing but nulls."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if not pa.types.is_struct(kind):
        return bool(pa.types.is_null(kind))
    return {"text", "answer_start"} <= {field.name for field in kind}


def _with_placed_golds(rows: list[dict], given_as: str) -> list[dict]:
    """Return the rows with those golds only that are in their context where they should be.

    Training on another span, or on "no answer", would teach what nobody said. Golds are checked as
    the audit checks them; a row that has none left is left out.
    """
    placed, wrong = [], 0
    for row in rows:
        golds = list(zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True))
        right = [gold for gold in golds if gold_problem(row["context"], *gold) is None]
        wrong += len(golds) - len(right)
        if len(right) < len(golds):
            texts, starts = [text for text, _ in right], [start for _, start in right]
            row = {**row, "answers": {**row["answers"], "text": texts, "answer_start": starts}}
        if right or not golds:
            placed.append(row)
    if wrong:
        _log.warning(
            "--%s: %d golds are not in their context where they should be; they are left out, with "
            "%d rows that have no other",
            *(given_as, wrong, len(rows) - len(placed)),
        )
    return placed


def _has_texts(row: dict) -> bool:
    """Return whether a row has a question and a context."""
    return all((row[name] or "").strip() for name in ("question", "context"))


def _has_golds(row: dict) -> bool:
    """Return whether the golds of a row are whole; an unanswerable row has empty lists."""
    golds = row["answers"]
    if not isinstance(golds, dict):
        return False
    texts, starts = golds.get("text"), golds.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return False
    return all(isinstance(text, str) and text.strip() for text in texts) and all(
        isinstance(start, int) for start in starts
    )


def refuse_known(rows: list[dict], files: str) -> int:
    """Check that rows and files share no passage; return how many distinct ones the files have.

    Of the files only the contexts are read, whatever golds they have. Passages that differ only in
    case, punctuation, articles or white space are the same. Raises SettingError that quotes the
    first common one.
    """
    kept_out: set[bytes] = set()
    for table in _read_files(files, ["context"], "keep_out"):
        contexts = table.column("context").unique().to_pylist()
        kept_out |= {passage_digest(context) for context in contexts if (context or "").strip()}
    if not kept_out:
        raise SettingError(f"keep_out={files}: it has no passage")
    for row in rows:
        if passage_digest(row["context"]) in kept_out:
            raise SettingError(
                f"keep_out={files}: this passage is among the training rows: "
                f"{row['context'][:80]!r}"
            )
    return len(kept_out)


@lru_cache(maxsize=100_000)
def passage_digest(context: str) -> bytes:
    """Return the SHA-256 of a passage's normalised text."""
    return hashlib.sha256(normalise(context).encode()).digest()


def with_unanswerables(rows: list[dict], share: float, seed: int) -> list[dict]:
    """Return the rows, each followed by the unanswerable ones that were made from it.

    `share` is the number of rows to make per row. A row and those made from it get the same number
    in a new field `group`.
    """
    made: dict[int, list[dict]] = {}
    for row in unanswerables(rows, share, seed):
        made.setdefault(row["made_from"], []).append(row)
    grouped = []
    for group, original in enumerate(rows):
        grouped += [{**row, "group": group} for row in [original, *made.get(group, [])]]
    return grouped


def with_joined_passages(rows: list[dict], share: float, passages: int, seed: int) -> list[dict]:
    """Return the rows, a share of the answerable ones with a long passage.

    A long passage joins the row's own with its neighbours in the data, without those that contain
    one of the row's golds. The position of the row's own among them is uniformly random, except
    near the ends of the data.

    share     chance of an answerable row
    passages  most passages to join, at least 1
    """
    chosen = random.Random(seed)
    contexts = list(dict.fromkeys(row["context"] for row in rows if row["answers"]["text"]))
    index = {context: k for k, context in enumerate(contexts)}
    joined = []
    for row in rows:
        if row["answers"]["text"] and chosen.random() < share:
            # The joined passages are neighbours number `low` to `low + passages` of the data.
            own = index[row["context"]]
            low = max(0, own - chosen.randrange(passages))
            golds = [gold.lower() for gold in row["answers"]["text"]]
            before = _without_golds(contexts[low:own], golds)
            after = _without_golds(contexts[own + 1 : low + passages], golds)
            # The golds move by the passages before, and the line breaks between.
            shift = sum(len(passage) + 1 for passage in before)
            starts = [start + shift for start in row["answers"]["answer_start"]]
            answers = {**row["answers"], "answer_start": starts}
            row = {
                **row,
                "context": "\n".join([*before, row["context"], *after]),
                "answers": answers,
            }
        joined.append(row)
    return joined


def _without_golds(passages: list[str], golds: list[str]) -> list[str]:
    """Return the passages that contain none of the golds, which are in lower case."""
    return [passage for passage in passages if not any(gold in passage.lower() for gold in golds)]


def majority_gold(answers: dict) -> tuple[int, int] | None:
    """Return [char_start, char_end) of the gold that most annotators gave; None without golds.

    Golds count as equal if their normalised texts are; among equally frequent ones the first wins.
    """
    if not answers["text"]:
        return None
    votes = Counter(normalise(text) for text in answers["text"])
    chosen = max(
        range(len(answers["text"])), key=lambda k: (votes[normalise(answers["text"][k])], -k)
    )
    return answers["answer_start"][chosen], answers["answer_start"][chosen] + len(
        answers["text"][chosen]
    )


def make_examples(
    rows: list[dict], tokenizer: Tokenizer, max_length: int, overlap: int, max_question: int
) -> TrainingWindows:
    """Cut the rows into windows and locate the majority gold of each row in them.

    max_length, overlap, max_question  in tokens, as in `model.reading.windows.WindowLimits`
    """
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    index = {context: k for k, context in enumerate(contexts)}
    passages = tokenizer.passages(contexts)
    asked = [row["question"] for row in rows]
    questions = tokenizer.questions(asked)
    passage = np.array([index[row["context"]] for row in rows])
    windows = cut_windows(
        tokenizer.format,
        passages,
        questions,
        passage,
        np.arange(len(rows)),
        WindowLimits(max_length, overlap, max_question, max_windows=10_000),
    )

    # Golds in passage tokens, per row: NULL for a row without.
    unlabelled = np.array([row["answers"] is None for row in rows])
    golds = {
        k: gold
        for k, row in enumerate(rows)
        if not unlabelled[k] and (gold := majority_gold(row["answers"]))
    }
    begin, stop = np.array(list(golds.values()), np.int64).reshape(-1, 2).T
    first, last = np.full(len(rows), NULL, np.int64), np.full(len(rows), NULL, np.int64)
    first[list(golds)], last[list(golds)] = gold_tokens(passages, passage[list(golds)], begin, stop)

    # A window that contains nothing of the gold is a null window (as NULL is before every window);
    # another one has the ends of the gold that it contains.
    start, end = first[windows.pair], last[windows.pair]
    outside = (end < windows.start) | (start >= windows.stop)
    none = np.where(outside, NULL, ABSENT)
    none = np.where(unlabelled[windows.pair], UNLABELLED, none)
    start = np.where((none == ABSENT) & (start >= windows.start), start, none)
    end = np.where((none == ABSENT) & (end < windows.stop), end, none)

    # No loss joins the windows of an unlabelled row: each is a group of its own.
    of_row = np.array([row.get("group", k) for k, row in enumerate(rows)])[windows.pair]
    begins = (np.diff(of_row, prepend=-1) != 0) | unlabelled[windows.pair]
    return TrainingWindows(windows, start, end, np.cumsum(begins) - 1, asked, contexts)


def usable_windows(examples: TrainingWindows, null: bool, shared_normalisation: bool) -> np.ndarray:
    """Return the windows to train on, int64: those with a target, and those of unlabelled rows.

    With shared normalisation all are: one without a target still enters the normaliser of its
    group.
    """
    if shared_normalisation:
        return np.arange(len(examples.windows))
    least = np.minimum(examples.start, examples.end)
    return np.flatnonzero((least >= (NULL if null else 0)) | (least == UNLABELLED))


def best_texts(spans: PassageSpans, windows: Windows, contexts: list[str]) -> list[str]:
    """Return the text of every row's best span, "" where there is none; [rows].

    Row k must be pair k; contexts [rows].
    """
    # Tokens of all passages are concatenated: `base` is where the row's own begin.
    passages = windows.passages
    base = passages.bounds[windows.pair_passage]
    begin, stop = (
        passages.char_start[base + spans.start[:, 0]],
        passages.char_end[base + spans.end[:, 0]],
    )
    return [
        context[low:high] if found else ""
        for context, low, high, found in zip(contexts, begin, stop, spans.found, strict=True)
    ]


def plan_epoch(
    examples: TrainingWindows, usable: np.ndarray, batch_tokens: int, order: np.random.Generator
) -> list[np.ndarray]:
    """Return random batches of windows within a budget of padded tokens; groups stay together.

    usable  int64, ascending indices of windows
    order   the source of randomness

    Returns int64 index arrays that partition `usable`. A group above the budget gets a batch of its
    own.
    """
    # `group` ascends, so each group is a slice.
    lengths = examples.windows.lengths
    _, first = np.unique(examples.group[usable], return_index=True)
    groups = np.split(usable, first[1:])
    longest = np.array([lengths[group].max() for group in groups])

    # Batches are similar in length within a stretch of shuffled groups, and random across
    # stretches.
    batches = []
    shuffled = order.permutation(len(groups))
    for stretch in np.array_split(shuffled, max(1, len(shuffled) // STRETCH)):
        batch: list[int] = []
        widest = 0
        for k in stretch[np.argsort(-longest[stretch], kind="stable")]:
            if batch and (len(batch) + len(groups[k])) * widest > batch_tokens:
                batches.append(np.array(batch))
                batch = []
            widest = widest if batch else longest[k]
            batch += list(groups[k])
        batches.append(np.array(batch))
    return [batches[k] for k in order.permutation(len(batches))]
