"""All settings together: names, help, and the configuration in run.json to the byte."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from model.settings import declared
from pipeline.job.options import parse
from pipeline.job.resolve import resolve
from pipeline.job.settings import ALL, GROUPS
from tests.runs import examples, write_input

CONFIGURATION = """{
  "stage": "audit",
  "model_digest": "...",
  "dtype": "float32",
  "batch_tokens": 4096,
  "chunk_rows": 2048,
  "chunk_bytes": 33554432,
  "limit": null,
  "question_column": "question",
  "context_column": "context",
  "id_column": "id",
  "answers_column": "answers",
  "keep_columns": [
    "id",
    "question",
    "context",
    "answers"
  ],
  "output_prefix": "",
  "max_length": 384,
  "overlap": 128,
  "max_question": 64,
  "max_windows": 2000,
  "n_best": 5,
  "max_answer_length": 30,
  "temperature": 1.0,
  "null": false,
  "null_score_diff_threshold": 0.0,
  "link": "softmax",
  "slice_by": [
    "id"
  ],
  "worst": 50,
  "suspects": 100,
  "corrections": null
}"""
"""A run that was begun by an earlier version is resumed only if these bytes stay."""

AUDIT_ONLY = {"answers_column", "link", "slice_by", "worst", "suspects", "corrections"}


def test_every_setting_has_one_name_help_and_a_stage():
    every = [
        (name, declaration) for group in GROUPS.values() for name, _, declaration in declared(group)
    ]
    assert Counter(name for name, _ in every).most_common(1)[0][1] == 1
    for name, declaration in every:
        assert declaration.help, name
        assert declaration.stages, name
        assert {*declaration.stages, *declaration.identity} <= {*ALL}, name


@pytest.mark.parametrize("stage", ["annotate", "audit"])
def test_the_configuration_of_a_run_to_the_byte(stage: str, bert_folder: Path, tmp_path: Path):
    golds = pa.array([{"text": ["Ada"], "answer_start": [22]}] * 3)
    source = write_input(tmp_path / "a.parquet", examples(3).append_column("answers", golds))
    files = [
        f"--input={source}",
        f"--output={tmp_path}/out",
        f"--model={bert_folder}",
        "--dtype=float32",
        "--device=cpu",
    ]
    slices = ["--slice_by=id"] if stage == "audit" else []
    options, rest = parse([stage, *files, *slices])
    found = resolve(options, PipelineOptions(rest)).configuration_of(stage)
    expected = {
        name: value
        for name, value in json.loads(CONFIGURATION).items()
        if stage == "audit" or name not in AUDIT_ONLY
    }
    written = json.dumps(found | {"model_digest": "..."}, indent=2)
    assert written == json.dumps(expected | {"stage": stage}, indent=2)
