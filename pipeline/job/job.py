"""From options to a job: everything that can be refused is refused here, before a row is read."""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import os
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from apache_beam.options.pipeline_options import DirectOptions, GoogleCloudOptions, PipelineOptions, WorkerOptions

from model.audit.rows import AUDIT_SCHEMA
from model.audit.slices import SLICES
from model.checkpoint import CheckpointError, read_settings
from model.reading.columns import ANSWER_SCHEMA
from model.reading.pairs import WindowLimits
from model.reading.prediction import Decoding
from model.reading.reader import CheckpointReader
from model.reading.span_reader import CUDA_BATCH_TOKENS, SettingError, SpanReader
from model.reading.tokenizer import TokenizerError
from pipeline.job.options import Refused
from pipeline.job.runners import is_local
from transforms.make_windows import InputColumns
from transforms.measure_loss import AuditOptions
from transforms.plan_chunks import ANSWERS, ChunkSize, is_answers, is_text, schema_problem, wider, with_path_columns
from transforms.records import InputFile
from transforms.relabel import Correction, CorrectionsError, read_corrections
from transforms.storage import StorageError, absolute, find_inputs, join, lies_below, open_parquet, read, split_names
from transforms.stored_folder import StoredFolder
from transforms.write_chunk import OutputColumns

_log = logging.getLogger("spanmill")

SAMPLE = os.path.join(os.path.dirname(__file__), "sample", "sample.parquet")
"""What `--input bundled` reads."""

_MOST_FOOTERS = 1000
"""How many files are asked for the types of their columns before a run; of more, one that has a wider type is refused."""

_FOOTERS_AT_ONCE = 16

AUDIT_ONLY = ("answers_column", "link", "slice_by", "worst", "suspects", "corrections")
"""Options that only an audit has."""


