from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import CheckpointError, LocalFolder
from model.reading.answers import Answers
from model.reading.batching import Batch, assemble
from model.reading.columns import answer_columns
from model.reading.decoding import Decoding
from model.reading.posterior import merge_windows
from model.reading.reader import (
    CheckpointReader,
    _cuda_computes,
    bfloat16_is_faster,
    resolve_device,
    resolve_dtype,
    shared,
)
from model.reading.span_reader import SpanReader
from model.reading.tokenizer import Tokenizer
from model.reading.windows import WindowLimits, Windows, cut_windows
from tests.checkpoints import OTHERS, Architecture, Checkpoint
from tests.model.brute_force import owner
from tests.model.predicted import decode
from tests.model.texts import TRICKY_CONTEXTS, is_mark, long_context

QUESTION = "Who waved at the flag?"


def cut(
    checkpoint: Checkpoint, contexts: list[str], max_length: int = 48, overlap: int = 20
) -> Windows:
    """Cut windows of one question with every context."""
    tokenizer = checkpoint.reader.tokenizer()
    pairs = np.arange(len(contexts))
    return cut_windows(
        tokenizer.format,
        tokenizer.passages(contexts),
        tokenizer.questions([QUESTION]),
        pairs,
        np.zeros_like(pairs),
        WindowLimits(max_length, overlap, max_windows=1000),
    )


def read(reader: CheckpointReader, batch: Batch) -> torch.Tensor:
    """Return start and end logits, [2, B, L]."""
    with torch.inference_mode():
        return torch.stack(reader.logits(batch))


# Logits


def test_logits_do_not_depend_on_padding_and_batch_mates(checkpoint: Checkpoint) -> None:
    windows = cut(checkpoint, [*TRICKY_CONTEXTS.values(), "Ada waved.", long_context(700)])
    order = np.random.default_rng(0).permutation(len(windows))
    batch = assemble(windows, order)
    assert len(set(windows.lengths.tolist())) > 3
    batched = read(checkpoint.reader, batch)
    for row, window in enumerate(order):
        alone = read(checkpoint.reader, assemble(windows, np.array([window])))[:, 0]
        padded = batched[:, row, : alone.shape[1]]
        assert (alone - padded).abs().max() <= 4e-5 * alone.abs().max()
        assert alone.std() > 0.1, (
            "logits must differ from token to token for this test to mean something"
        )


def test_logits_are_those_of_transformers_on_the_pair_call(checkpoint: Checkpoint) -> None:
    context = TRICKY_CONTEXTS["emoji"]
    tokenizer = checkpoint.fresh_tokenizer()
    pair = (QUESTION, context) if tokenizer.padding_side == "right" else (context, QUESTION)
    types = checkpoint.architecture.token_types
    inputs = tokenizer(*pair, return_tensors="pt", return_token_type_ids=types)
    with torch.inference_mode():
        output = checkpoint.network(**inputs)
    expected = torch.stack([output.start_logits, output.end_logits])
    got = read(
        checkpoint.reader, assemble(cut(checkpoint, [context], max_length=200), np.array([0]))
    )
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 4e-5 * expected.abs().max()


def test_token_types_reach_the_networks_that_take_them(checkpoint: Checkpoint) -> None:
    batch = assemble(cut(checkpoint, ["Ada waved."]), np.array([0]))
    before = read(checkpoint.reader, batch)
    batch.token_types[0, 0] = 1 - batch.token_types[0, 0]
    changed = not torch.equal(read(checkpoint.reader, batch), before)
    assert changed == checkpoint.architecture.token_types


