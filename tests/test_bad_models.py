"""Unusable checkpoints: each is refused with its reason before any row is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CanineConfig,
    CanineForQuestionAnswering,
    NystromformerConfig,
    NystromformerForQuestionAnswering,
    PreTrainedModel,
    ReformerConfig,
    ReformerForQuestionAnswering,
)

from tests.checkpoints import modernbert_tokenizer, roberta_tokenizer
from tests.runs import examples, run, write_input
from transforms import read_chunk


def configured(folder: Path, name: str = "config.json", **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}))


def pickle_alone(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def code_of_its_own(folder: Path) -> None:
    configured(folder, auto_map={"AutoModelForQuestionAnswering": "mine.Model"})
    (folder / "mine.py").write_text("raise SystemExit('remote code was run')")


def code_of_its_tokenizer(folder: Path) -> None:
    mapped = {"AutoTokenizer": [None, "mine.Tokenizer"]}
    configured(folder, "tokenizer_config.json", auto_map=mapped, tokenizer_class="Mine")
    (folder / "tokenizer.json").unlink()
    (folder / "mine.py").write_text("raise SystemExit('remote code was run')")


def half_of_the_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def a_header_that_promises_too_much(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + content[8:])


def no_head(folder: Path) -> None:
    BertModel(BertConfig.from_pretrained(folder)).save_pretrained(folder)


def the_head_of_a_classifier(folder: Path) -> None:
    BertForSequenceClassification(BertConfig.from_pretrained(folder)).save_pretrained(folder)


def one_head_only(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["qa_outputs.weight"] = weights["qa_outputs.weight"][:1].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def more_tokens_than_the_embedding(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["added_tokens"].append(
        {**tokenizer["added_tokens"][-1], "id": 10**6, "content": "[MORE]", "special": False}
    )
    for number in range(5000):
        tokenizer["model"]["vocab"].setdefault(f"more{number}", len(tokenizer["model"]["vocab"]))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def the_tokenizer_of_another_family(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    roberta_tokenizer().save_pretrained(folder)
    configured(folder, pad_token_id=0)


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def half_a_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "be')


def an_unknown_architecture(folder: Path) -> None:
    configured(folder, model_type="no such thing", architectures=["NoSuchThing"])


def another_network(folder: Path, network: PreTrainedModel) -> None:
    network.save_pretrained(folder)
    configured(folder, pad_token_id=0)


def random_numbers(folder: Path) -> None:
    """The hashes of Reformer differ in every call."""
    torch.manual_seed(0)
    config = ReformerConfig(
        vocab_size=BertConfig.from_pretrained(folder).vocab_size,
        hidden_size=32,
        attention_head_size=16,
        num_attention_heads=2,
        feed_forward_size=64,
        attn_layers=["lsh", "local"],
        axial_pos_embds=False,
        max_position_embeddings=512,
        is_decoder=False,
        initializer_range=0.5,
    )
    another_network(folder, ReformerForQuestionAnswering(config))


def a_network_of_characters(folder: Path) -> None:
    """CANINE hashes characters and has no token embedding."""
    config = CanineConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    another_network(folder, CanineForQuestionAnswering(config))


def a_network_that_reads_one_length_alone(folder: Path) -> None:
    config = NystromformerConfig(
        vocab_size=BertConfig.from_pretrained(folder).vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        segment_means_seq_len=16,
        num_landmarks=8,
    )
    another_network(folder, NystromformerForQuestionAnswering(config))


def letters_without_tokens(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["normalizer"] = {
        "type": "Replace",
        "pattern": {"Regex": "[\u0e00-\u0e7f]"},
        "content": "",
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


REFUSALS: list[tuple[Callable[[Path], None], str]] = [
    (pickle_alone, "which is a pickle: weights must be safetensors"),
    (code_of_its_own, "remote code is never run"),
    (code_of_its_tokenizer, "no tokenizer"),
    (half_of_the_weights, "can't be loaded"),
    (a_header_that_promises_too_much, "can't be loaded"),
    (no_head, "it is not a question answering checkpoint"),
    (the_head_of_a_classifier, "it is not a question answering checkpoint"),
    (one_head_only, "can't be loaded"),
    (more_tokens_than_the_embedding, "they do not match"),
    (the_tokenizer_of_another_family, "they do not match"),
    (no_tokenizer, "no tokenizer"),
    (no_config, "no config.json"),
    (half_a_config, "can't be read"),
    (an_unknown_architecture, "can't be loaded"),
    (random_numbers, "draws random numbers: it answers the same question differently every time"),
    (a_network_of_characters, "has no embedding of tokens: CanineForQuestionAnswering"),
    (a_network_that_reads_one_length_alone, "can't read tokens in torch."),
    (letters_without_tokens, "leaves letters in no token, such as 'ไ'"),
]


@pytest.mark.parametrize(
    ("spoil", "reason"), REFUSALS, ids=lambda value: getattr(value, "__name__", None)
)
def test_it_is_refused_by_name(
    spoil: Callable[[Path], None],
    reason: str,
    tmp_path: Path,
    bert_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    def read(*_: object) -> None:
        raise AssertionError("a row was read")

    monkeypatch.setattr(read_chunk, "read_tables", read)
    source = write_input(tmp_path / "a.parquet", examples(3))
    model = Path(shutil.copytree(bert_folder, tmp_path / "model"))
    spoil(model)
    assert run("annotate", f"--input={source}", f"--output={tmp_path}/out", f"--model={model}") == 2
    printed = capfd.readouterr()
    assert "refused: " in printed.err
    assert reason in printed.err
    assert "a row was read" not in printed.err
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_with_as_many_tokens_may_have_another_padding_where_the_network_names_none(
    tmp_path: Path, bert_folder: Path
):
    """Most newer checkpoints name no padding token, and their attention masks hide padding."""
    model = Path(shutil.copytree(bert_folder, tmp_path / "model"))
    assert modernbert_tokenizer().pad_token_id == 0
    configured(model, pad_token_id=None)
    source = write_input(tmp_path / "a.parquet", examples(3))
    assert run("annotate", f"--input={source}", f"--output={tmp_path}/out", f"--model={model}") == 0
