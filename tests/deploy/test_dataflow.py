"""The Dataflow job as it would be submitted, made offline, and the Flex Template's parameters."""

from __future__ import annotations

import copy
import json
import re
import runpy
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.portability.common_urns import primitives
from apache_beam.runners.portability.fn_api_runner import translations

from pipeline.job.options import Refused, parse
from tests.runs import HOUSE, examples, write_input

DEPLOY = HOUSE / "deploy" / "dataflow"
GPU = "type:nvidia-l4;count:1;install-nvidia-driver"
IMAGE = "us-docker.pkg.dev/my-project/spanmill/spanmill:0.1.0"
STEPS = [
    "ListFiles",
    "PlanChunks",
    "Reshuffle",
    "ProcessChunks",
    "MergeReceipts",
    "ReadExamples",
    "WriteAudit",
]
LAST_STEPS = ["ListParts", "ReshuffleParts", "FindDuplicates", "WriteManifest"]
CHUNK_STEPS = [
    "ReadChunk",
    "MakeWindows",
    "PredictSpans",
    "DecodeAnswers",
    "MeasureLoss",
    "WriteChunk",
]
ACCELERATOR = "beam:resources:accelerator:v1"

Transform = beam_runner_api_pb2.PTransform


@dataclass(frozen=True)
class Made:
    """The job of `make dataflow-graph`, and the primitive transforms of its graph by label."""

    job: dict[str, Any]
    graph: beam_runner_api_pb2.Pipeline

    @property
    def environment(self) -> dict[str, Any]:
        return self.job["environment"]

    @property
    def leaves(self) -> dict[str, Transform]:
        return {
            each.unique_name: each
            for each in self.graph.components.transforms.values()
            if not each.subtransforms
        }

    def hint(self, transform: Transform) -> str:
        environment = self.graph.components.environments[transform.environment_id]
        return environment.resource_hints.get(ACCELERATOR, b"").decode()


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> list[str]:
    folder = tmp_path_factory.mktemp("dataflow")
    answers = [{"text": [], "answer_start": []}] * 3
    table = examples(3).append_column("answers", [answers])
    inputs = [str(write_input(folder / name, table)) for name in ("a.parquet", "b.parquet")]
    return [
        "annotate",
        "--audit",
        f"--input={','.join(inputs)}",
        f"--output={folder}/out",
        f"--model={bert_folder}",
        "--project=my-project",
        "--region=us-central1",
        "--temp_location=gs://my-bucket/tmp",
        f"--sdk_container_image={IMAGE}",
        "--experiments=no_use_multiple_sdk_containers",
        "--number_of_worker_harness_threads=2",
        "--machine_type=g2-standard-8",
        "--disk_size_gb=50",
        "--max_num_workers=20",
        "--device=cuda",
        "--dtype=bfloat16",
    ]