def best_span_by_transformers(
    checkpoint: Checkpoint, context: str, max_length: int, overlap: int, longest: int
) -> dict:
    """Return the best span over all windows: text, score, probability, window.

    Computed with transformers' own calls and plain loops only.
    """
    tokenizer = checkpoint.fresh_tokenizer()
    question_first = tokenizer.padding_side == "right"
    called = tokenizer(
        *((QUESTION, context) if question_first else (context, QUESTION)),
        truncation="only_second" if question_first else "only_first",
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=checkpoint.architecture.token_types,
    )
    windows, tokens = [], {}
    for window, ids in enumerate(called["input_ids"]):
        inputs = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
        }
        if checkpoint.architecture.token_types:
            inputs["token_type_ids"] = torch.tensor([called["token_type_ids"][window]])
        with torch.inference_mode():
            output = checkpoint.network(**inputs)
        held = [
            k for k, side in enumerate(called.sequence_ids(window)) if side == int(question_first)
        ]
        start = windows[-1][1] - overlap if windows else 0
        windows.append((start, start + len(held)))
        for k, at in enumerate(held):
            begin, end = called["offset_mapping"][window][at]
            text = context[begin:end]
            begin, end = (
                begin + len(text) - len(text.lstrip()),
                end - len(text) + len(text.rstrip()),
            )
            logits = output.start_logits[0, at].item(), output.end_logits[0, at].item()
            tokens.setdefault(start + k, (begin, max(begin, end), {}))[2][window] = logits
    for k, (begin, end, logits) in tokens.items():
        while end < (tokens[k + 1][0] if k + 1 in tokens else len(context)) and is_mark(
            context[end]
        ):
            end += 1
        tokens[k] = begin, end, logits
    sharing = [set(range(begin, end)) for begin, end, _ in tokens.values()]
    filled = [k for k, characters in enumerate(sharing) if characters]
    cuts = {b: not sharing[a] & sharing[b] for a, b in zip(filled, filled[1:], strict=False)}
    starts = [k for k in filled if cuts.get(k, True)]
    ends = {
        k for place, k in enumerate(filled) if place + 1 == len(filled) or cuts[filled[place + 1]]
    }
    scores = {}
    for i in starts:
        for j in ends.intersection(range(i, i + longest)):
            window = owner(windows, i, j)
            if window is not None:
                scores[i, j, window] = tokens[i][2][window][0] + tokens[j][2][window][1]
    best = max(scores, key=scores.__getitem__)
    return {
        "answer_text": context[tokens[best[0]][0] : tokens[best[1]][1]],
        "span_score": scores[best],
        "probability": 1 / np.exp(np.array(list(scores.values())) - scores[best]).sum(),
        "window_index": best[2],
        "num_windows": len(windows),
    }


def check_answers(checkpoint: Checkpoint) -> None:
    """Compare batched answers of all tricky contexts with those of transformers by window."""
    contexts = [*TRICKY_CONTEXTS.values(), long_context(700)]
    windows = cut(checkpoint, contexts)
    decoding = Decoding(n_best=4, max_answer_length=8)
    prediction = decode(checkpoint.reader, windows, decoding, 500)
    spans = merge_windows(
        prediction.spans, windows.pair, windows.index, len(contexts), n_best=4, temperature=1.0
    )
    rows = np.arange(len(contexts))
    none = [None] * len(contexts)
    zeros = np.zeros(len(contexts), np.int64)
    shown = np.zeros(len(contexts), bool)
    answers = Answers(spans, windows, contexts, zeros, shown, shown, rows, none)
    table = answer_columns(answers).to_pylist()
    assert windows.counts.max() > 3
    for context, row in zip(contexts, table, strict=True):
        expected = best_span_by_transformers(checkpoint, context, 48, 20, 8)
        for name in ("answer_text", "window_index", "num_windows"):
            assert row[name] == expected[name], name
        assert row["span_score"] == pytest.approx(expected["span_score"], rel=1e-4)
        assert row["probability"] == pytest.approx(expected["probability"], rel=1e-3)
        assert row["answer_text"] == context[row["answer_start"] : row["answer_end"]] != ""
        for candidate in row["n_best"]:
            assert (
                candidate["text"]
                == context[candidate["start"] : candidate["end"]]
                == candidate["text"].strip()
            )


def test_answers_are_those_that_transformers_gives_window_by_window(checkpoint: Checkpoint) -> None:
    check_answers(checkpoint)


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.name)
def test_answers_of_other_networks_do_not_depend_on_their_neighbours(
    kind: Architecture, tmp_path: Path
) -> None:
    """Those that padding changes get windows of one length at a time."""
    checkpoint = Checkpoint(kind, kind.build(tmp_path))
    check_answers(checkpoint)
    assert checkpoint.reader._network.one_length == (kind.name in ("fnet", "yoso", "convbert"))
    windows = cut(checkpoint, ["Ada waved.", long_context(700), "Ada waved at the flag."])
    alone = read(checkpoint.reader, assemble(windows, np.array([0])))[:, 0]
    padded = read(checkpoint.reader, assemble(windows, np.arange(len(windows))))[
        :, 0, : alone.shape[1]
    ]
    assert (alone - padded).abs().max() <= 4e-5 * alone.abs().max()
    if kind.name == "fnet":
        checkpoint.reader._network.one_length = False
        padded = read(checkpoint.reader, assemble(windows, np.arange(len(windows))))[
            :, 0, : alone.shape[1]
        ]
        assert (alone - padded).abs().max() > 0.01 * alone.abs().max(), (
            "padding must matter for this test to mean something"
        )


