"""Distillation: the divergence equals torch's, a student learns to agree with its teacher.

Teachers read their own format: what they say of a token is checked against transformers alone.
"""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from model.checkpoint import CheckpointError, LocalFolder
from model.reading.batching import Batch, assemble
from model.reading.reader import CheckpointReader
from model.reading.tokenizer import Tokenizer
from model.train import train
from model.training import distillation
from model.training.data import (
    UNLABELLED,
    TrainingWindows,
    make_examples,
    read_training_rows,
    usable_windows,
)
from model.training.distillation import Teacher, divergence, log_probabilities
from model.training.loss import normalised_positions
from model.training.start import prepare
from model.training.state import TrainingReader
from tests.checkpoints import ARCHITECTURES, MPNET, Architecture, Checkpoint, build_bert
from tests.model.test_train import SAMPLE, options


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with a trained null option, from other weights than the student's."""
    folder = tmp_path_factory.mktemp("teacher")
    train(options(build_bert(folder / "base", seed=9), folder / "trained"))
    return folder / "trained"


def examples_of(folder: Path, rows: list[dict] | None = None) -> TrainingWindows:
    return make_examples(rows or read_training_rows(str(SAMPLE)), Tokenizer(folder), 128, 32, 64)


def test_the_divergence_is_that_of_two_softmaxes_over_the_normalised_positions() -> None:
    torch.manual_seed(0)
    logits, others = torch.randn(2, 3, 7, dtype=torch.float64) * 5
    normalised = torch.tensor(
        [[1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0, 0]], dtype=torch.bool
    )
    found = divergence(logits, log_probabilities(others, normalised).exp(), normalised)
    for row, inside in enumerate(normalised):
        expected = kl_divergence(
            Categorical(logits=others[row, inside]), Categorical(logits=logits[row, inside])
        )
        assert found[row].item() == pytest.approx(expected.item(), abs=1e-9)
    assert (
        divergence(logits, log_probabilities(logits, normalised).exp(), normalised).abs().max()
        < 1e-12
    )


def test_tokens_outside_of_the_softmax_give_no_gradient_and_no_nan() -> None:
    logits = torch.tensor([[1.0, 2.0, -40.0, 3.0]], requires_grad=True)
    normalised = torch.tensor([[True, True, True, False]])
    divergence(logits, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), normalised).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 3] == 0
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]


@pytest.mark.parametrize("null", [True, False])
def test_a_student_comes_to_agree_with_its_teacher(
    bert_folder: Path, teacher: Path, tmp_path: Path, null: bool
) -> None:
    """Without the null option, the teacher still gives a loss to batches without a gold."""
    examples, chosen = examples_of(bert_folder), np.arange(20)
    batch = assemble(examples.windows, chosen)
    normalised = normalised_positions(batch, null)
    its_teacher = Teacher(str(teacher), Tokenizer(bert_folder), 128, null)
    its_teacher.attend(examples, chosen, 64)
    taught = its_teacher.probabilities(chosen, batch)
    torch.testing.assert_close(taught.sum(-1), torch.ones(2, 20))
    assert not taught[:, ~normalised].any()

    def apart(folder: Path) -> float:
        with torch.inference_mode():
            logits = torch.stack(CheckpointReader(LocalFolder(str(folder))).logits(batch))
        return divergence(logits, taught, normalised).mean().item()

    changed = {
        "teacher": str(teacher),
        "teacher_share": 1.0,
        "null": null,
        "shared_normalisation": not null,
    }
    train(options(bert_folder, tmp_path, epochs=0.25, **changed))
    assert apart(tmp_path) < 0.5 * apart(bert_folder)


def edited(folder: Path, to: Path, **settings: Any) -> str:
    """Copy a checkpoint, change its own settings, and return the copy's folder."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    settings = {**config.get("spanmill", {}), **settings}
    (to / "config.json").write_text(json.dumps({**config, "spanmill": settings}))
    return str(to)


@pytest.fixture
def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let teachers compute in float32 on any machine, so that they can be compared."""
    monkeypatch.setattr(distillation, "resolve_dtype", lambda *_: "float32")


@pytest.fixture(scope="module", params=[MPNET.name, "bert-left-padding", "distilbert", "electra"])
def aligned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Architecture, str]:
    """Return a teacher whose word pieces are the student's: other ids, pairs or inputs."""
    folder = tmp_path_factory.mktemp("aligned")
    kind = next(each for each in [MPNET, *ARCHITECTURES] if each.name == request.param)
    return kind, edited(kind.build(folder / "built", seed=5), folder / "null", null_trained=True)