@dataclass(frozen=True)
class Job:
    """A job with every default resolved: what the builder builds from.

    model          `--model` as it was given
    stages         "annotate", "audit" or both; of both, the audit's tree is `output`/audit
    expected       the columns that are read, with their types
    texts          those that must hold text
    read           which of the columns are the question, the context and the golds
    configuration  what changes answers or boundaries, by name of its option
    null_trained   whether the checkpoint says that its null option is trained
    alone          whether one local worker does all of it, so that nothing needs to be spread
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
    read: InputColumns
    decoding: Decoding
    null_threshold: float
    batch_tokens: int
    columns: OutputColumns
    audit: AuditOptions
    corrections: Mapping[str, Correction]
    against: str
    max_failed_fraction: float
    accelerator: str
    configuration: dict[str, Any]
    null_trained: bool
    alone: bool

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
        return {
            "stage": stage,
            "configuration": self.configuration_of(stage),
            "model": self.model,
            "null_trained": self.null_trained,
            "input_files": len(self.files),
            "versions": {"python": platform.python_version(), **_versions()},
        }


@cache
def _versions() -> dict[str, str]:
    """Of the packages that answers may depend on."""
    return {name: version(name) for name in ("apache-beam", "torch", "transformers", "tokenizers", "pyarrow")}


def resolve(options: argparse.Namespace, beam_options: PipelineOptions) -> Job:
    """Finds the inputs, opens the first, loads the model and resolves every default. Raises Refused."""
    try:
        return _resolve(options, beam_options)
    except (StorageError, CheckpointError, TokenizerError) as error:
        raise Refused(str(error)) from error


def _resolve(options: argparse.Namespace, beam_options: PipelineOptions) -> Job:
    output = absolute(options.output)
    files = _limit(find_inputs(SAMPLE if options.input == "bundled" else options.input), options.limit)
    inside = [file.path for file in files if lies_below(file.path, output)]
    if inside:
        raise Refused(f"--input={options.input}: {inside[0]} lies in --output={options.output}")
    service = beam_options.view_as(GoogleCloudOptions).dataflow_service_options or []
    if options.accelerator and any(option.startswith("worker_accelerator") for option in service):
        raise Refused(f"--accelerator={options.accelerator}: Dataflow takes it or worker_accelerator, never both")
    audited = options.stage == "audit" or options.audit
    if not audited:
        for name in ("slice_by", "against", "worst", "suspects", "corrections"):
            if getattr(options, name) not in (None, ""):
                raise Refused(f"--{name}={getattr(options, name)} is of an audit: give the stage audit, or --audit too")
    worst = 50 if options.worst is None else options.worst
    suspects = 100 if options.suspects is None else options.suspects
    corrections, corrections_digest = _corrections(options)
    stages = (options.stage,) if options.stage == "audit" or not audited else ("annotate", "audit")
    expected, columns = _columns(files[0], options, audited)
    expected = _widened(expected, files[1:_MOST_FOOTERS])

    span_reader = _span_reader(options, is_local(beam_options))
    slices = tuple(split_names(options.slice_by or ""))
    built_in = sorted(set(slices) & set(SLICES))
    if built_in:
        raise Refused(f"--slice_by: {built_in[0]!r} is the name of a slice that every audit has ({', '.join(SLICES)})")
    decoding = replace(span_reader.decoding, n_best=options.n_best)
    chunk_size = ChunkSize(options.chunk_rows, options.chunk_bytes, math.ceil(4 * workers(beam_options) / len(files)))
    return Job(
        model=options.model,
        stages=stages,
        files=files,
        output=output,
        expected=expected,
        texts=(options.question_column, options.context_column),
        chunk_size=chunk_size,
        reader=span_reader.reader,
        limits=span_reader.limits,
        read=InputColumns(options.question_column, options.context_column, options.answers_column if audited else ""),
        decoding=decoding,
        null_threshold=span_reader.null_threshold,
        batch_tokens=span_reader.batch_tokens,
        columns=columns,
        audit=AuditOptions(
            link=span_reader.link,
            id=options.id_column,
            slice_by=slices,
            worst=worst,
            suspects=suspects,
        ),
        corrections=corrections,
        against=options.against,
        max_failed_fraction=options.max_failed_fraction,
        accelerator=options.accelerator,
        configuration={
            "model_digest": span_reader.reader.digest,
            "dtype": span_reader.reader.dtype,
            "batch_tokens": span_reader.batch_tokens,
            "chunk_rows": options.chunk_rows,
            "chunk_bytes": options.chunk_bytes,
            "limit": options.limit,
            **{f"{name}_column": getattr(options, f"{name}_column") for name in ("question", "context", "id", "answers")},
            "keep_columns": list(columns.keep),
            "output_prefix": columns.prefix,
            **asdict(span_reader.limits),
            **asdict(decoding),
            "null_score_diff_threshold": span_reader.null_threshold,
            "link": span_reader.link,
            "slice_by": list(slices),
            "worst": worst,
            "suspects": suspects,
            "corrections": corrections_digest,
        },
        null_trained=read_settings(span_reader.reader.folder).null_trained,
        alone=is_local(beam_options) and workers(beam_options) == 1,
    )


def _corrections(options: argparse.Namespace) -> tuple[dict[str, Correction], str | None]:
    """The corrections by id, and the SHA-256 (hex) of their file; none, and None, without one. Raises Refused."""
    if not options.corrections:
        return {}, None
    if options.stage != "audit":
        raise Refused(f"--corrections={options.corrections}: annotate --audit would write them into annotate's rows too")
    try:
        content = read(options.corrections)
        return read_corrections(content), hashlib.sha256(content).hexdigest()
    except (OSError, CorrectionsError) as error:
        raise Refused(f"--corrections={options.corrections}: {error}") from error


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
            schema = with_path_columns(file.schema_arrow, first.path)
    except Exception as error:
        raise Refused(f"--input: {first.path} can't be read as Parquet: {error}") from error
    texts = options.question_column, options.context_column
    for name, column in (("--question_column", texts[0]), ("--context_column", texts[1])):
        if column not in schema.names:
            raise Refused(f"{name}={column}: {first.path} has the columns {', '.join(schema.names)}")
    keep = schema.names
    if options.keep_columns is not None:
        keep = split_names(options.keep_columns)
        for name in keep:
            if name not in schema.names:
                raise Refused(f"--keep_columns: {first.path} has no column {name!r}, only {', '.join(schema.names)}")
    read = list(texts)
    if audited:
        if options.answers_column not in schema.names:
            raise Refused(f"--answers_column={options.answers_column}: {first.path} has the columns {', '.join(schema.names)}")
        if not is_answers(schema.field(options.answers_column).type):
            raise Refused(
                f"--answers_column={options.answers_column}: {first.path}: it is {schema.field(options.answers_column).type}, "
                f"not {ANSWERS}; other shapes, JSON in text too, become the first by "
                f"`python -m pipeline.convert import --input {first.path} --output GOLDS.parquet`"
            )
        read.append(options.answers_column)
        read += split_names(options.slice_by or "")
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


def _expected(field: pa.Field, is_text_column: bool) -> pa.Field:
    """The first file's field, wide enough for what other files may hold: nulls, text, more than 127 dictionary values."""
    kind = field.type
    if is_text_column and pa.types.is_null(kind):
        kind = pa.string()
    if pa.types.is_dictionary(kind):
        kind = pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
    return pa.field(field.name, kind, nullable=True, metadata=field.metadata)