def test_lanes_read_what_one_thread_reads(checkpoint: Checkpoint) -> None:
    """Every network, on windows of many lengths."""
    contexts = [
        *TRICKY_CONTEXTS.values(),
        long_context(700),
        *(long_context(words) for words in range(3, 60, 7)),
    ]
    windows = cut(checkpoint, contexts)
    decoding = Decoding(n_best=4, max_answer_length=8)
    alone = decode(checkpoint.reader, windows, decoding, 200)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert checkpoint.reader.lanes() == 2
        together = decode(checkpoint.reader, windows, decoding, 200)
    finally:
        torch.set_num_threads(threads)
    assert together.failures == {}
    for name in ("start", "end", "finite"):
        np.testing.assert_array_equal(
            getattr(together.spans, name), getattr(alone.spans, name), name
        )
    for name in ("start_logit", "end_logit", "log_mass"):
        np.testing.assert_allclose(
            getattr(together.spans, name),
            getattr(alone.spans, name),
            rtol=1e-5,
            atol=1e-5,
            err_msg=name,
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_logits_finite_and_heads_in_float32(
    checkpoint: Checkpoint, dtype: str
) -> None:
    reader = CheckpointReader(LocalFolder(str(checkpoint.folder)), device="cpu", dtype=dtype)
    if (
        checkpoint.architecture.name == "xlnet"
    ):  # transformers keeps its relative positions in float32
        with pytest.raises(CheckpointError, match=f"can't read tokens in torch.{dtype}"):
            reader.load()
        return
    windows = cut(checkpoint, ["Ada waved.", TRICKY_CONTEXTS["emoji"]])
    batch = assemble(windows, np.arange(2))
    logits = read(reader, batch)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits[:, batch.attention]).all()
    assert (logits.to(reader._network.forward.dtype).float() != logits).any(), (
        "rounded to half precision"
    )
    whole = read(checkpoint.reader, batch)
    assert (logits - whole)[:, batch.attention].abs().max() < 0.25 * whole[
        :, batch.attention
    ].abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_and_cpu_agree_in_float32(checkpoint: Checkpoint) -> None:
    batch = assemble(cut(checkpoint, list(TRICKY_CONTEXTS.values())), np.arange(3))
    on_cuda = read(CheckpointReader(LocalFolder(str(checkpoint.folder)), device="cuda"), batch)
    assert on_cuda.device.type == "cuda"
    on_cpu = read(checkpoint.reader, batch)
    assert (on_cuda.cpu() - on_cpu)[:, batch.attention].abs().max() <= 1e-3 * on_cpu.abs().max()


# Limits


def test_position_limit(checkpoint: Checkpoint) -> None:
    assert checkpoint.reader.positions() == checkpoint.architecture.positions


def test_vocabulary_counts_the_rows_of_the_embedding(checkpoint: Checkpoint) -> None:
    assert checkpoint.reader._network.vocabulary == len(checkpoint.fresh_tokenizer())


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "electra", "bert-left-padding"])
def test_the_longest_window_fits_and_one_more_token_does_not(
    checkpoints: dict[str, Checkpoint], name: str
) -> None:
    """RoBERTa embeds 514 positions, but numbers the first token 2."""
    checkpoint = checkpoints[name]
    for length in (512, 513):
        windows = cut(checkpoint, [long_context(4000)], max_length=length)
        batch = assemble(windows, np.array([0]))
        assert batch.input_ids.shape == (1, length)
        if length == 512:
            assert torch.isfinite(read(checkpoint.reader, batch)).all()
        else:
            with pytest.raises((IndexError, RuntimeError)):
                read(checkpoint.reader, batch)