@pytest.mark.parametrize("shared_normalisation", [False, True])
def test_unlabelled_rows_learn_from_the_teacher_alone(
    bert_folder: Path, teacher: Path, tmp_path: Path, shared_normalisation: bool
) -> None:
    rows = [
        {"question": "Who waved?", "context": f"{name} waved at the sea. " * 12}
        for name in ("Ada", "Kern")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "unlabelled.parquet")
    training = prepare(
        options(
            bert_folder,
            tmp_path,
            unlabelled=str(tmp_path / "unlabelled.parquet"),
            teacher=str(teacher),
            teacher_share=0.25,
            shared_normalisation=shared_normalisation,
            objective="compound",
        )
    )
    examples = training.examples
    unlabelled = np.flatnonzero(examples.start == UNLABELLED)
    asked = [examples.questions[k] for k in examples.windows.pair[unlabelled]]
    assert len(unlabelled) > len(rows) and set(asked) == {"Who waved?"}
    usable = usable_windows(examples, True, shared_normalisation)
    assert set(unlabelled) < set(usable)

    # Alone in a batch, their loss is the teacher's share.
    batch = assemble(examples.windows, unlabelled)
    normalised = normalised_positions(batch, null=True)
    logits = torch.stack(TrainingReader(training.network, training.tokenizer, None).logits(batch))
    taught = training.teacher.probabilities(unlabelled, batch)
    expected = 0.25 * divergence(logits, taught, normalised).sum(0).mean()
    torch.testing.assert_close(training.loss(unlabelled, nullcontext()), expected)

    # Beside labelled rows, they take no part in the loss of the golds.
    labelled = usable[np.isin(examples.group[usable], examples.group[usable][:3])]
    alone = training.loss(labelled, nullcontext())
    together = training.loss(np.append(labelled, unlabelled), nullcontext())
    batch = assemble(examples.windows, labelled)
    logits = torch.stack(TrainingReader(training.network, training.tokenizer, None).logits(batch))
    taught = training.teacher.probabilities(labelled, batch)
    own = 0.25 * divergence(logits, taught, normalised_positions(batch, null=True)).sum(0)
    both = (own.sum() + len(unlabelled) * expected) / (len(labelled) + len(unlabelled))
    torch.testing.assert_close(together, alone - own.mean() + both, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("null", [True, False])
def test_an_aligned_teacher_reads_its_own_format_and_teaches_the_student_s_positions(
    bert_folder: Path, aligned: tuple[Architecture, str], null: bool
) -> None:
    _, folder = aligned
    examples = examples_of(bert_folder)
    teacher = Teacher(folder, Tokenizer(bert_folder), 128, null)
    chosen = np.flatnonzero(examples.windows.counts[examples.windows.pair] > 1)[:6]
    teacher.attend(examples, chosen, 64)
    batch = assemble(examples.windows, chosen)
    found = teacher.probabilities(chosen, batch)
    reader = CheckpointReader(LocalFolder(folder))
    own = examples_of(Path(folder)).windows  # windows of as many tokens, but other slices
    for row, window in enumerate(chosen):
        pair = examples.windows.pair[window]
        first = int(np.flatnonzero(own.pair == pair)[0])
        bounds = examples.windows.start[[window]], examples.windows.stop[[window]]
        start, stop = (
            np.where(np.arange(len(own)) == first, at, each)
            for at, each in zip(bounds, (own.start, own.stop), strict=True)
        )
        alone = assemble(replace(own, start=start, stop=stop), np.array([first]))
        logits = torch.stack(reader.logits(alone))
        places = torch.cat([torch.arange(*_span(alone, 0)), *([alone.classifier] if null else [])])
        expected = torch.softmax(logits[:, 0, places], -1)
        at = torch.cat([torch.arange(*_span(batch, row)), *([torch.tensor([0])] if null else [])])
        torch.testing.assert_close(found[:, row, at], expected, rtol=1e-3, atol=1e-6)
        assert found[:, row].sum().item() == pytest.approx(2, rel=1e-5)


def _span(batch: Batch, row: int) -> tuple[int, int]:
    return int(batch.context_start[row]), int(batch.context_stop[row])


@pytest.mark.usefixtures("exactly")
def test_an_mpnet_teacher_sees_what_its_tokenizer_makes_of_the_pair(
    bert_folder: Path, tmp_path: Path
) -> None:
    """The reference is transformers alone: the tokenizer called on the texts, and the network."""
    folder = edited(MPNET.build(tmp_path / "built"), tmp_path / "null", null_trained=True)
    rows = [row for row in read_training_rows(str(SAMPLE)) if len(row["context"]) < 300][:3]
    tokenizer = Tokenizer(bert_folder)
    examples = make_examples(rows, tokenizer, 384, 32, 64)
    assert len(examples.windows) == len(rows)
    teacher = Teacher(folder, tokenizer, 384, True)
    chosen = np.arange(len(rows))
    teacher.attend(examples, chosen, 64)
    batch = assemble(examples.windows, chosen)
    found = teacher.probabilities(chosen, batch)
    theirs = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    for k, row in enumerate(rows):
        inputs = theirs(row["question"], row["context"], return_tensors="pt")
        with torch.inference_mode():
            output = network(**{name: inputs[name] for name in ("input_ids", "attention_mask")})
        context = torch.tensor([part == 1 for part in inputs.sequence_ids()])
        context[0] = True  # <s>, the classifier token
        logits = torch.stack([output.start_logits, output.end_logits])[:, 0, context]
        at = torch.cat([torch.tensor([0]), torch.arange(*_span(batch, k))])
        expected = torch.softmax(logits, -1)
        torch.testing.assert_close(found[:, k, at], expected, rtol=1e-3, atol=1e-6)


def test_a_student_learns_from_a_teacher_with_other_ids(
    bert_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(options(MPNET.build(tmp_path / "base"), tmp_path / "teacher"))
    changed = {"teacher": str(tmp_path / "teacher"), "teacher_share": 1.0, "epochs": 0.15}
    with caplog.at_level("INFO", "spanmill.train"):
        train(options(bert_folder, tmp_path / "student", **changed))
    losses = [record.args[2] for record in caplog.records if record.args and "loss" in record.msg]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_a_teacher_that_splits_a_training_passage_otherwise_is_refused(
    bert_folder: Path, tmp_path: Path
) -> None:
    """Its tokens align on the probe, but it knows one more word."""
    folder = Path(edited(bert_folder, tmp_path / "teacher", null_trained=True))
    path = folder / "tokenizer.json"
    settings = json.loads(path.read_text())
    vocabulary = settings["model"]["vocab"]
    vocabulary["quixotry"] = vocabulary.pop(max(vocabulary, key=vocabulary.__getitem__))
    path.write_text(json.dumps(settings))
    teacher = Teacher(str(folder), Tokenizer(bert_folder), 128, True)
    row = {"question": "What?", "answers": {"text": [], "answer_start": []}}
    one = np.arange(1)
    teacher.attend(examples_of(bert_folder, [{**row, "context": "A tale of ships."}]), one, 64)
    rows = [{**row, "context": text} for text in ("A tale.", "A tale of quixotry.")]
    with pytest.raises(CheckpointError, match="it cuts 'A tale of quixotry"):
        teacher.attend(examples_of(bert_folder, rows), one, 64)


def test_a_window_that_is_too_long_in_the_teacher_s_format_is_refused(
    bert_folder: Path, tmp_path: Path
) -> None:
    """MPNet's pairs have one special token more than BERT's."""
    short = replace(MPNET, sizes={"max_position_embeddings": 130})
    folder = edited(short.build(tmp_path / "built"), tmp_path / "null", null_trained=True)
    Teacher(folder, Tokenizer(bert_folder), 127, True)
    said = "takes 128 tokens, fewer than --max_length=128 makes of a window in its format: 129"
    with pytest.raises(CheckpointError, match=said):
        Teacher(folder, Tokenizer(bert_folder), 128, True)


def test_a_checkpoint_that_can_not_teach_the_student_is_refused(
    bert_folder: Path, teacher: Path, checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    tokenizer = Tokenizer(bert_folder)
    with pytest.raises(CheckpointError, match="do not match the base's one to one: it cuts"):
        Teacher(str(checkpoints["roberta"].folder), tokenizer, 128, null=False)
    with pytest.raises(CheckpointError, match="link sigmoid: it has no distribution"):
        Teacher(edited(teacher, tmp_path / "sigmoid", link="sigmoid"), tokenizer, 128, null=True)
    with pytest.raises(CheckpointError, match="is a split reader: teach with a whole one"):
        split = edited(teacher, tmp_path / "split", split=1, passage_position=66)
        Teacher(split, tokenizer, 128, null=True)
    with pytest.raises(CheckpointError, match="no trained null option: train with --no-null"):
        Teacher(
            edited(teacher, tmp_path / "untrained", null_trained=False), tokenizer, 128, null=True
        )
    with pytest.raises(CheckpointError, match=r"fewer than --max_length=9999"):
        Teacher(str(teacher), tokenizer, 9999, null=True)