def _widened(expected: pa.Schema, files: Sequence[InputFile]) -> pa.Schema:
    """The columns with types that hold those of the other files too; where no type does, planning refuses the other file."""
    if all(is_text(field.type) and not pa.types.is_null(field.type) for field in expected):
        return expected
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        for schema in filter(None, pool.map(_schema, files)):
            for place, field in enumerate(expected):
                if schema.names.count(field.name) == 1:
                    kind = wider(field.type, schema.field(field.name).type)
                    expected = expected.set(place, field.with_type(kind or field.type))
    return pa.schema([_expected(field, False) for field in expected])


def _schema(file: InputFile) -> pa.Schema | None:
    try:
        with open_parquet(file.path) as opened:
            return opened.schema_arrow
    except Exception:  # planning refuses it by name
        return None


def _span_reader(options: argparse.Namespace, local: bool) -> SpanReader:
    """The checkpoint with its settings, loaded once to see that it can be.

    Workers elsewhere have other devices and cores: nothing is decided by those of this machine, whose CPU only checks.
    Raises CheckpointError, TokenizerError, Refused.
    """
    if local:
        return _loaded(options, options.device, options.dtype, options.compile)
    if options.device.startswith("cuda") and options.dtype == "auto":
        raise Refused(
            "--dtype=auto: the workers' CUDA devices can't be asked from here; give float32, or bfloat16 from Ampere on"
        )
    dtype = "float32" if options.dtype == "auto" else options.dtype
    try:
        loaded = _loaded(options, "cpu", dtype)
    except CheckpointError as error:
        if not isinstance(error.__cause__, NotImplementedError):
            raise
        _log.info("--dtype=%s: this machine's CPU can't compute in it, the checkpoint is checked in float32 (%s)", dtype, error)
        loaded = _loaded(options, "cpu", "float32")
    return replace(loaded, reader=replace(loaded.reader, device=options.device, dtype=dtype, compile=options.compile))


def _loaded(options: argparse.Namespace, device: str, dtype: str, compile: bool = False) -> SpanReader:
    try:
        return SpanReader.load(
            StoredFolder(options.model) if "://" in options.model else options.model,
            device=device,
            dtype=dtype,
            compile=compile,
            batch_tokens=options.batch_tokens or (CUDA_BATCH_TOKENS if options.device.startswith("cuda") else None),
            max_length=options.max_length,
            overlap=options.overlap,
            max_question=options.max_question,
            max_windows=options.max_windows,
            max_answer_length=options.max_answer_length,
            null=options.null,
            null_score_diff_threshold=options.null_score_diff_threshold,
        )
    except SettingError as error:  # settings have the names of their options
        raise Refused(f"--{error}") from error
