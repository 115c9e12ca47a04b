"""Training a tiny network on the bundled sample: it learns, resumes, and writes a checkpoint."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import model.train
import model.training.state
from model.checkpoint import LocalFolder, read_settings
from model.reading.batching import Batch, assemble
from model.reading.reader import CheckpointReader
from model.reading.span_reader import SpanReader
from model.reading.windows import Windows
from model.settings import SettingError
from model.train import make_parser, train
from model.training.data import read_training_rows
from model.training.loss import passage_loss, window_loss
from model.training.start import moving_average
from model.training.state import Training
from pipeline.bundled import SAMPLE
from tests.checkpoints import ARCHITECTURES
from tests.model.audit.test_losses import Passage, logsumexp
from tests.model.fakes import FakeReader, make_windows
from tests.runs import HOUSE


def options(base: Path, output: Path, **changed: Any) -> argparse.Namespace:
    parsed = make_parser().parse_args(
        ["--train", SAMPLE, "--output", str(output), "--base", str(base)]
    )
    defaults = {
        "epochs": 0.05,
        "warmup": 1,
        "learning_rate": 3e-3,
        "average": 0.5,
        "max_length": 128,
        "overlap": 32,
    }
    for name, value in {**defaults, "batch_tokens": 1024, "log_seconds": 0.0, **changed}.items():
        assert hasattr(parsed, name)
        setattr(parsed, name, value)
    return parsed


@pytest.fixture(scope="module")
def trained(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(options(bert_folder, folder))
    return folder


@pytest.mark.parametrize(
    "changed",
    [{}, {"objective": "joint"}, {"objective": "compound", "shared_normalisation": True}],
)
def test_the_loss_falls(
    bert_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changed: dict[str, Any],
) -> None:
    with caplog.at_level("INFO", "spanmill.train"):
        train(options(bert_folder, tmp_path, epochs=0.15, **changed))
    losses = [record.args[2] for record in caplog.records if record.args and "loss" in record.msg]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_the_tokenizer_is_that_of_the_base(trained: Path, bert_folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (trained / name).read_bytes() == (bert_folder / name).read_bytes()


def test_the_folder_is_a_checkpoint_with_settings_of_its_own(trained: Path) -> None:
    reader = CheckpointReader(LocalFolder(str(trained)))
    reader.load()
    assert reader.tokenizer().format.classifier == 0
    assert read_settings(trained).null
    assert {weights.dtype for weights in load_file(trained / "model.safetensors").values()} == {
        torch.float16
    }


def test_a_split_reader_learns_from_a_whole_one_and_is_read_as_one(
    bert_folder: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = {"split": 1, "max_question": 20, "teacher": str(trained), "eval": SAMPLE}
    with caplog.at_level("INFO", "spanmill.train"):
        train(options(bert_folder, tmp_path, epochs=0.15, eval_every_nth=40, **changed))
    losses = [record.args[2] for record in caplog.records if record.args and "loss" in record.msg]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    settings = read_settings(tmp_path)
    assert (settings.split, settings.passage_position) == (1, 1 + 20 + 1)
    answer = SpanReader.load(str(tmp_path)).answer("Who waved?", "Ada Kern waved.")
    assert answer.status in ("answered", "no_answer")
    # A training that starts from it keeps its split.
    train(options(tmp_path, tmp_path / "next", max_question=12))
    settings = read_settings(tmp_path / "next")
    assert (settings.split, settings.passage_position) == (1, 1 + 12 + 1)


@pytest.mark.parametrize(
    ("target", "splits", "reader"),
    [("model", [None] * 11, "out/model/reader"), ("split-model", [4], "out/model/split-4")],
)
def test_the_trainings_of_the_makefile_start_from_what_is_there(
    target: str, splits: list[int | None], reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dry = ["make", "--dry-run", target]
    made = subprocess.run(dry, cwd=HOUSE, check=True, capture_output=True, text=True).stdout
    commands = re.findall(r"python -m model\.(\w+) (.*)", made.replace("\\\n", " "))
    trainings: list[argparse.Namespace] = []
    monkeypatch.setattr(model.train, "train", lambda options: trainings.append(options) or {})
    # The second prints where a package is, the third is put together of packages.
    there = {"model/bundled", '"$(.venv/bin/python', "out/model/all-mpnet-base-v2"}
    for name, line in commands:
        if name == "train":
            assert model.train.main(shlex.split(line)) == 0
        read = re.findall(r"--(?:base|teacher|model|checkpoints)\s+(\S+)", line)
        assert set(",".join(read).split(",")) <= there, line
        there.update(re.findall(r"--output (\S+)", line))
    assert [options.split for options in trainings] == splits
    assert [name for name, _ in commands[-2:]] == ["calibrate", "try_int8"]
    assert all(line.endswith(f"--model {reader}") for _, line in commands[-2:])


def test_frozen_layers_keep_the_weights_of_the_base(bert_folder: Path, tmp_path: Path) -> None:
    train(options(bert_folder, tmp_path, frozen_layers=1))
    before = load_file(bert_folder / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    kept = {name for name in after if torch.equal(after[name], before[name].half())}
    lower = {name for name in after if ".embeddings." in name or ".layer.0." in name}
    assert lower and kept == lower
    with pytest.raises(SettingError, match="frozen_layers=2: the network has 2 layers, of which 1"):
        train(options(bert_folder, tmp_path / "all", frozen_layers=2))


def test_a_split_that_can_not_be_trained_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="split=2: the network has 2 layers, of which 1 to 1"):
        train(options(bert_folder, tmp_path, split=2))
    albert = next(kind for kind in ARCHITECTURES if kind.name == "albert")
    base = albert.build(tmp_path / "albert")
    with pytest.raises(SettingError, match="split=1: the layers of a albert network"):
        train(options(base, tmp_path / "out", split=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [{}, {"dropout": 0.2}, {"split": 1}])
def test_an_interrupted_training_resumes_to_the_same_weights(
    trained: Path,
    bert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
) -> None:
    taught = {"teacher": str(trained)} if "split" in given else {}
    changed = {"save_minutes": 0.0, **given, **taught}
    train(options(bert_folder, tmp_path / "whole", **changed))
    calls = 0

    def cut_off(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return assemble(*arguments)

    monkeypatch.setattr(model.training.state, "assemble", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(options(bert_folder, tmp_path / "resumed", **changed))
    monkeypatch.undo()
    train(options(bert_folder, tmp_path / "resumed", **changed))
    whole, resumed = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed")
    )
    assert whole.keys() == resumed.keys()
    for name, weights in whole.items():
        torch.testing.assert_close(resumed[name], weights, msg=name)


def test_a_folder_with_another_training_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    train(options(bert_folder, tmp_path))
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(SettingError, match="it has a training with objective='categorical', not "):
        train(options(bert_folder, tmp_path, objective="compound", overlap=64))
    assert (tmp_path / "model.safetensors").read_bytes() == before
    # More epochs continue the training.
    train(options(bert_folder, tmp_path, epochs=0.1))
    assert (tmp_path / "model.safetensors").read_bytes() != before


def test_a_loss_that_is_not_finite_ends_the_training_with_its_state(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter([1.0, 1.0, float("nan")])
    found = Training.loss
    monkeypatch.setattr(Training, "loss", lambda self, *given: found(self, *given) * next(taken))
    with pytest.raises(RuntimeError, match="the loss of step 3 is nan"):
        train(options(bert_folder, tmp_path, save_minutes=0.0))
    weights = torch.load(tmp_path / "state.pt", weights_only=True)["average"].values()
    assert all(bool(each.isfinite().all()) for each in weights)


def test_the_average_of_a_short_training_leaves_its_base() -> None:
    update, average, weight = moving_average(0.999), [torch.zeros(1)], [torch.ones(1)]
    for step in range(1, 101):
        update(average, weight, step)
    assert average[0] > 0.99
    constant = [torch.zeros(1)]
    for step in range(10**6, 10**6 + 100):
        update(constant, weight, step)
    assert constant[0].item() == pytest.approx(1 - 0.999**100, rel=1e-3)


@pytest.mark.parametrize(
    "changed",
    [
        {"objective": "tokenwise", "link": "sigmoid", "null": False},
        {"shared_normalisation": True},
        {"objective": "joint"},
        {"objective": "joint", "shared_normalisation": True, "null": False},
        {"objective": "compound", "shared_normalisation": True},
    ],
)
def test_other_objectives_train_too(
    bert_folder: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    result = train(
        options(bert_folder, tmp_path, eval=SAMPLE, eval_every_nth=40, epochs=0.025, **changed)
    )
    assert 0 <= result["em"] <= result["f1"] <= 100
    assert read_settings(tmp_path).link == changed.get("link", "softmax")


def test_a_time_budget_ends_the_training(bert_folder: Path, tmp_path: Path) -> None:
    train(options(bert_folder, tmp_path, epochs=1000.0, max_minutes=0.05))
    assert (tmp_path / "model.safetensors").exists()


GOLDS = {0: (0, 2), 1: (18, 20)}


def laid_out() -> tuple[Windows, Batch, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return windows of two passages, their batch, logits of a fake network, and targets.

    A target is -1 if the window does not contain the whole gold.
    """
    windows = make_windows([9, 40], max_length=16, overlap=5)
    batch = assemble(windows, np.arange(len(windows)))
    logits = FakeReader(7, levels=0).logits(batch)
    whole = [
        GOLDS[int(pair)][0] >= start and GOLDS[int(pair)][1] < stop
        for pair, start, stop in zip(windows.pair, windows.start, windows.stop, strict=True)
    ]
    shift = batch.context_start - batch.passage_start
    golds = torch.tensor([GOLDS[int(pair)] for pair in windows.pair]).T
    return windows, batch, *logits, torch.where(torch.tensor(whole), golds + shift, -1)


