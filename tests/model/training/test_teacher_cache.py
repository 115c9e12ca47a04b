"""Stored teacher probabilities round to float16, survive kills and damage, and teach alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from model.reading.batching import Batch, assemble
from model.reading.reader import CheckpointReader
from model.reading.tokenizer import Tokenizer
from model.train import main, train
from model.training import teacher_cache
from model.training.data import TrainingWindows, make_examples, read_training_rows
from model.training.distillation import Teacher, divergence
from model.training.loss import normalised_positions
from model.training.teacher_cache import ProbabilityStore, store_name, window_keys
from tests.checkpoints import MPNET
from tests.model.fakes import make_windows
from tests.model.test_train import SAMPLE, options


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a trained teacher whose ids and pair format are not the student's."""
    folder = tmp_path_factory.mktemp("teacher")
    train(options(MPNET.build(folder / "base", seed=9), folder / "trained"))
    return str(folder / "trained")


def examples_of(folder: Path, rows: int = 40) -> TrainingWindows:
    return make_examples(read_training_rows(str(SAMPLE))[:rows], Tokenizer(folder), 128, 32, 64)


def drawn(outcomes: int, sharp: float, seed: int) -> np.ndarray:
    """Return float16 probabilities; the sharper, the more of them round to 0."""
    logits = sharp * np.random.default_rng(seed).standard_normal((2, outcomes))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return (odds / odds.sum(1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize(("sharp", "is_sparse"), [(1.0, False), (20.0, True)])
def test_a_store_returns_what_was_stored_in_the_smaller_form(
    tmp_path: Path, sharp: float, is_sparse: bool
) -> None:
    kept = {bytes([k] * 16): drawn(1 + 13 * k, sharp, k) for k in range(20)}
    store = ProbabilityStore(tmp_path / "store", {"teacher": "a"})
    for key, probabilities in kept.items():
        store[key] = probabilities
    assert len(ProbabilityStore(tmp_path / "store", {})) == 0
    store.flush()
    store = ProbabilityStore(tmp_path / "store", {})
    assert len(store) == 20
    assert bytes(16) in store
    assert b"?" * 16 not in store
    for key, probabilities in kept.items():
        assert store[key].dtype == np.float16
        np.testing.assert_array_equal(store[key], probabilities)
    (shard,) = (tmp_path / "store").glob("shard-*.npz")
    with np.load(shard) as arrays:
        assert bool(len(arrays["counts"])) == is_sparse
    assert not list((tmp_path / "store").glob("*.tmp"))


def test_full_and_old_shards_are_written_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_cache, "SHARD_WINDOWS", 3)
    store = ProbabilityStore(tmp_path, {})
    for k in range(7):
        store[bytes([k] * 16)] = drawn(5, 1.0, k)
    assert len(ProbabilityStore(tmp_path, {})) == 6
    monkeypatch.setattr(teacher_cache, "SHARD_SECONDS", 0.0)
    store[bytes([9] * 16)] = drawn(5, 1.0, 9)
    assert len(ProbabilityStore(tmp_path, {})) == 8


def test_a_damaged_shard_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ProbabilityStore(tmp_path, {})
    for k in range(2):
        store[bytes([k] * 16)] = drawn(50, 1.0, k)
        store.flush()
    first, second = sorted(tmp_path.glob("shard-*.npz"))
    whole = first.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"x" * 100, whole.replace(b"keys", b"cheese")):
        first.write_bytes(damaged)
        caplog.clear()
        assert len(ProbabilityStore(tmp_path, {})) == 1
        assert f"{first} is damaged, and its windows are recomputed" in caplog.text
    assert str(second) not in caplog.text


