from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from model.reading.tokenizer import Tokenizer, TokenizerError
from model.reading.tokenizer_files import PROBE, read_tokenizer
from tests.checkpoints import (
    Checkpoint,
    modernbert_tokenizer,
    roberta_tokenizer,
    sample_texts,
    wordpiece,
    xlnet_tokenizer,
)

TEXT = "The keeper lit the lamp; Ægir's cafe\u0301, 北京."
FILES = {"WordPiece": wordpiece, "BPE": roberta_tokenizer, "Unigram": xlnet_tokenizer}
CLASSES = (
    "RobertaTokenizer",
    "BertTokenizer",
    "DebertaTokenizer",
    "AlbertTokenizer",
    "CamembertTokenizer",
    "T5Tokenizer",
    "NoSuch",
)


def of_class(tokenizer: PreTrainedTokenizerFast, folder: Path, name: str) -> Path:
    """Save a tokenizer in a folder whose settings name a class; return the folder."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text("utf-8")), "tokenizer_class": name}
    settings.pop("backend", None)
    path.write_text(json.dumps(settings), "utf-8")
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    return folder


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("model", FILES)
def test_the_tokens_are_those_of_tokenizer_json_whatever_class_is_named(
    model: str, name: str, tmp_path: Path
) -> None:
    made = FILES[model]()
    read = Tokenizer(of_class(made, tmp_path, name))
    expected = made.backend_tokenizer.encode_batch([TEXT, *PROBE], add_special_tokens=False)
    passages = read.passages([TEXT, *PROBE])
    assert [
        passages.ids[low:high].tolist()
        for low, high in zip(passages.bounds[:-1], passages.bounds[1:], strict=True)
    ] == [encoding.ids for encoding in expected]
    pair = made("who", "he lit") if read.format.question_first else made("he lit", "who")
    joined = [*read.format.before, *read.format.between, *read.format.after]
    assert joined == [token for token in pair["input_ids"] if token in made.all_special_ids]
    assert read.padding == made.pad_token_id
    assert read.format.classifier is not None


def test_one_line_of_the_log_says_which_tokens_were_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = of_class(wordpiece(), tmp_path / "roberta", "RobertaTokenizer")
    built = AutoTokenizer.from_pretrained(folder)
    assert built(TEXT)["input_ids"] != wordpiece()(TEXT)["input_ids"], (
        "transformers must differ for this to mean something"
    )
    with caplog.at_level(logging.INFO, "spanmill"):
        read_tokenizer(folder)
        read_tokenizer(of_class(wordpiece(), tmp_path / "albert", "AlbertTokenizer"))
    assert len(caplog.messages) == 2
    assert "using its tokenizer.json, not RobertaTokenizer of transformers" in caplog.messages[0]
    assert "using its tokenizer.json; its tokenizer class can't be built" in caplog.messages[1]


def test_a_part_of_the_file_that_its_class_would_replace_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file has a normalizer that the class does not build: it lowers the case of letters."""
    tokenizer = roberta_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text("utf-8")), "normalizer": {"type": "Lowercase"}}),
        "utf-8",
    )
    read = Tokenizer(tmp_path)
    assert (
        read.questions(["The LAMP"])[0].tolist()
        == tokenizer("the lamp", add_special_tokens=False)["input_ids"]
    )
    assert "they differ on" in caplog.text


@pytest.mark.parametrize(
    ("make", "name"), [(wordpiece, "BertTokenizer"), (roberta_tokenizer, "RobertaTokenizer")]
)
def test_the_class_joins_pairs_where_the_file_does_not(
    make: Callable[[], PreTrainedTokenizerFast],
    name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = Tokenizer(of_class(make(), tmp_path / "whole", name)).format
    path = of_class(make(), tmp_path / "part", name) / "tokenizer.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text("utf-8")), "post_processor": None}), "utf-8"
    )
    assert Tokenizer(tmp_path / "part").format == whole
    assert whole.special_tokens >= 3
    assert caplog.messages == []


def test_nothing_is_logged_where_both_have_the_same_tokens(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "spanmill"):
        read_tokenizer(checkpoint.folder)
    assert caplog.messages == []


def test_a_tokenizer_that_needs_another_package_is_refused_for_its_file_may_hold_only_a_part(
    tmp_path: Path,
) -> None:
    with pytest.raises(TokenizerError, match="rjieba"):
        Tokenizer(of_class(wordpiece(), tmp_path, "RoFormerTokenizer"))


def test_only_tokens_with_a_role_are_text_in_a_text(tmp_path: Path) -> None:
    """Added special tokens without a role were in the texts that the network was trained on."""
    tokenizer = modernbert_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[PAR]"]})
    tokenizer.save_pretrained(tmp_path)
    mark, separator = tokenizer.convert_tokens_to_ids(["[PAR]", "[SEP]"])
    ids = Tokenizer(tmp_path).passages(["[PAR] a [SEP] b [PAR] c"]).ids.tolist()
    assert ids.count(mark) == 2
    assert separator not in ids


# SentencePiece models without a tokenizer.json


def test_a_sentencepiece_model_alone_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # as if it were not installed
    (tmp_path / "spm.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "DebertaV2Tokenizer"}')
    with pytest.raises(
        TokenizerError,
        match=r"model, spm\.model, which needs pip install 'spanmill\[sentencepiece\]'$",
    ):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("kind", "model", "name"),
    [
        ("deberta-v2", "DebertaV2Tokenizer", "spm.model"),
        ("xlm-roberta", "XLMRobertaTokenizer", "sentencepiece.bpe.model"),
        ("xlnet", "XLNetTokenizer", "spiece.model"),
        ("albert", "AlbertTokenizer", "spiece.model"),
    ],
)
def test_a_sentencepiece_model_alone_gives_its_own_pieces(
    kind: str, model: str, name: str, tmp_path: Path
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(sample_texts()).splitlines()),
        model_writer=(tmp_path / name).open("wb"),
        vocab_size=800,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / name))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": model}))
    if kind == "albert":  # transformers 5 fails here
        with pytest.raises(
            TokenizerError,
            match=r"spiece\.model, which sentencepiece .* have transformers 4 save a "
            r"tokenizer\.json",
        ):
            Tokenizer(tmp_path)
        return
    read, text = Tokenizer(tmp_path), "The keeper lit the lamp."
    tokens = [read._backend.id_to_token(token) for token in read.passages([text]).ids.tolist()]
    assert tokens == pieces.encode(text, out_type=str)
    assert read.format.special_tokens >= 3
