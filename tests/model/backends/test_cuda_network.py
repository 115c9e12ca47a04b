"""The preparation for a GPU, on a CPU: equal logits, and no operation that waits for a result."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from model.audit.golds import read_golds
from model.backends.cuda_network import ATTENTION, run_ahead
from model.checkpoint import LocalFolder
from model.reading.batching import assemble
from model.reading.decoding import Decoding
from model.reading.pairs import cut_pairs
from model.reading.reader import CheckpointReader
from model.reading.windows import WindowLimits
from tests.checkpoints import ARCHITECTURES, Checkpoint
from tests.model.predicted import decode_and_measure
from tests.model.texts import TRICKY_CONTEXTS, long_context

WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2"}
"""Operations that make the host wait for the GPU."""

SDPA = [kind.name for kind in ARCHITECTURES if kind.name not in ("xlnet", "deberta-v2")]
"""Architectures whose attention transformers can replace."""


@pytest.fixture
def cuda_setting() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.fixture
def prepared(checkpoint: Checkpoint, cuda_setting: None) -> CheckpointReader:
    """Return a reader on the CPU whose network is prepared as for a GPU."""
    reader = CheckpointReader(LocalFolder(str(checkpoint.folder)), device="cpu")
    run_ahead(reader._network.forward)
    reader._network.maskless = checkpoint.architecture.name in SDPA
    return reader


def test_logits_are_as_before(checkpoint: Checkpoint, prepared: CheckpointReader) -> None:
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    implementation = prepared._network.forward.config._attn_implementation
    assert implementation == (ATTENTION if checkpoint.architecture.name in SDPA else "eager")
    contexts = [*TRICKY_CONTEXTS.values(), long_context(300)]
    pairs = cut_pairs(
        ["Who waved?"] * len(contexts),
        contexts,
        checkpoint.reader.tokenizer(),
        WindowLimits(64, 16, 16, 99),
    )
    for chosen in (np.arange(len(pairs.windows)), np.flatnonzero(pairs.windows.lengths == 64)):
        batch = assemble(pairs.windows, chosen)
        with torch.inference_mode():
            expected, found = checkpoint.reader.logits(batch), prepared.logits(batch)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(
                one[batch.attention], other[batch.attention], rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("checkpoint", SDPA, indirect=True)
@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_no_operation_needs_to_know_a_result(
    checkpoint: Checkpoint, prepared: CheckpointReader, null: bool, link: str
) -> None:
    """Copies to the host can't be seen on a CPU; tests/test_gpu.py checks them."""
    contexts = [long_context(200), "Ada waved."]
    pairs = cut_pairs(
        ["Who waved?"] * 2, contexts, prepared.tokenizer(), WindowLimits(64, 16, 16, 99)
    )
    answers = [{"text": [context[:3]], "answer_start": [0]} for context in contexts]
    golds = read_golds(answers, pairs.contexts, pairs.row_pair, pairs.windows)
    prepared._network.maskless = (
        False  # whether a batch has padding is asked while it is on the host
    )
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        prediction, _ = decode_and_measure(
            prepared, pairs.windows, Decoding(null=null), 256, golds, link
        )
    operations = {event.key for event in profile.key_averages()}
    assert {"aten::scaled_dot_product_attention", "aten::topk"} <= operations
    assert not operations & WAITING
    assert prediction.spans.finite.all()
