"""From options to a job: everything that can be refused is refused here, before a row is read."""

from __future__ import annotations

import argparse
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, WorkerOptions

from model.audit import AUDIT_SCHEMA
from model.checkpoint import Bundled, CheckpointError, Hub, LocalFolder, Location, digest, read_settings
from model.columns import ANSWER_SCHEMA
from model.prediction import Decoding
from model.reader import CheckpointReader, resolve_device, resolve_dtype, shared
from model.statistics import SLICES
from model.tokenizer import Tokenizer, TokenizerError
from pipeline.options import Refused
from transforms.make_windows import WindowLimits
from transforms.measure_loss import AuditOptions
from transforms.plan_chunks import ChunkSize, is_answers, schema_problem
from transforms.records import InputFile
from transforms.storage import StorageError, StoredFolder, absolute, find_inputs, join, open_parquet
from transforms.write_chunk import OutputColumns

SAMPLE = os.path.join(os.path.dirname(__file__), "sample", "sample.parquet")
"""What `--input bundled` reads."""

AUDIT_ONLY = ("answers_column", "link", "slice_by", "worst")
"""Options that only an audit has."""


@dataclass(frozen=True)
class Job:
    """A job with every default resolved: what the builder builds from.

    model          `--model` as it was given
    stages         "annotate", "audit" or both; of both, the audit's tree is `output`/audit
    expected       the columns that are read, with their types
    texts          those that must hold text
    configuration  what changes answers or boundaries, by name of its option
    """

    model: str
    stages: tuple[str, ...]
    files: tuple[InputFile, ...]
    output: str
    expected: pa.Schema
    texts: tuple[str, ...]
    chunk_size: ChunkSize
    reader: CheckpointReader
    limits: WindowLimits
    decoding: Decoding
    null_threshold: float
    batch_tokens: int
    columns: OutputColumns
    audit: AuditOptions
    max_failed_fraction: float
    configuration: dict[str, Any]

    @property
    def outputs(self) -> tuple[tuple[str, str], ...]:
        """(stage, folder) in the order of writing: what annotate writes comes last."""
        if len(self.stages) == 1:
            return ((self.stages[0], self.output),)
        return (("audit", join(self.output, "audit")), ("annotate", self.output))

    def configuration_of(self, stage: str) -> dict[str, Any]:
        """What changes the answers or boundaries of a stage: the same whether it runs alone or with the other."""
        own = AUDIT_ONLY if stage == "annotate" else ()
        return {"stage": stage, **{name: value for name, value in self.configuration.items() if name not in own}}

    def about(self, stage: str) -> dict[str, Any]:
        """What the manifest of a stage says of the job, beyond what it did."""
        packages = ("apache-beam", "torch", "transformers", "tokenizers", "pyarrow")
        return {
            "stage": stage,
            "configuration": self.configuration_of(stage),
            "model": self.model,
            "input_files": len(self.files),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        }


def resolve(options: argparse.Namespace, beam_options: PipelineOptions) -> Job:
    """Finds the inputs, opens the first, loads the model and resolves every default. Raises Refused."""
    try:
        return _resolve(options, beam_options)
    except (StorageError, CheckpointError, TokenizerError) as error:
        raise Refused(str(error)) from error


