"""The graph: linear, one shuffle, one sink, every step under the name of its transform."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

from pipeline.graph import build
from pipeline.job.options import parse
from pipeline.job.resolve import Job, JobAudit, resolve
from tests.runs import examples, write_input
from transforms.measure_loss import AuditOptions

STEPS = ["ListFiles", "PlanChunks", "Reshuffle", "ProcessChunks", "MergeReceipts", "WriteManifest"]
PROCESS = ["ReadChunk", "MakeWindows", "PredictSpans", "DecodeAnswers", "WriteChunk"]
AUDITED = [*PROCESS[:4], "MeasureLoss", "WriteChunk"]
AUDIT_STEPS = [
    *STEPS[:5],
    "ReadExamples",
    "WriteAudit",
    "ListParts",
    "ReshuffleParts",
    "FindDuplicates",
    "WriteManifest",
]


@pytest.fixture
def job(bert_folder: Path, tmp_path: Path) -> Job:
    golds = pa.array([{"text": ["Ada"], "answer_start": [22]}] * 3)
    source = write_input(tmp_path / "a.parquet", examples(3).append_column("answers", golds))
    options, rest = parse(
        ["annotate", f"--input={source}", f"--output={tmp_path}/out", f"--model={bert_folder}"]
    )
    return resolve(options, PipelineOptions([*rest, "--direct_num_workers=2"]))


def with_stages(
    job: Job, stages: tuple[str, ...], corrections: dict[str, tuple] | None = None
) -> Job:
    """Return the job with other stages and the same configuration for each."""
    audit = JobAudit(AuditOptions(), corrections or {}) if "audit" in stages else None
    outputs = tuple((stage, f"{job.output}/{stage}") for stage in reversed(stages))
    return replace(
        job,
        outputs=outputs,
        audit=audit,
        configuration=dict.fromkeys(stages, job.configuration["annotate"]),
    )


def with_files(job: Job, times: int) -> Job:
    """Return the job with its file repeated."""
    return replace(job, inputs=replace(job.inputs, files=job.files * times))


class Nodes(PipelineVisitor):
    """Every applied transform of a pipeline, by its full label."""

    def __init__(self, pipeline: beam.Pipeline):
        self.found: dict[str, AppliedPTransform] = {}
        self.leaves: list[AppliedPTransform] = []
        pipeline.visit(self)

    def enter_composite_transform(self, node: AppliedPTransform) -> None:
        self.found[node.full_label] = node

    def visit_transform(self, node: AppliedPTransform) -> None:
        self.found[node.full_label] = node
        self.leaves.append(node)


def nodes(job: Job) -> Nodes:
    pipeline = beam.Pipeline(options=PipelineOptions([]))
    build(pipeline, job)
    return Nodes(pipeline)


@pytest.mark.parametrize(
    ("stages", "process"),
    [
        (("annotate",), PROCESS),
        (("audit",), AUDITED),
        (("annotate", "audit"), AUDITED),
    ],
)
def test_steps_are_labelled_with_the_names_of_their_transforms(
    job: Job, stages: tuple[str, ...], process: list[str]
):
    found = nodes(with_stages(job, stages)).found
    steps = AUDIT_STEPS if "audit" in stages else STEPS
    assert [label for label in found if label and "/" not in label] == steps
    inside = [
        label.split("/")[1]
        for label in found
        if label.startswith("ProcessChunks/") and label.count("/") == 1
    ]
    assert inside == process
    for name in {*steps} - {
        "ListFiles",
        "Reshuffle",
        "ProcessChunks",
        "ListParts",
        "ReshuffleParts",
    }:  # Beam's own, mostly
        assert type(found[name].transform).__name__ == name
    for name in process:
        assert type(found[f"ProcessChunks/{name}"].transform).__name__ == name


@pytest.mark.parametrize(
    ("stages", "steps"), [(("annotate",), STEPS), (("annotate", "audit"), AUDIT_STEPS)]
)
def test_one_local_worker_needs_no_shuffle_of_its_work(
    job: Job, stages: tuple[str, ...], steps: list[str]
):
    found = nodes(
        replace(with_stages(with_files(job, 3), stages), work=replace(job.work, alone=True))
    ).found
    assert [label for label in found if label and "/" not in label] == [
        each for each in steps if "Reshuffle" not in each
    ]
    shuffles = {
        label.split("/")[0]
        for label, node in found.items()
        if isinstance(node.transform, beam.GroupByKey)
    }
    assert shuffles == {"MergeReceipts", "FindDuplicates"} & set(steps)


def test_corrections_come_before_anything_reads_a_gold(job: Job):
    found = nodes(with_stages(job, ("audit",), {"row 1": ()})).found
    inside = [
        label.split("/")[1]
        for label in found
        if label.startswith("ProcessChunks/") and label.count("/") == 1
    ]
    assert inside == ["ReadChunk", "CorrectGolds", *AUDITED[1:]]


@pytest.mark.parametrize("stages", [("annotate",), ("annotate", "audit")])
def test_it_is_linear_with_one_output_each_and_no_side_inputs(job: Job, stages: tuple[str, ...]):
    """Some runners lose side outputs and second sinks silently."""
    read: Counter[str] = Counter()
    for leaf in nodes(with_stages(job, stages)).leaves:
        assert set(leaf.outputs) <= {None, "None"}
        assert not leaf.side_inputs
        read.update(str(collection) for collection in leaf.inputs)
    assert read
    assert max(read.values()) == 1


@pytest.mark.parametrize("files", [1, 3, 2500])
def test_one_range_is_the_first_whatever_the_files(job: Job, files: int):
    """It begins with a run without chunks, without which zero rows would get no manifest."""
    ranges = list(nodes(with_files(job, files)).found["ListFiles"].transform.values)
    assert len(ranges) == min(files, 1000)
    assert [ranged.first for ranged in ranges].count(0) == 1


@pytest.mark.parametrize(
    ("files", "steps"),
    [(1, ["Reshuffle", "MergeReceipts"]), (3, ["ListFiles", "Reshuffle", "MergeReceipts"])],
)
def test_only_ranges_runs_and_receipts_cross_a_shuffle(job: Job, files: int, steps: list[str]):
    found = nodes(with_files(job, files)).found
    shuffles = [
        label for label, node in found.items() if isinstance(node.transform, beam.GroupByKey)
    ]
    assert [label.split("/")[0] for label in shuffles] == steps
    assert found["Reshuffle"].inputs == tuple(found["PlanChunks"].outputs.values())
    assert found["MergeReceipts"].inputs == tuple(
        found["ProcessChunks/WriteChunk"].outputs.values()
    )
    assert found["ProcessChunks/WriteChunk"].outputs == found["ProcessChunks"].outputs


@pytest.mark.parametrize("files", [1, 100_000])
def test_the_graph_can_be_sent_to_a_runner(job: Job, files: int):
    """Workers get it pickled: it must not hold a loaded network, or the list of files."""
    pipeline = beam.Pipeline(options=PipelineOptions([]))
    build(pipeline, with_files(job, files))
    assert len(pipeline.to_runner_api().SerializeToString()) < 400_000