def test_a_window_of_two_thousand_tokens(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["modernbert"]
    windows = cut(checkpoint, [long_context(8000), "Ada waved."], max_length=2000)
    batch = assemble(windows, np.array([0, len(windows) - 1]))
    assert batch.input_ids.shape == (2, 2000)
    alone = read(checkpoint.reader, assemble(windows, np.array([len(windows) - 1])))
    padded = read(checkpoint.reader, batch)[:, 1:, : alone.shape[2]]
    assert (alone - padded).abs().max() <= 4e-5 * alone.abs().max()


# Readers are values


def test_a_loaded_reader_is_pickled_without_its_network(bert_folder: Path) -> None:
    reader = CheckpointReader(LocalFolder(str(bert_folder)), device="cpu")
    reader.load()
    reader.tokenizer()
    assert len(pickle.dumps(reader)) < 1000
    copy = pickle.loads(pickle.dumps(reader))
    assert copy == reader
    assert not {"_network", "_tokenizer"} & vars(copy).keys()
    assert copy.positions() == 512


def test_equal_readers_share_one_network(bert_folder: Path) -> None:
    first, second = (
        CheckpointReader(LocalFolder(str(bert_folder)), device="cpu") for _ in range(2)
    )
    other = CheckpointReader(LocalFolder(str(bert_folder)), device="cpu", dtype="bfloat16")
    assert first == second != other
    assert shared(first) is shared(second) is not shared(other)


def test_threads_load_a_network_once(bert_folder: Path) -> None:
    reader = CheckpointReader(LocalFolder(str(bert_folder)), device="cpu")
    networks, ready = [], threading.Barrier(4)

    def load() -> None:
        ready.wait()
        reader.load()
        networks.append(reader._network)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(networks) == 4
    assert len(set(map(id, networks))) == 1


def test_the_tokenizer_does_not_load_the_network(bert_folder: Path) -> None:
    reader = CheckpointReader(LocalFolder(str(bert_folder)), device="cpu")
    reader.tokenizer()
    assert "_network" not in vars(reader)


def test_a_cpu_needs_no_other_process_to_tokenize(bert_folder: Path) -> None:
    reader = SpanReader.load(str(bert_folder), device="cpu").reader
    assert type(reader.tokenizer()) is Tokenizer


def test_devices_and_dtypes_are_resolved() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(
        ValueError,
        match=f"device 'cuda:99': this machine has {torch.cuda.device_count()} CUDA devices",
    ):
        resolve_device("cuda:99")
    assert resolve_dtype("float16", "cpu") == "float16"
    assert resolve_dtype("auto", "cpu") in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("bfloat16", "int8", "tolerates_int8", "device", "dtype"),
    [
        (True, True, True, "cpu", "bfloat16"),
        (False, True, True, "cpu", "int8"),
        (False, True, False, "cpu", "float32"),
        (False, False, True, "cpu", "float32"),
        (False, True, True, "cuda", "float32"),
    ],
)
def test_auto_takes_int8_if_the_checkpoint_and_the_core_are_for_it(
    bfloat16: bool,
    int8: bool,
    tolerates_int8: bool,
    device: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.reading.reader.resolve_device", torch.device)
    monkeypatch.setattr("model.reading.reader.bfloat16_is_faster", lambda _: bfloat16)
    monkeypatch.setattr("model.reading.reader.int8_is_faster", lambda: int8)
    assert resolve_dtype("auto", device, tolerates_int8) == dtype
    assert resolve_dtype("float16", device, tolerates_int8) == "float16"


def test_auto_takes_no_bfloat16_that_onednn_does_not_multiply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """oneDNN may not use all that the core has: ONEDNN_MAX_CPU_ISA, another torch."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not bfloat16_is_faster.__wrapped__(torch.device("cpu"))


def test_auto_takes_no_cuda_device_that_does_not_compute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ones(*_: int, device: str) -> torch.Tensor:
        raise RuntimeError(
            "CUDA error: no kernel image is available for execution on the device\nCompile with ..."
        )

    _cuda_computes.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch, "ones", ones)
        assert resolve_device("auto") == torch.device("cpu")
    _cuda_computes.cache_clear()
    assert [message for message in caplog.messages if "can't be used" in message] == [
        "--device auto: using the CPU, because the CUDA device can't be used "
        "(CUDA error: no kernel image is available for execution on the device)"
    ]


@pytest.mark.slow
def test_without_a_compiler_a_network_runs_as_it_is(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """torch compiles at the first call, so the loading of the checkpoint must make one."""
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/nowhere/g++"))
    plain = CheckpointReader(LocalFolder(str(bert_folder)), device="cpu")
    reader = CheckpointReader(LocalFolder(str(bert_folder)), device="cpu", compile=True)
    reader.load()
    assert "--compile: torch.compile failed, the network runs without it: " in caplog.text
    assert "/nowhere/g++" in caplog.text
    tokens = torch.arange(24).reshape(2, 12) + 5
    with torch.inference_mode():
        found, expected = (
            each._network.forward(input_ids=tokens).start_logits for each in (reader, plain)
        )
    torch.testing.assert_close(found, expected)
    assert reader.lanes() == plain.lanes()