def _resolve(options: argparse.Namespace, beam_options: PipelineOptions) -> Job:
    output = absolute(options.output)
    files = _limit(find_inputs(SAMPLE if options.input == "bundled" else options.input), options.limit)
    inside = [file.path for file in files if file.path.startswith(output + "/")]
    if inside:
        raise Refused(f"--input={options.input}: {inside[0]} lies in --output={options.output}")
    audited = options.stage == "audit" or options.audit
    if not audited:
        for name in ("slice_by", "against", "worst"):
            if getattr(options, name) not in (None, ""):
                raise Refused(f"--{name}={getattr(options, name)} is of an audit: give the stage audit, or --audit too")
    worst = 50 if options.worst is None else options.worst
    stages = (options.stage,) if options.stage == "audit" or not audited else ("annotate", "audit")
    expected, columns = _columns(files[0], options, audited)

    reader = _reader(options)
    settings = read_settings(reader.folder)
    tokenizer = reader.tokenizer()
    limits = _limits(options, tokenizer, reader, audited)
    slices = tuple(_names(options.slice_by))
    built_in = sorted(set(slices) & set(SLICES))
    if built_in:
        raise Refused(f"--slice_by: {built_in[0]!r} is the name of a slice that every audit has ({', '.join(SLICES)})")
    if options.null == "on" and tokenizer.format.classifier is None:
        raise Refused("--null=on: the tokenizer puts no classifier token into a pair, the model has no null option")
    decoding = Decoding(
        n_best=options.n_best,
        max_answer_length=options.max_answer_length,
        temperature=settings.temperature,
        null=options.null == "on" or (options.null == "auto" and settings.null),
    )
    threshold = options.null_score_diff_threshold
    null_threshold = settings.null_threshold if threshold is None else threshold
    on_cuda = resolve_device(reader.device).type == "cuda"
    batch_tokens = options.batch_tokens or (65536 if on_cuda else 4096)
    chunk_size = ChunkSize(options.chunk_rows, options.chunk_bytes, math.ceil(4 * workers(beam_options) / len(files)))
    return Job(
        model=options.model,
        stages=stages,
        files=files,
        output=output,
        expected=expected,
        texts=(options.question_column, options.context_column),
        chunk_size=chunk_size,
        reader=reader,
        limits=limits,
        decoding=decoding,
        null_threshold=null_threshold,
        batch_tokens=batch_tokens,
        columns=columns,
        audit=AuditOptions(
            link=settings.link,
            id=options.id_column,
            slice_by=slices,
            worst=worst,
        ),
        max_failed_fraction=options.max_failed_fraction,
        configuration={
            "model_digest": reader.digest,
            "dtype": reader.dtype,
            "batch_tokens": batch_tokens,
            "chunk_rows": options.chunk_rows,
            "chunk_bytes": options.chunk_bytes,
            "limit": options.limit,
            **{f"{name}_column": getattr(options, f"{name}_column") for name in ("question", "context", "id", "answers")},
            "keep_columns": list(columns.keep),
            "output_prefix": columns.prefix,
            **{name: value for name, value in asdict(limits).items() if name.startswith("max_") or name == "overlap"},
            **asdict(decoding),
            "null_score_diff_threshold": null_threshold,
            "link": settings.link,
            "slice_by": list(slices),
            "worst": worst,
        },
    )


def workers(beam_options: PipelineOptions) -> int:
    """How many workers a job may have, as far as its options tell."""
    direct = beam_options.view_as(DirectOptions).direct_num_workers
    remote = beam_options.view_as(WorkerOptions)
    local = (os.cpu_count() or 1) if direct == 0 else direct or 1
    return max(local, remote.num_workers or 1, remote.max_num_workers or 1)


def _limit(files: Sequence[InputFile], rows: int | None) -> tuple[InputFile, ...]:
    """The files that hold the first so many rows, the last of them read in part."""
    if rows is None:
        return tuple(files)
    chosen: list[InputFile] = []
    for file in files:
        if rows <= 0:
            break
        try:
            with open_parquet(file.path) as opened:
                held = min(rows, opened.metadata.num_rows)
        except Exception:  # an unreadable file has no rows; planning refuses it by name
            held = 0
        chosen.append(replace(file, rows=held))
        rows -= held
    return tuple(chosen)


def _columns(first: InputFile, options: argparse.Namespace, audited: bool) -> tuple[pa.Schema, OutputColumns]:
    """The columns to read, with the types of the first file, and those of the output. Raises Refused."""
    try:
        with open_parquet(first.path) as file:
            schema = file.schema_arrow
    except Exception as error:
        raise Refused(f"--input: {first.path} can't be read as Parquet: {error}") from error
    texts = options.question_column, options.context_column
    for name, column in (("--question_column", texts[0]), ("--context_column", texts[1])):
        if column not in schema.names:
            raise Refused(f"{name}={column}: {first.path} has the columns {', '.join(schema.names)}")
    keep = schema.names
    if options.keep_columns is not None:
        keep = _names(options.keep_columns)
        for name in keep:
            if name not in schema.names:
                raise Refused(f"--keep_columns: {first.path} has no column {name!r}, only {', '.join(schema.names)}")
    read = list(texts)
    if audited:
        if options.answers_column not in schema.names:
            raise Refused(f"--answers_column={options.answers_column}: {first.path} has the columns {', '.join(schema.names)}")
        if not is_answers(schema.field(options.answers_column).type):
            kind = schema.field(options.answers_column).type
            raise Refused(
                f"--answers_column={options.answers_column}: {first.path}: it is {kind}, "
                "not struct<text: list<string>, answer_start: list<int32>>"
            )
        read.append(options.answers_column)
        read += _names(options.slice_by)
        for name in read:
            if name not in schema.names:
                raise Refused(f"--slice_by: {first.path} has no column {name!r}, only {', '.join(schema.names)}")
    wanted = dict.fromkeys([*keep, *read, *([options.id_column] if options.id_column in schema.names else [])])
    problem = schema_problem(schema, pa.schema([schema.field(name) for name in wanted if schema.names.count(name) == 1]), texts)
    if problem:
        raise Refused(f"--input: {first.path}: {problem}")
    names = [*(ANSWER_SCHEMA.names if options.stage == "annotate" else ()), *(AUDIT_SCHEMA.names if audited else ())]
    made = {options.output_prefix + name for name in names}
    clash = sorted(made & set(keep)) or sorted(made & {options.id_column})
    if clash:
        raise Refused(
            f"--output_prefix={options.output_prefix!r}: the output column {clash[0]!r} is an input column already; "
            "give another prefix, or leave it out of --keep_columns"
        )
    expected = pa.schema([_expected(schema.field(name), name in texts) for name in wanted])
    return expected, OutputColumns(tuple(keep), options.output_prefix, options.id_column)