def test_a_key_depends_on_the_tokens_that_are_read_and_on_nothing_else() -> None:
    windows = make_windows([9, 40], max_length=16, overlap=5)
    keys = window_keys(windows)
    assert len(set(keys)) == len(windows)
    again = window_keys(make_windows([9, 40], max_length=16, overlap=5))
    assert again == keys
    shorter = window_keys(make_windows([9, 40], max_length=15, overlap=5))
    assert keys[0] in shorter  # the short passage is whole in both
    assert not set(keys[1:]) & set(shorter[1:])
    other = window_keys(make_windows([9, 40], max_length=17, overlap=5, question_tokens=[2, 2]))
    assert not set(keys) & set(other)


@pytest.mark.parametrize("null", [True, False])
def test_the_loss_is_the_same_with_and_without_a_cache(
    bert_folder: Path, teacher: str, tmp_path: Path, null: bool
) -> None:
    examples, tokenizer = examples_of(bert_folder), Tokenizer(bert_folder)
    chosen = np.arange(0, len(examples.windows), 2)
    batch = assemble(examples.windows, chosen)
    normalised = normalised_positions(batch, null)
    taught = []
    for cache in ("", str(tmp_path), str(tmp_path)):
        its_teacher = Teacher(teacher, tokenizer, 128, null, cache)
        its_teacher.attend(examples, chosen, 64)
        taught.append(its_teacher.probabilities(chosen, batch))
        its_teacher.save()
    without, computed, stored = taught
    torch.testing.assert_close(computed, stored, rtol=0, atol=0)
    torch.testing.assert_close(computed, without, rtol=1e-3, atol=1e-6)
    logits = torch.randn(2, *batch.input_ids.shape)
    expected, found = (divergence(logits, each, normalised) for each in (without, stored))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_what_is_stored_is_not_computed_again(
    bert_folder: Path, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {"teacher": teacher, "teacher_cache": str(tmp_path / "cache"), "epochs": 1.0}
    pq.write_table(pq.read_table(SAMPLE).slice(0, 24), tmp_path / "small.parquet")
    changed["train"] = str(tmp_path / "small.parquet")
    train(options(bert_folder, tmp_path / "first", **changed))

    def fail(*_: Any) -> None:
        raise AssertionError("the network is loaded")

    monkeypatch.setattr(CheckpointReader, "load", fail)
    train(options(bert_folder, tmp_path / "second", **changed))
    first, second = (
        load_file(tmp_path / name / "model.safetensors") for name in ("first", "second")
    )
    for name, weights in first.items():
        torch.testing.assert_close(second[name], weights, msg=name)


def test_an_interrupted_training_keeps_what_its_teacher_has_said(
    bert_folder: Path, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def logits(_: CheckpointReader, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return torch.zeros(batch.input_ids.shape), torch.zeros(batch.input_ids.shape)

    monkeypatch.setattr(CheckpointReader, "logits", logits)
    monkeypatch.setattr(CheckpointReader, "load", lambda _: None)
    monkeypatch.setattr(CheckpointReader, "positions", lambda _: 512)
    changed = {"teacher": teacher, "teacher_cache": str(tmp_path / "cache")}
    with pytest.raises(KeyboardInterrupt):
        train(options(bert_folder, tmp_path / "out", **changed))
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(ProbabilityStore(folder, {})) > 0


def test_teachers_and_null_options_have_stores_of_their_own() -> None:
    names = {store_name(digest, null) for digest in ("a" * 64, "b" * 64) for null in (True, False)}
    assert len(names) == 4


def test_a_cache_without_a_teacher_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--train=x", "--output=y", "--teacher_cache=a"])
    assert "--teacher_cache goes with --teacher" in capsys.readouterr().err


def test_a_cache_that_can_not_be_a_folder_is_refused_by_name(
    bert_folder: Path, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    given = {"train": SAMPLE, "output": tmp_path / "out", "base": bert_folder, "max_length": 128}
    given |= {"overlap": 32, "teacher": teacher, "teacher_cache": tmp_path / "file"}
    assert main([f"--{name}={value}" for name, value in given.items()]) == 2
    assert f"refused: --teacher_cache={tmp_path / 'file'}: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
