"""Jobs on a CUDA device: equal to the CPU, also for batches that do not fit into memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from model.audit.golds import read_golds
from model.checkpoint import LocalFolder
from model.reading.decoding import Decoding
from model.reading.pairs import cut_pairs
from model.reading.reader import CheckpointReader
from model.reading.span_reader import SpanReader
from model.reading.tokenizer import Tokenizer
from model.reading.tokenizer_processes import TokenizerProcesses
from model.reading.windows import WindowLimits
from tests.model.predicted import decode_and_measure
from tests.model.split import with_settings
from tests.runs import read_manifest, read_parts, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SAMPLE = ("--input=bundled", "--dtype=float32", "--chunk_rows=25")


@pytest.fixture
def capped() -> Iterator[int]:
    """Leave 100 MiB of the device free; the value is the number of failed allocations so far."""
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 100 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
    yield torch.cuda.memory_stats()["num_ooms"]
    torch.cuda.set_per_process_memory_fraction(1.0)


def near(found: pa.Table, expected: pa.Table) -> None:
    """Assert equal rows and answers, and floats within 1e-3.

    float32 differs by that much between devices.
    """
    assert found["id"].to_pylist() == expected["id"].to_pylist()
    for name in expected.column_names:
        if pa.types.is_floating(expected.schema.field(name).type):
            one, other = (np.array(table[name].to_pylist(), float) for table in (found, expected))
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3, err_msg=name)
        elif name in ("status", "answer_text", "answer_start", "answer_end"):
            assert found[name].to_pylist() == expected[name].to_pylist(), name


@pytest.mark.parametrize("max_length", [64, 200])
@pytest.mark.parametrize("is_split", [False, True])
def test_nothing_waits_for_the_gpu_until_all_is_launched(
    bert_folder: Path, tmp_path: Path, max_length: int, is_split: bool
) -> None:
    """Some windows need padding and some are equal; implicit synchronization raises."""
    folder = bert_folder
    if is_split:
        folder = shutil.copytree(bert_folder, tmp_path / "split")
        with_settings(folder, split=1, passage_position=20)
    reader = CheckpointReader(LocalFolder(str(folder)), device="cuda")
    contexts = ["Ada waved. " * 100, "Ada waved at the flag. " * 50]
    pairs = cut_pairs(
        ["Who waved?"] * 2, contexts, reader.tokenizer(), WindowLimits(max_length, 16, 16, 99)
    )
    answers = [{"text": ["Ada"], "answer_start": [0]}] * 2
    golds = read_golds(answers, pairs.contexts, pairs.row_pair, pairs.windows)
    decoding = Decoding(null=True, distinct=True)  # keeps the logits, too
    decode_and_measure(reader, pairs.windows, decoding, 1024, golds)  # the first may allocate
    torch.cuda.set_sync_debug_mode("error")
    try:
        prediction, _ = decode_and_measure(reader, pairs.windows, decoding, 1024, golds)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert prediction.failures == {}
    assert prediction.spans.finite.all()


def test_a_split_reader_reads_on_cuda_what_it_reads_on_the_cpu(
    bert_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "split")
    with_settings(folder, split=1, passage_position=66)
    for device in ("cpu", "cuda"):
        given = (f"--output={tmp_path / device}", f"--device={device}", f"--model={folder}")
        assert run("annotate", *SAMPLE, *given) == 0
    near(read_parts(tmp_path / "cuda"), read_parts(tmp_path / "cpu"))


def test_an_audit_on_cuda_says_what_one_on_the_cpu_says(tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        given = (f"--output={tmp_path / device}", f"--device={device}", "--null=on", "--limit=60")
        assert run("annotate", "--audit", *SAMPLE, *given) == 0
    for stage in ("", "audit"):
        near(read_parts(tmp_path / "cuda" / stage), read_parts(tmp_path / "cpu" / stage))


def test_batches_that_do_not_fit_are_halved_until_they_do(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert run("annotate", *SAMPLE, f"--output={tmp_path / 'free'}", "--device=cuda") == 0
    failed = request.getfixturevalue("capped")
    assert run("annotate", *SAMPLE, f"--output={tmp_path / 'capped'}", "--device=cuda") == 0
    assert torch.cuda.memory_stats()["num_ooms"] > failed
    assert read_manifest(tmp_path / "capped")["rows"]["rejected"] == 0
    near(read_parts(tmp_path / "capped"), read_parts(tmp_path / "free"))


def test_other_processes_tokenize_by_default(bert_folder: Path) -> None:
    model = str(bert_folder)
    reader = SpanReader.load(model, device="cuda").reader
    assert isinstance(reader.tokenizer(), TokenizerProcesses)
    reader = SpanReader.load(model, device="cuda", tokenizer_processes=0).reader
    assert type(reader.tokenizer()) is Tokenizer