def make(arguments: list[str], folder: Path) -> Made:
    """Make a job while no connection can be opened."""

    def refuse(_: socket.socket, address: Any) -> None:
        raise AssertionError(f"a connection to {address}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        runpy.run_path(str(DEPLOY / "graph.py"))["write_graph"](folder, arguments)
    graph = beam_runner_api_pb2.Pipeline.FromString((folder / "pipeline.pb").read_bytes())
    return Made(json.loads((folder / "job.json").read_text("utf-8")), graph)


@pytest.fixture(scope="module")
def on_gpu_workers(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(
        [*arguments, f"--dataflow_service_options=worker_accelerator={GPU}"],
        tmp_path_factory.mktemp("workers"),
    )


@pytest.fixture(scope="module")
def with_hints(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make([*arguments, f"--accelerator={GPU}"], tmp_path_factory.mktemp("hints"))


@pytest.fixture(params=["on_gpu_workers", "with_hints"])
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    yield request.getfixturevalue(request.param)


class TestTheGraph:
    def test_labels_are_the_names_of_the_steps(self, made: Made):
        root = set(made.graph.root_transform_ids)
        names = {each.unique_name for each in made.graph.components.transforms.values()} - root
        assert sorted(name for name in names if "/" not in name) == sorted([*STEPS, *LAST_STEPS])
        inside = {name.split("/")[1] for name in names if name.startswith("ProcessChunks/")}
        assert inside == set(CHUNK_STEPS)

    def test_it_is_linear(self, made: Made):
        read = Counter(
            collection for leaf in made.leaves.values() for collection in leaf.inputs.values()
        )
        assert max(read.values()) == 1
        assert {len(leaf.outputs) for leaf in made.leaves.values()} == {1}
        assert (
            sum(
                output not in read
                for leaf in made.leaves.values()
                for output in leaf.outputs.values()
            )
            == 1
        )

    def test_only_ranges_runs_receipts_and_hashes_cross_a_shuffle(self, made: Made):
        shuffles = [
            name
            for name, leaf in made.leaves.items()
            if leaf.spec.urn == primitives.GROUP_BY_KEY.urn
        ]
        combines = {name.split("/")[0] for name in shuffles}
        assert combines == {
            "ListFiles",
            "Reshuffle",
            "MergeReceipts",
            "ReshuffleParts",
            "FindDuplicates",
        }
        outer = {each.unique_name: each for each in made.graph.components.transforms.values()}
        reads = {
            step: set(outer[step].inputs.values())
            for step in ("PlanChunks", "Reshuffle", "MergeReceipts", *LAST_STEPS)
        }
        assert reads["PlanChunks"] == set(outer["ListFiles"].outputs.values())
        assert reads["Reshuffle"] == set(outer["PlanChunks"].outputs.values())
        assert reads["MergeReceipts"] == set(outer["ProcessChunks/WriteChunk"].outputs.values())
        for before, step in pairwise([STEPS[-1], *LAST_STEPS]):
            assert reads[step] == set(outer[before].outputs.values())

    def test_all_steps_on_chunks_are_fused_into_one_stage(self, made: Made):
        """Dataflow fuses neighbours of one environment, which includes resource hints."""
        phases = [
            translations.annotate_downstream_side_inputs,
            translations.lift_combiners,
            translations.expand_gbk,
            translations.greedily_fuse,
        ]
        graph = copy.deepcopy(made.graph)
        _, stages = translations.create_and_optimize_stages(graph, phases, frozenset())
        fused = [{each.unique_name for each in stage.transforms} for stage in stages]
        (chunk_stage,) = [names for names in fused if any("PredictSpans" in name for name in names)]
        for step in CHUNK_STEPS:
            assert any(name.startswith(f"ProcessChunks/{step}/") for name in chunk_stage)

    def test_nothing_of_the_network_or_the_list_of_files_is_in_it(self, made: Made):
        assert made.graph.ByteSize() < 200_000


class TestGpus:
    def test_hints_are_on_all_steps_on_chunks_and_nowhere_else(self, with_hints: Made):
        hinted = {name for name, leaf in with_hints.leaves.items() if with_hints.hint(leaf)}
        assert hinted == {name for name in with_hints.leaves if name.startswith("ProcessChunks/")}
        assert {with_hints.hint(with_hints.leaves[name]) for name in hinted} == {GPU}
        assert "serviceOptions" not in with_hints.environment

    def test_or_all_workers_have_one_and_there_are_no_hints(self, on_gpu_workers: Made):
        assert not any(on_gpu_workers.hint(leaf) for leaf in on_gpu_workers.leaves.values())
        assert on_gpu_workers.environment["serviceOptions"] == [f"worker_accelerator={GPU}"]

    def test_never_both(self, arguments: list[str], tmp_path: Path):
        both = [f"--accelerator={GPU}", f"--dataflow_service_options=worker_accelerator={GPU}"]
        with pytest.raises(Refused, match="it or worker_accelerator, not both"):
            make([*arguments, *both], tmp_path)

    def test_the_launcher_needs_none_but_must_be_told_the_dtype(
        self, arguments: list[str], tmp_path: Path
    ):
        arguments = [argument for argument in arguments if not argument.startswith("--dtype")]
        with pytest.raises(
            Refused, match="--dtype=auto: the workers' CUDA devices are unknown here"
        ):
            make(arguments, tmp_path)


class TestTheJob:
    def test_machines_and_containers_are_those_asked_for(self, made: Made):
        (pool,) = made.environment["workerPools"]
        assert (pool["machineType"], pool["diskSizeGb"], pool["numThreadsPerWorker"]) == (
            "g2-standard-8",
            50,
            2,
        )
        assert pool["autoscalingSettings"]["maxNumWorkers"] == 20
        assert {each["containerImage"] for each in pool["sdkHarnessContainerImages"]} == {IMAGE}

    def test_a_worker_runs_one_container(self, made: Made):
        """Several containers would load the network several times."""
        assert "no_use_multiple_sdk_containers" in made.environment["experiments"]
        assert "use_multiple_sdk_containers" not in made.environment["experiments"]

    def test_nothing_is_claimed(self, arguments: list[str], made: Made):
        output = Path(arguments[3].partition("=")[2])
        assert not output.exists()


class TestTheFlexTemplate:
    @pytest.fixture(scope="class")
    def module(self) -> dict[str, Any]:
        return runpy.run_path(str(DEPLOY / "metadata.py"))

    def test_its_parameters_are_the_options(self, module: dict[str, Any]):
        written = json.loads((DEPLOY / "metadata.json").read_text("utf-8"))
        assert written == module["metadata"](), "run: python deploy/dataflow/metadata.py"
        required = {each["name"] for each in written["parameters"] if not each["isOptional"]}
        assert required == {"stage", "output"}  # compare takes no input

    @pytest.mark.parametrize(
        ("name", "good", "bad"),
        [
            ("stage", ["annotate", "audit"], ["train", "annotate "]),
            ("overwrite", ["true", "false"], ["yes", ""]),
            ("device", ["auto", "cpu", "cuda", "cuda:12"], ["gpu", "cuda:"]),
            ("dtype", ["auto", "bfloat16", "int8"], ["int4"]),
            ("date", ["2026-11-24", "2026-11-01..2026-11-07"], ["today", "2026-11-24.."]),
            ("n_best", ["5"], ["5.5", "-1", "five"]),
            ("max_failed_fraction", ["0", "0.25"], ["half", "25%"]),
            ("null_score_diff_threshold", ["-1.5", "2"], ["high"]),
            ("min_probability", ["0", "0.5", "precision:0.9"], ["precision:", "precision:2"]),
            ("disk_size_gb", ["50"], ["50 GB"]),
            ("dataflow_service_options", [f"worker_accelerator={GPU}"], []),
        ],
    )
    def test_its_expressions_take_what_the_options_take(
        self, name: str, good: list[str], bad: list[str]
    ):
        parameters = json.loads((DEPLOY / "metadata.json").read_text("utf-8"))["parameters"]
        (expressions,) = [each["regexes"] for each in parameters if each["name"] == name]
        for value in good:
            assert all(re.fullmatch(expression, value) for expression in expressions)
            stage = value if name == "stage" else "annotate"
            given = [] if name == "stage" else [f"--{name}={value}"]
            parse([f"--stage={stage}", "--input=a", "--output=b", *given])
        for value in bad:
            assert not all(re.fullmatch(expression, value) for expression in expressions)
