"""Turn options into a job. Whatever can be refused before a row is read is refused here."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from typing import Any

from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    WorkerOptions,
)

from model.audit.slices import SLICES
from model.checkpoint import CheckpointError, read_settings
from model.reading.columns import answer_options
from model.reading.decoding import Decoding
from model.reading.places import Places
from model.reading.reader import DTYPES, ModelSettings
from model.reading.span_reader import CUDA_BATCH_TOKENS, SpanReader
from model.reading.tokenizer import TokenizerError
from model.reading.windows import WindowLimits
from model.settings import AUDIT, SettingError, declared, identity_of, make
from pipeline.job.copies import Copies
from pipeline.job.identity import output_folder
from pipeline.job.inputs import Inputs, choose_columns, find_files
from pipeline.job.options import Refused
from pipeline.job.questions import check_questions, question_list, with_chunk_rows
from pipeline.job.runners import has_processes, runs_locally
from pipeline.job.settings import AuditSettings, Columns, Files, WorkSettings
from transforms.measure_loss import AuditOptions
from transforms.plan_chunks import ChunkSize
from transforms.records import Correction, InputFile, OutputColumns
from transforms.relabel import CorrectionsError, read_corrections
from transforms.run_files import RunFiles
from transforms.storage import StorageError, exists, read
from transforms.stored_folder import StoredFolder

_log = logging.getLogger("spanmill")


@dataclass(frozen=True)
class JobAudit:
    """What an audit measures and reports.

    corrections  corrected golds by id
    against      output of another audit to search for duplicates, "" for none
    """

    options: AuditOptions
    corrections: Mapping[str, Correction] = field(default_factory=dict)
    against: str = ""


@dataclass(frozen=True)
class JobWork:
    """How the work is divided and run.

    price_per_hour  of one worker process; None if it was not given
    alone           whether one local worker does all of it, so that no shuffle is needed
    """

    chunk_size: ChunkSize
    max_failed_fraction: float
    price_per_hour: float | None
    accelerator: str
    alone: bool


@dataclass(frozen=True)
class Job:
    """A job with every default resolved, from which the graph is built.

    model          `--model` as given
    outputs        (stage, folder) in the order of writing; annotate's comes last
    configuration  stage -> option -> value, for the options on which its answers or chunk
                   boundaries depend; the same whether a stage runs alone or with the other
    """

    model: str
    outputs: tuple[tuple[str, str], ...]
    inputs: Inputs
    reader: SpanReader
    columns: OutputColumns
    audit: JobAudit | None
    work: JobWork
    configuration: Mapping[str, Mapping[str, Any]]

    @property
    def output(self) -> str:
        """Return the folder that --output names."""
        return self.outputs[-1][1]

    @property
    def files(self) -> tuple[InputFile, ...]:
        """Return the input files."""
        return self.inputs.files

    @property
    def stages(self) -> tuple[str, ...]:
        """Return the stages, in the order of writing."""
        return tuple(stage for stage, _ in self.outputs)

    def configuration_of(self, stage: str) -> dict[str, Any]:
        """Return the configuration of a stage as run.json holds it."""
        return {"stage": stage, **self.configuration[stage]}

    def about(self, stage: str) -> dict[str, Any]:
        """Return what the manifest of a stage says about the job, apart from its accounting."""
        price = self.work.price_per_hour
        return {
            "stage": stage,
            "configuration": self.configuration_of(stage),
            "model": self.model,
            "null_trained": read_settings(self.reader.reader.folder).null_trained,
            "input_files": len(self.files),
            **({"questions": len(self.inputs.questions)} if self.inputs.questions else {}),
            **({} if price is None else {"price_per_hour": price}),
            "versions": {"python": platform.python_version(), **_versions()},
        }


@cache
def _versions() -> dict[str, str]:
    """Return the versions of the packages that answers may depend on."""
    return {
        name: version(name)
        for name in ("apache-beam", "torch", "transformers", "tokenizers", "pyarrow")
    }


def resolve(options: argparse.Namespace, beam_options: PipelineOptions) -> Job:
    """Find the inputs, open the first, load the model and resolve every default. Raises Refused."""
    try:
        return _resolve(options, beam_options)
    except SettingError as error:  # the message begins with the name of the option
        raise Refused(f"--{error}") from error
    except (StorageError, CheckpointError, TokenizerError) as error:
        raise Refused(str(error)) from error


@contextmanager
def _names(option: str) -> Iterator[None]:
    """Turn an error of storage or of the checkpoint into a Refused that names an option."""
    try:
        yield
    except (StorageError, CheckpointError, TokenizerError) as error:
        raise Refused(f"--{option}: {error}") from error


def _resolve(options: argparse.Namespace, beam_options: PipelineOptions) -> Job:
    """Return the job. Raises Refused, SettingError, StorageError and errors of the checkpoint."""
    given = vars(options)
    files, columns = make(Files, given), make(Columns, given)
    audit, work = make(AuditSettings, given), make(WorkSettings, given)
    with _names("output"):
        output = output_folder(files.output)
    audited = options.stage == AUDIT or audit.audit
    # An audit along with annotate has its own folder, which is written first.
    alongside = ((AUDIT, RunFiles(output).beside),) if audited and options.stage != AUDIT else ()
    outputs = (*alongside, (options.stage, output))
    stages = tuple(stage for stage, _ in outputs)

    # Cheap refusals come before the files and the model are opened.
    _refuse_two_accelerators(work, beam_options)
    _refuse_slices(audit)
    if audited:
        _refuse_unread(make(WindowLimits, given))
    corrections, digest = _corrections(audit, options.stage, output)
    questions = question_list(files, columns, audited)
    work = with_chunk_rows(work, questions)
    copies = Copies.for_columns(columns, bool(questions), output, reuse=not files.overwrite)
    with _names("input"):
        found = find_files(files, output, copies)
    settings = make(Places, given), make(Decoding, given), make(WindowLimits, given)
    column_options = answer_options(*settings)
    inputs, kept = choose_columns(found, columns, audit.slice_by, column_options, stages, questions)
    inputs = replace(inputs, temporary=copies.temporary)
    if given["tokenizer_processes"] is None and has_processes(beam_options):
        given = {**given, "tokenizer_processes": 0}  # each tokenizes beside the others
    with _names("model"):
        reader = _reader(make(ModelSettings, given), given, runs_locally(beam_options))
    if questions:
        check_questions(questions, reader, files)
    audit_options = AuditOptions(columns.id_column, audit.slice_by, audit.worst, audit.suspects)

    # The list's content, not its name or format, is part of the identity.
    listed = {"questions": questions.digest} if questions else {}
    # Every group in its resolved form, because run.json holds the values that were used.
    resolved = (
        work,
        files,
        replace(columns, keep_columns=kept.keep),
        reader.limits,
        reader.decoding,
        reader.places,
    )
    job = Job(
        model=options.model,
        outputs=outputs,
        inputs=inputs,
        reader=reader,
        columns=kept,
        audit=JobAudit(audit_options, corrections, audit.against) if audited else None,
        work=_work(work, len(inputs.files), beam_options),
        configuration={
            stage: _configuration(stage, reader, resolved, audit, digest) | listed
            for stage in stages
        },
    )
    if given["dtype"] == "auto" and runs_locally(beam_options):
        return _in_dtype_of_earlier_run(job, given)
    return job


def _in_dtype_of_earlier_run(job: Job, given: Mapping[str, Any]) -> Job:
    """Return the job in the dtype of an earlier run in its output, if nothing else differs.

    On a CPU, `--dtype auto` depends on a timing, which may come out differently on a busy machine.
    Without this, the same command could then be refused instead of resuming the run.
    """
    dtype = _dtype_of_earlier_run(job)
    if dtype in (None, job.reader.reader.dtype):
        return job
    in_dtype = {**given, "dtype": dtype}
    try:
        reader = _reader(make(ModelSettings, in_dtype), in_dtype, local=True)
    except CheckpointError as error:
        _log.info(
            "--dtype=auto: the run in %s can't be resumed in %s: %s", job.output, dtype, error
        )
        return job
    _log.info("--dtype=auto: using %s, as the run in %s does", dtype, job.output)
    configuration = {
        stage: {**values, "dtype": dtype} for stage, values in job.configuration.items()
    }
    return replace(job, reader=reader, configuration=configuration)


def _dtype_of_earlier_run(job: Job) -> str | None:
    """Return the dtype of the runs that the job's outputs hold.

    None if there is no run, if the runs differ from the job in more than the dtype, or from each
    other.
    """
    dtypes = set()
    for stage, folder in job.outputs:
        path = RunFiles(folder).run
        if not exists(path):
            continue
        # `claim` reports a damaged run.json.
        try:
            configuration = dict(json.loads(read(path))["configuration"])
        except (ValueError, KeyError, TypeError):
            return None
        dtype = configuration.get("dtype")
        if configuration != {**job.configuration_of(stage), "dtype": dtype}:
            return None
        dtypes.add(dtype)
    return dtypes.pop() if len(dtypes) == 1 and dtypes <= DTYPES.keys() else None


def _configuration(
    stage: str,
    reader: SpanReader,
    groups: tuple[Any, ...],
    audit: AuditSettings,
    corrections: str | None,
) -> dict[str, Any]:
    """Return what the answers or boundaries of a stage depend on, as run.json holds it.

    corrections  SHA-256 (hex) of the file of corrections
    """
    network = reader.reader
    values = {
        "model_digest": network.digest,
        "dtype": network.dtype,
        "batch_tokens": reader.batch_tokens,
    }
    for group in groups:
        values |= identity_of(group, stage)
    if stage == AUDIT:
        values |= {"link": reader.link, **identity_of(audit, stage), "corrections": corrections}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def _refuse_two_accelerators(work: WorkSettings, beam_options: PipelineOptions) -> None:
    """Raise Refused for --accelerator together with Dataflow's own option for accelerators."""
    service = beam_options.view_as(GoogleCloudOptions).dataflow_service_options or []
    if work.accelerator and any(option.startswith("worker_accelerator") for option in service):
        raise Refused(
            f"--accelerator={work.accelerator}: Dataflow takes it or worker_accelerator, not both"
        )