@pytest.mark.parametrize("null", [False, True])
def test_shared_normalisation_is_the_passage_loss_of_the_audit(null: bool) -> None:
    windows, batch, start_logits, end_logits, targets = laid_out()
    assert batch.classifier is not None
    if null:
        targets = torch.where(targets >= 0, targets, batch.classifier)
    group = torch.from_numpy(windows.pair.astype(np.int64))
    chosen = argparse.Namespace(null=null, objective="categorical")
    found = passage_loss(start_logits, end_logits, batch, targets, group, chosen)
    for pair, gold in GOLDS.items():
        passage = Passage(windows, pair)
        expected = sum(
            logsumexp(passage.union(side, null=null))
            - passage.token(side, passage.owner(token, token), token)
            for side, token in enumerate(gold)
        )
        assert found[pair].item() == pytest.approx(expected, rel=1e-5)
    without = targets[0] == batch.classifier
    assert len(found) == len(GOLDS) + (int(without.sum()) if null else 0)
    if null:
        expected = window_loss(start_logits, end_logits, batch, targets, chosen)
        torch.testing.assert_close(found[len(GOLDS) :], expected[without])


def test_windows_of_one_group_share_a_normaliser_though_their_passages_differ() -> None:
    windows, batch, start_logits, end_logits, targets = laid_out()
    targets[:, windows.pair == 1] = -1
    chosen = argparse.Namespace(null=False, objective="categorical")
    apart, together = (
        passage_loss(start_logits, end_logits, batch, targets, group, chosen)
        for group in (torch.from_numpy(windows.pair.astype(np.int64)), torch.zeros(len(windows)))
    )
    assert len(apart) == len(together) == 1
    assert together[0] > apart[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["--objective=tokenwise", "--shared_normalisation"],
            "--shared_normalisation does not go with --objective tokenwise",
        ),
        (
            ["--objective=tokenwise", "--teacher=a"],
            "--teacher does not go with --objective tokenwise",
        ),
        (["--objective=joint", "--link=sigmoid"], "--link sigmoid goes with --objective tokenwise"),
        (["--link=sigmoid"], "--link sigmoid goes with --objective tokenwise"),
        (
            ["--objective=tokenwise", "--link=sigmoid"],
            "--link sigmoid goes with --no-null: binary cross-entropy does not train the null",
        ),
        (
            ["--objective=compound", "--max_answer_length=200"],
            "--overlap=128: with --objective compound it must be at least --max_answer_length - 1",
        ),
        (["--unlabelled=a"], "--unlabelled goes with --teacher: without one"),
        (["--teacher_share=0"], "--teacher_share: '0' is not a number from 1e-06 to 1"),
        (["--learning_rate=-1"], "--learning_rate: '-1' is not a number from 1e-12 to 1000"),
        (["--epochs=0"], "--epochs: '0' is not a number from 1e-06 to 1e+06"),
        (["--warmup=0"], "--warmup: '0' is not a whole number from 1 "),
        (["--average=1"], "--average: '1' is not a number from 0 to 1"),
        (["--mix=squad"], "--mix: 'squad' is not PATTERN=TIMES,..."),
        (["--mix=squad=-1"], "--mix: '-1' is not a number from 0 "),
    ],
)
def test_options_that_mean_nothing_are_refused(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        model.train.main(["--train=x", "--output=y", *given])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": "nowhere.parquet"}, "--train=nowhere.parquet: "),
        ({"train": "text.parquet"}, "--train=text.parquet: "),
        (
            {"train": "columns.parquet"},
            "--train=columns.parquet: it has no column 'context', but question, answers",
        ),
        (
            {"train": "types.parquet"},
            "--train=types.parquet: its column 'question' is int64, not text",
        ),
        (
            {"train": "unusable.parquet"},
            "--train=unusable.parquet: no row has a question, a context and whole golds",
        ),
        (
            {"train": "none.parquet"},
            "--train=none.parquet: no row has a question, a context and whole golds",
        ),
        (
            {"mix": "squad=2", "train": "good.parquet"},
            "--train=good.parquet: it has no column 'source'",
        ),
        ({"eval": "nowhere.parquet"}, "--eval=nowhere.parquet: "),
        (
            {"keep_out": "good.parquet"},
            "--keep_out=good.parquet: this passage is among the training rows",
        ),
        ({"base": "empty"}, "--base=empty: "),
        ({"teacher": "empty"}, "--teacher=empty: "),
        ({"max_length": 4096}, "--max_length=4096: the network takes at most "),
        ({"overlap": 127}, "--overlap=127: a question leaves room for "),
        ({"output": "text.parquet"}, "--output=text.parquet: File exists"),
        ({"output": "text.parquet/out"}, "--output=text.parquet/out: Not a directory"),
        (
            {"output": "other"},
            "--output=other: its state.pt is damaged, or of another network (RuntimeError: ",
        ),
    ],
)
def test_what_can_not_be_trained_on_is_refused_by_name(
    given: dict[str, Any],
    said: str,
    bert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    good = pq.read_table(SAMPLE, columns=["question", "context", "answers"]).slice(0, 8)
    pq.write_table(good, "good.parquet")
    pq.write_table(good.drop_columns(["context"]), "columns.parquet")
    pq.write_table(good.set_column(0, "question", pa.array(range(8))), "types.parquet")
    pq.write_table(good.set_column(0, "question", pa.nulls(8, pa.string())), "unusable.parquet")
    pq.write_table(good.slice(0, 0), "none.parquet")
    Path("text.parquet").write_text("question,context")
    Path("empty").mkdir()
    Path("other").mkdir()
    torch.save({"network": {"weight": torch.zeros(1)}}, "other/state.pt")
    before = sorted(tmp_path.rglob("*"))
    asked = {
        "train": "good.parquet",
        "output": "out",
        "base": bert_folder,
        "max_length": 128,
        "overlap": 32,
        **given,
    }
    assert model.train.main([f"--{name}={value}" for name, value in asked.items()]) == 2
    printed = capsys.readouterr()
    assert f"refused: {said}" in printed.err
    assert "Traceback" not in printed.err
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "state.tmp"] == before


def test_rows_that_can_not_be_used_do_not_spoil_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    golds = [
        {"text": ["Ada"], "answer_start": [0]},
        {"text": [], "answer_start": []},
        None,
        {"text": None, "answer_start": [0]},
        {"text": ["Ada"], "answer_start": [None]},
        {"text": [None], "answer_start": [0]},
        {"text": ["Ada", "A"], "answer_start": [0]},
        *[{"text": ["Ada"], "answer_start": [0]}] * 3,
    ]
    kind = pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int32())})
    table = pa.table(
        {
            "question": ["Who?"] * 8 + [None, "Who?"],
            "context": ["Ada slept."] * 7 + [None, "Ada slept.", " "],
            "answers": pa.array(golds, kind),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    assert [row["answers"] for row in read_training_rows(str(tmp_path / "rows.parquet"))] == golds[
        :2
    ]
    assert "--train: 8 of 10 rows lack a question, a context or whole golds" in caplog.text