def _names(listed: str | None) -> list[str]:
    """The names in a comma-separated list, each once."""
    return list(dict.fromkeys(name.strip() for name in (listed or "").split(",") if name.strip()))


def _expected(field: pa.Field, is_text_column: bool) -> pa.Field:
    """The first file's field, wide enough for what other files may hold: nulls, text, more than 127 dictionary values."""
    kind = field.type
    if is_text_column and pa.types.is_null(kind):
        kind = pa.string()
    if pa.types.is_dictionary(kind):
        kind = pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
    return pa.field(field.name, kind, nullable=True, metadata=field.metadata)


def _location(model: str) -> Location:
    if model == "bundled":
        return Bundled()
    if "://" in model:
        return StoredFolder(model)
    if os.path.isdir(model):
        return LocalFolder(os.path.abspath(model))
    repository, _, revision = model.partition("@")
    return Hub(repository, revision or None)


def _reader(options: argparse.Namespace) -> CheckpointReader:
    """The reader, its network loaded once to see that it can be. Raises CheckpointError, TokenizerError or Refused."""
    location = _location(options.model)
    folder = location.folder()
    found = digest(folder)
    if isinstance(location, Hub):
        location = replace(location, revision=folder.name)  # workers fetch this very commit
    if isinstance(location, StoredFolder):
        location = replace(location, digest=found)
    try:
        dtype = resolve_dtype(options.dtype, options.device)
    except ValueError as error:
        raise Refused(f"--device={options.device}: {error}") from error
    reader = CheckpointReader(location, found, options.device, dtype, options.compile)
    reader = shared(reader)  # type: ignore[assignment]  # an equal reader is of the same type
    reader.load()
    tokenizer = reader.tokenizer()
    tokens, rows = tokenizer.vocabulary_size, reader.vocabulary()
    if tokens > rows:
        raise Refused(
            f"--model={options.model}: its tokenizer has {tokens} tokens, but the network embeds {rows}: they do not match"
        )
    if None not in (tokenizer.padding, reader.padding()) and tokenizer.padding != reader.padding():
        raise Refused(
            f"--model={options.model}: its tokenizer pads with token {tokenizer.padding}, but the config of the network says "
            f"pad_token_id {reader.padding()}: they do not match"
        )
    return reader


def _limits(options: argparse.Namespace, tokenizer: Tokenizer, reader: CheckpointReader, audited: bool) -> WindowLimits:
    """Window sizes that the model can take and that give every admissible answer a window. Raises Refused."""
    capacity = min(tokenizer.max_length, reader.positions() or tokenizer.max_length)
    max_length = options.max_length or min(384, capacity)
    if max_length > capacity:
        raise Refused(f"--max_length={max_length}: the model takes at most {capacity} tokens")
    least = options.max_answer_length - 1
    room = max_length - options.max_question - tokenizer.format.special_tokens
    overlap = max(least, min(128, max_length // 3, room - 1)) if options.overlap is None else options.overlap
    if overlap < least:
        raise Refused(
            f"--overlap={overlap}: must be at least --max_answer_length - 1 = {least}, or some answers fit in no window"
        )
    if room <= overlap:
        raise Refused(
            f"--overlap={overlap}: must be below {max(room, 0)}, the context tokens that fit beside a question in "
            f"--max_length={max_length} less --max_question={options.max_question} less "
            f"{tokenizer.format.special_tokens} special tokens"
        )
    return WindowLimits(
        max_length=max_length,
        overlap=overlap,
        max_question=options.max_question,
        max_windows=options.max_windows,
        question=options.question_column,
        context=options.context_column,
        answers=options.answers_column if audited else "",
    )