def _refuse_unread(limits: WindowLimits) -> None:
    """Raise Refused for an audit of fewer than all windows: its losses need every token."""
    if limits.read_windows != "all":
        raise Refused(
            f"--read_windows={limits.read_windows}: an audit measures losses over all windows, and "
            "so must read all of them; only annotate without --audit may read less"
        )


def _refuse_slices(audit: AuditSettings) -> None:
    """Raise Refused for a column to slice by that has the name of a built-in slice."""
    built_in = sorted(set(audit.slice_by) & set(SLICES))
    if built_in:
        raise Refused(
            f"--slice_by: {built_in[0]!r} is the name of a slice that every audit has "
            f"({', '.join(SLICES)})"
        )


def _corrections(
    audit: AuditSettings, stage: str, output: str
) -> tuple[dict[str, Correction], str | None]:
    """Return the corrections by id, and the SHA-256 (hex) of their file; {} and None without one.

    Raises Refused.
    """
    if not audit.corrections:
        return {}, None
    if stage != AUDIT:
        raise Refused(
            f"--corrections={audit.corrections}: annotate --audit would write them into annotate's "
            "rows too"
        )
    if RunFiles(output).holds(audit.corrections):
        raise Refused(
            f"--corrections={audit.corrections} is a file of --output={output}, which this run "
            "rewrites: copy it elsewhere, or give another --output"
        )
    try:
        content = read(audit.corrections)
        return read_corrections(content), hashlib.sha256(content).hexdigest()
    except (OSError, CorrectionsError) as error:
        raise Refused(f"--corrections={audit.corrections}: {error}") from error


