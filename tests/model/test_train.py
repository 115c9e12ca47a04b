"""Training a tiny network on the bundled sample: it learns, resumes to the same weights, and leaves a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import model.train
from model.checkpoint import LocalFolder, read_settings
from model.reader import CheckpointReader
from model.tokenizer import Tokenizer
from model.train import make_parser, passage_loss, train
from model.training_data import ABSENT, NULL, make_examples, plan_epoch, read_rows, with_unanswerables

SAMPLE = Path(__file__).parents[2] / "pipeline" / "sample" / "sample.parquet"


def options(base: Path, output: Path, **changed: Any) -> argparse.Namespace:
    parsed = make_parser().parse_args(["--train", str(SAMPLE), "--output", str(output), "--base", str(base)])
    defaults = {"epochs": 0.2, "warmup": 1, "learning_rate": 3e-3, "average": 0.5, "max_length": 128, "overlap": 32}
    for name, value in {**defaults, "log_seconds": 0.0, "save_minutes": 0.0, **changed}.items():
        assert hasattr(parsed, name)
        setattr(parsed, name, value)
    return parsed


@pytest.fixture(scope="module")
def trained(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(options(bert_folder, folder))
    return folder


def test_the_loss_falls(bert_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "spanmill.train"):
        train(options(bert_folder, tmp_path, epochs=0.6))
    losses = [record.args[2] for record in caplog.records if record.args and "loss" in record.msg]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_the_folder_is_a_checkpoint_with_settings_of_its_own(trained: Path) -> None:
    reader = CheckpointReader(LocalFolder(str(trained)))
    reader.load()
    assert reader.tokenizer().format.classifier == 0
    assert read_settings(trained).null
    assert {weights.dtype for weights in load_file(trained / "model.safetensors").values()} == {torch.float16}


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(
    trained: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def cut_off(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return assemble(*arguments)

    assemble = model.train.assemble
    monkeypatch.setattr(model.train, "assemble", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(options(bert_folder, tmp_path))
    monkeypatch.undo()
    train(options(bert_folder, tmp_path))
    whole, resumed = load_file(trained / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert whole.keys() == resumed.keys()
    for name, weights in whole.items():
        torch.testing.assert_close(resumed[name], weights, msg=name)


@pytest.mark.parametrize("changed", [{"objective": "tokenwise", "link": "sigmoid"}, {"shared_normalisation": True}])
def test_other_objectives_train_too(bert_folder: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    result = train(options(bert_folder, tmp_path, eval=str(SAMPLE), eval_every_nth=40, epochs=0.1, **changed))
    assert 0 <= result["em"] <= result["f1"] <= 100
    assert read_settings(tmp_path).link == changed.get("link", "softmax")


def test_a_time_budget_ends_the_training(bert_folder: Path, tmp_path: Path) -> None:
    train(options(bert_folder, tmp_path, epochs=1000.0, max_minutes=0.05))
    assert (tmp_path / "model.safetensors").exists()


def test_unanswerables_pair_a_question_with_a_passage_that_lacks_its_golds() -> None:
    rows = [
        {"question": f"q{k}", "context": f"passage {k} says word{k}", "answers": {"text": [f"word{k}"], "answer_start": [15]}}
        for k in range(20)
    ]
    made = with_unanswerables(rows, 0.5, seed=0)
    assert len(made) == 30
    assert made == with_unanswerables(rows, 0.5, seed=0)
    own = {row["question"]: row["context"] for row in rows}
    for row in made:
        source = rows[row["group"]]
        if row["answers"]["text"]:
            assert row == {**source, "group": row["group"]}
        else:
            assert row["question"] == source["question"]
            assert row["context"] != own[row["question"]]


def test_windows_with_part_of_a_gold_have_no_target(bert_folder: Path) -> None:
    words = [f"word{k}" for k in range(60)]
    context = " ".join(words)
    begin = context.index("word20")
    rows = [{"question": "which", "context": context, "answers": {"text": ["word20 word21"], "answer_start": [begin]}}]
    examples = make_examples(rows, Tokenizer(bert_folder), max_length=64, overlap=8, max_question=16)
    targets = set(examples.start.tolist())
    first = int(np.flatnonzero(examples.windows.passages.char_start == begin)[0])
    for window in range(len(examples.windows)):
        start, stop = examples.windows.start[window], examples.windows.stop[window]
        if examples.start[window] >= 0:
            assert examples.start[window] == first
            assert start <= first < stop
        elif examples.start[window] == NULL:
            assert not start <= first < stop
    assert NULL in targets
    assert targets <= {ABSENT, NULL, first}


def test_an_epoch_holds_every_window_once(bert_folder: Path) -> None:
    rows = read_rows(str(SAMPLE))[:50]
    examples = make_examples(rows, Tokenizer(bert_folder), 128, 32, 32)
    usable = np.arange(len(examples.windows))
    batches = plan_epoch(examples, usable, 1000, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == usable.tolist()
    lengths = examples.windows.lengths
    for batch in batches:
        assert len(set(examples.group[batch])) == 1 or len(batch) * lengths[batch].max() <= 1000


def test_shared_normalisation_is_one_softmax_over_the_windows() -> None:
    from model.batching import assemble
    from tests.model.fakes import FakeReader, make_windows
    from tests.model.test_losses import Passage, logsumexp

    windows = make_windows([9, 40], max_length=16, overlap=5)
    chosen = np.arange(len(windows))
    batch = assemble(windows, chosen)
    start_logits, end_logits = FakeReader(7, levels=0).logits(batch)
    shift = batch.context_start - batch.passage_start
    gold = {0: (0, 2), 1: (18, 20)}
    targets = torch.stack(
        [
            torch.tensor([gold[int(p)][side] if s <= gold[int(p)][0] and gold[int(p)][1] < e else -1 for p, s, e in where])
            for side in (0, 1)
            for where in [list(zip(windows.pair, windows.start, windows.stop, strict=True))]
        ]
    )
    targets = torch.where(targets >= 0, targets + shift, -1)
    found = passage_loss(start_logits, end_logits, batch, targets, torch.from_numpy(windows.pair.astype(np.int64)), null=False)
    for pair, (first, last) in gold.items():
        passage = Passage(windows, pair)
        expected = sum(
            logsumexp(passage.union(side, null=False)) - passage.token(side, passage.owner(token, token), token)
            for side, token in enumerate((first, last))
        )
        assert found[pair].item() == pytest.approx(expected, rel=1e-5)
