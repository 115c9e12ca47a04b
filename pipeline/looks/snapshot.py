"""Snapshots of a run, from what it has written so far. Nothing in its output is changed.

A snapshot costs a listing of the parts and the footers of those that are new, so that looking at an
object store every few seconds is cheap.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.formats.finished import FinishedRun, read_manifest
from pipeline.job.options import Refused
from pipeline.looks.count_inputs import count_inputs, rows_of
from pipeline.looks.speed import Commit, rows_per_second
from transforms.accounting import STATUSES
from transforms.claim import RUN_HEAD
from transforms.parquet_files import open_parquet
from transforms.plan_chunks import ChunkSize, plan_file
from transforms.records import RECEIPT_KEY, InputFile, Receipt, rows_of_part
from transforms.run_files import RunFiles
from transforms.storage import exists, read

_MOST_RECEIPTS = 1000
"""Most receipts that one snapshot reads; the next snapshots read the rest."""

_READS_AT_ONCE = 16

_NEWEST_PARTS, _ANSWERS_OF_PART, _FIRST_ROWS = 3, 4, 256
_MOST_TEXT = 300
_ANSWER_COLUMN = {"annotate": "answer_text", "audit": "prediction"}
"""Stage -> the column of the model's answer."""


@dataclass(frozen=True, slots=True)
class LatestAnswer:
    """An answer of one of the newest parts; texts have at most 300 code points."""

    id: str
    question: str
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the output of a run shows at one moment.

    state            waiting (there is no run.json), running (no manifest), complete or incomplete
    parts, rows      committed so far
    planned_parts    0 if no input can be read from here, as `planned_rows`
    exact            whether the planned numbers are exact; else they are estimated
    receipts         parts whose receipts were read: `outcomes` and `reasons` cover these
    unit             what `outcomes` and `reasons` count: rows, or questions of a list
    outcomes         number by status
    rows_per_second  0 if it is unknown
    since_commit     seconds since the last part was committed; None without parts
    why              the manifest's reasons for "incomplete"
    answers          of the newest parts
    trouble          why the output can't be read at the moment; "" if it can
    """

    folder: str
    state: str = "waiting"
    stage: str = ""
    parts: int = 0
    rows: int = 0
    planned_parts: int = 0
    planned_rows: int = 0
    exact: bool = True
    receipts: int = 0
    unit: str = "rows"
    outcomes: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    rows_per_second: float = 0.0
    since_commit: float | None = None
    why: tuple[str, ...] = ()
    answers: tuple[LatestAnswer, ...] = ()
    trouble: str = ""

    @property
    def finished(self) -> bool:
        """Return whether the run has written its manifest."""
        return self.state in ("complete", "incomplete")

    @property
    def seconds_left(self) -> float | None:
        """Return the time that the rest of the rows takes at this speed; None if it is unknown."""
        left = self.planned_rows - self.rows
        known = self.rows_per_second and left > 0 and not self.finished
        return left / self.rows_per_second if known else None


@dataclass(frozen=True, slots=True)
class _Run:
    """What run.json says."""

    stage: str
    configuration: dict[str, Any]
    files: list[InputFile]


@dataclass(frozen=True, slots=True)
class _Counts:
    """What is kept of the receipt of a part: counts by status and by reason, and seconds."""

    outcomes: Mapping[str, int]
    reasons: Mapping[str, int]
    seconds: float


_Part = tuple[str, float]
"""Name and time of commit: a rerun may write a damaged part again."""


class Watcher:
    """Takes snapshots of one output; remembers what it has read of parts, which do not change.

    folder  absolute path or URL; need not exist yet
    """

    def __init__(self, folder: str):
        self.folder, self._files = folder, RunFiles(folder)
        self._forget(b"")

    def _forget(self, head: bytes) -> None:
        """Forget everything: the output belongs to another run, or to none."""
        self._head = head
        self._run: _Run | None = None
        self._planned, self._exact = [0, 0], True
        self._receipts: dict[_Part, _Counts] = {}
        self._answers: dict[_Part, list[LatestAnswer]] = {}

    def look(self, now: float) -> Snapshot:
        """Return a snapshot at a time in seconds since 1970.

        Raises Refused for an output without parts (of compare) or with an unreadable run.json, and
        OSError if the store can't be read.
        """
        run = self._find_run()
        if run is None:
            return Snapshot(self.folder)
        # The manifest first: if it is there, the parts that are listed next are all parts.
        manifest = self._manifest()
        parts = self._files.part_times().items()
        newest = sorted(parts, key=lambda part: (part[1], part[0]), reverse=True)
        if manifest is None:
            self._read_receipts(run, newest)
        receipts = {part: self._receipts[part] for part in newest if part in self._receipts}
        commits = [
            Commit(
                part[1], rows_of_part(part[0]), receipts[part].seconds if part in receipts else 0
            )
            for part in newest
        ]
        outcomes = Counter(dict.fromkeys(STATUSES[run.stage], 0))
        reasons: Counter[str] = Counter()
        for receipt in receipts.values():
            outcomes.update(receipt.outcomes)
            reasons.update(receipt.reasons)
        snapshot = Snapshot(
            self.folder,
            state="running",
            stage=run.stage,
            parts=len(newest),
            rows=sum(commit.rows for commit in commits),
            planned_parts=self._planned[0],
            planned_rows=self._planned[1],
            exact=self._exact,
            receipts=len(receipts),
            unit="questions" if "questions" in run.configuration else "rows",
            outcomes=dict(outcomes),
            reasons=dict(reasons.most_common()),
            rows_per_second=rows_per_second(commits),
            since_commit=max(0.0, now - newest[0][1]) if newest and newest[0][1] else None,
            answers=tuple(self._latest_answers(run, newest)),
        )
        if manifest is None:
            return snapshot
        try:
            return _finished(snapshot, manifest)
        except (KeyError, TypeError) as error:
            raise Refused(f"{self._files.manifest} does not end a run: {error!r}") from error

    def _find_run(self) -> _Run | None:
        """Return what run.json says, None if there is none. Raises Refused."""
        try:
            head = read(self._files.run, RUN_HEAD)
        except (FileNotFoundError, NotADirectoryError):
            head = b""
        if head != self._head:
            self._forget(head)
        if self._run is None and head:
            try:
                content = json.loads(read(self._files.run))
                configuration = content["configuration"]
                files = _input_files(self.folder, content["inputs"])
                run = _Run(configuration["stage"], configuration, files)
                if run.stage not in STATUSES:
                    raise Refused(f"{self.folder} is an output of {run.stage}: it has no parts")
                self._planned, self._exact = _plan(run)
            except (ValueError, KeyError, TypeError) as error:
                raise Refused(f"{self._files.run} does not describe a run: {error!r}") from error
            self._run = run
        return self._run

    def _manifest(self) -> dict[str, Any] | None:
        """Return the manifest, None if there is none yet. Raises Refused."""
        try:
            return read_manifest(self._files)
        except FileNotFoundError:
            return None

    def _read_receipts(self, run: _Run, newest: list[_Part]) -> None:
        """Read the receipts of new parts, the newest first: the speed comes from these."""
        new = [part for part in newest if part not in self._receipts][:_MOST_RECEIPTS]
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            found = pool.map(_receipt_of, (self._files.part(name) for name, _ in new))
        for part, receipt in zip(new, found, strict=True):
            if receipt is not None:
                outcomes = {name: receipt.counts.get(name, 0) for name in STATUSES[run.stage]}
                seconds = sum(receipt.seconds.values())
                self._receipts[part] = _Counts(outcomes, dict(receipt.reasons), seconds)

    def _latest_answers(self, run: _Run, newest: list[_Part]) -> list[LatestAnswer]:
        """Return some answers of the newest parts."""
        answers = {}
        for part in newest[:_NEWEST_PARTS]:
            known = self._answers.get(part)
            answers[part] = _answers_of(run, self._files, part[0]) if known is None else known
        self._answers = answers  # those of older parts are not needed any more
        return [answer for each in answers.values() for answer in each]


def _input_files(folder: str, entries: list[dict[str, Any]]) -> list[InputFile]:
    """Return the input files that run.json lists."""
    owner = RunFiles(folder)
    first = next((entry["copy"] for entry in entries if "copy" in entry), None)
    # The audit of `annotate --audit` reads the copies in the folder above its own.
    if first is not None and not exists(owner.copy(first)):
        owner = RunFiles(folder.rpartition("/")[0])
    files = []
    for index, entry in enumerate(entries):
        copy = {"copy": owner.copy(entry["copy"])} if "copy" in entry else {}
        files.append(InputFile(index, **{**entry, **copy}))
    return files


def _plan(run: _Run) -> tuple[list[int], bool]:
    """Return the numbers of planned parts and rows, and whether they are exact."""
    size = ChunkSize(run.configuration["chunk_rows"], run.configuration["chunk_bytes"])

    def parts_of(file: InputFile, metadata: pq.FileMetaData) -> int:
        return sum(len(chunk_run.chunks) for chunk_run in plan_file(file, metadata, size))

    return count_inputs(run.files, parts_of, rows_of)


def _receipt_of(path: str) -> Receipt | None:
    """Return the receipt of a part without the statistics of an audit.

    Returns None if the part has been removed, an empty receipt if it has none that can be read.
    """
    try:
        with open_parquet(path) as file:
            values = json.loads((file.metadata.metadata or {})[RECEIPT_KEY])
            return Receipt.from_json({**values, "statistics": None})
    except FileNotFoundError:  # --overwrite
        return None
    except (ValueError, KeyError, TypeError, pa.ArrowException):
        return Receipt()


def _answers_of(run: _Run, files: RunFiles, name: str) -> list[LatestAnswer]:
    """Return some answers of the first rows of a part."""
    try:
        with open_parquet(files.part(name)) as file:
            schema = file.schema_arrow
        part = FinishedRun(files.folder, run.stage, (name,), schema, run.configuration)
        kept = {kind: part.input(kind) or "" for kind in ("id", "question")}
        text = _ANSWER_COLUMN[run.stage]
        rows = part.answers([*filter(None, kept.values())], (text, "probability"))
        found = [
            LatestAnswer(
                _joined(row.get(kept["id"]), answer.get("question_id")),
                _joined(answer.get("question", row.get(kept["question"]))),
                _joined(answer[text]),
                answer["probability"],
            )
            for row, answer in islice(rows, _FIRST_ROWS)
            if answer[text]
        ]
    except (FileNotFoundError, ValueError, KeyError, pa.ArrowException):
        return []  # removed, or damaged: a rerun recomputes it
    return found[:: max(1, len(found) // _ANSWERS_OF_PART)][:_ANSWERS_OF_PART]


def _joined(*values: Any) -> str:
    """Return the values that are not None, separated by commas and shortened."""
    return ", ".join(str(value) for value in values if value is not None)[:_MOST_TEXT]


def _finished(snapshot: Snapshot, manifest: dict[str, Any]) -> Snapshot:
    """Return a snapshot with the accounting of the manifest."""
    rows = dict(manifest["rows"])
    return replace(
        snapshot,
        state=str(manifest["state"]),
        planned_parts=manifest["chunks"]["planned"],
        planned_rows=rows.pop("planned") // manifest.get("questions", 1),
        exact=True,
        receipts=snapshot.parts,
        outcomes=rows,
        reasons=manifest["reasons"],
        rows_per_second=0.0,
        why=tuple(manifest["why"]),
    )