def _work(work: WorkSettings, files: int, beam_options: PipelineOptions) -> JobWork:
    """Return how the work is divided: files have at least 4 runs of chunks for each worker."""
    count = workers(beam_options)
    return JobWork(
        chunk_size=ChunkSize(work.chunk_rows, work.chunk_bytes, math.ceil(4 * count / files)),
        max_failed_fraction=work.max_failed_fraction,
        price_per_hour=work.price_per_hour,
        accelerator=work.accelerator,
        alone=runs_locally(beam_options) and count == 1,
    )


def workers(beam_options: PipelineOptions) -> int:
    """Return how many workers a job may have, as far as its options say."""
    # The most that any of Beam's options may lead to; 0 local workers mean one per core.
    direct = beam_options.view_as(DirectOptions).direct_num_workers
    remote = beam_options.view_as(WorkerOptions)
    local = (os.cpu_count() or 1) if direct == 0 else direct or 1
    return max(local, remote.num_workers or 1, remote.max_num_workers or 1)


def _reader(model: ModelSettings, given: Mapping[str, Any], local: bool) -> SpanReader:
    """Return the checkpoint with its settings, after loading it once to check that it works.

    Remote workers have other devices and cores than this machine. For them nothing is decided by
    this machine's hardware, and its CPU only checks the checkpoint.

    given  values of all settings by name
    local  whether the workers run on this machine

    Raises CheckpointError, TokenizerError, SettingError, Refused.
    """
    names = [
        name
        for group in (ModelSettings, WindowLimits, Decoding, Places)
        for name, _, each in declared(group)
        if each.option
    ]
    settings = {name: given[name] for name in names if name != "model"}
    location = StoredFolder(model.model) if "://" in model.model else model.model
    if local:
        return SpanReader.load(location, **settings)
    if model.device.startswith("cuda"):
        if model.dtype == "auto":
            raise Refused(
                "--dtype=auto: the workers' CUDA devices are unknown here; give float32, or "
                "bfloat16 for Ampere and later"
            )
        if model.dtype == "int8":
            raise Refused("--dtype=int8: is for a CPU, not for --device=cuda")
        settings["batch_tokens"] = model.batch_tokens or CUDA_BATCH_TOKENS
    # The checkpoint is loaded on the CPU, then described with the devices of the workers.
    dtype = "float32" if model.dtype == "auto" else model.dtype
    settings |= {"device": "cpu", "dtype": dtype, "compile": False}
    try:
        reader = SpanReader.load(location, **settings)
    except CheckpointError as error:
        # torch raises NotImplementedError for an operation that this CPU lacks in the dtype: the
        # workers may have it. Any other cause is the checkpoint's fault.
        if not isinstance(error.__cause__, NotImplementedError):
            raise
        _log.info(
            "--dtype=%s: this machine's CPU can't compute in it; checking the checkpoint in "
            "float32 instead (%s)",
            dtype,
            error,
        )
        reader = SpanReader.load(location, **{**settings, "dtype": "float32"})
    return replace(
        reader,
        reader=replace(reader.reader, device=model.device, dtype=dtype, compile=model.compile),
    )
