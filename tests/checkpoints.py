"""Tiny seeded checkpoints with real tokenizers, trained on the text of the bundled sample.

`ARCHITECTURES` lists them. They differ in how tokenizers join a pair, in the inputs of the network
and in the limits of positions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AlbertForQuestionAnswering,
    AlbertTokenizer,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    BertTokenizer,
    ConvBertConfig,
    ConvBertForQuestionAnswering,
    DebertaV2Config,
    DebertaV2ForQuestionAnswering,
    DebertaV2Tokenizer,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    DistilBertTokenizer,
    ElectraConfig,
    ElectraForQuestionAnswering,
    FNetConfig,
    FNetForQuestionAnswering,
    IBertConfig,
    IBertForQuestionAnswering,
    LongformerConfig,
    LongformerForQuestionAnswering,
    ModernBertConfig,
    ModernBertForQuestionAnswering,
    MPNetConfig,
    MPNetForQuestionAnswering,
    MPNetTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
    RobertaTokenizer,
    XLNetConfig,
    XLNetForQuestionAnsweringSimple,
    XLNetTokenizer,
    YosoConfig,
    YosoForQuestionAnswering,
)

from model.checkpoint import LocalFolder
from model.reading.reader import CheckpointReader

SAMPLE_SOURCES = Path(__file__).parent.parent / "pipeline" / "bundled" / "source"

_BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.5,  # large, so that logits differ between tokens
}


@cache
def sample_texts() -> list[str]:
    return [path.read_text("utf-8") for path in sorted(SAMPLE_SOURCES.glob("*.md"))]


@cache
def _wordpieces() -> dict[str, int]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=800, special_tokens=_BERT_TOKENS, show_progress=False
    )
    tokenizer.train_from_iterator(sample_texts(), trainer)
    # The trainer numbers the tokens differently in every process.
    learnt = sorted(tokenizer.get_vocab().keys() - set(_BERT_TOKENS))
    return {token: k for k, token in enumerate([*_BERT_TOKENS, *learnt])}


@cache
def _byte_pairs(*special: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges of a byte-level BPE. The first ids are the special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample_texts(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


@cache
def _unigrams() -> list[tuple[str, float]]:
    """Return the pieces of a Unigram model over metaspace words, without special tokens.

    The scores of the trainer are not reproducible, so they are not used.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        sample_texts(), trainers.UnigramTrainer(vocab_size=800, show_progress=False)
    )
    return [(piece, -5.0) for piece in sorted(tokenizer.get_vocab())]


def _with_special(*special: str) -> list[tuple[str, float]]:
    return [(token, 0.0) for token in special] + _unigrams()


def wordpiece() -> PreTrainedTokenizerFast:
    """Return a BERT tokenizer: lower case, accents stripped, WordPiece."""
    tokenizer = Tokenizer(models.WordPiece(_wordpieces(), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE; a pair is `<s> A </s></s> B </s>` with one token type.

    The padding has id 1.
    """
    vocabulary, merges = _byte_pairs("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return RobertaTokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=512)


def mpnet_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's word pieces under ids that are 4 higher; a pair is `<s> A </s></s> B </s>`."""
    special = ("<s>", "<pad>", "</s>", "<unk>")
    pieces = {token: k + len(special) for token, k in _wordpieces().items()}
    vocabulary = {**{token: k for k, token in enumerate(special)}, **pieces}
    return MPNetTokenizer(vocab={**vocabulary, "<mask>": len(vocabulary)}, model_max_length=512)


def joined_emoji_tokenizer() -> PreTrainedTokenizerFast:
    """Return RoBERTa's tokenizer with bytes as tokens and one merge.

    The merge joins the zero-width joiner and half of the emoji after it.
    """
    # The letters that represent the bytes e2 80 8d and f0 9f.
    zero_width_joiner, emoji = (
        "âĢį",
        "ðŁ",
    )
    merges = [("â", "Ģ"), ("âĢ", "į"), ("ð", "Ł"), (zero_width_joiner, emoji)]
    tokens = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "<mask>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
    ]
    tokens += [left + right for left, right in merges]
    return RobertaTokenizer(
        vocab={token: k for k, token in enumerate(tokens)}, merges=merges, model_max_length=512
    )


def modernbert_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with BERT's special tokens, without token types.

    It has no `model_max_length`, which is 1e30 then.
    """
    vocabulary, merges = _byte_pairs(*_BERT_TOKENS)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def xlnet_tokenizer() -> PreTrainedTokenizerFast:
    """Return a Unigram tokenizer with left padding: `A <sep> B <sep> <cls>`.

    The context comes first, the classifier token last.
    """
    special = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eop>", "<eod>")
    return XLNetTokenizer(vocab=_with_special(*special), unk_id=0)


@dataclass(frozen=True)
class Architecture:
    """One kind of checkpoint.

    positions     most tokens that its network takes, None for any number
    token_types   whether its network distinguishes question and context by token types
    sizes         settings of its network besides the vocabulary
    """

    name: str
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    network: type[PreTrainedModel]
    config: type
    positions: int | None
    token_types: bool
    sizes: dict[str, Any]

    def build(self, folder: Path, seed: int = 0) -> Path:
        """Write the checkpoint, whose weights depend on the seed, into the folder."""
        tokenizer = self.tokenizer()
        torch.manual_seed(seed)
        network = self.network(
            self.config(
                vocab_size=len(tokenizer),
                pad_token_id=tokenizer.pad_token_id,
                **{**_SIZES, **self.sizes},
            )
        )
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder


_BERT = Architecture(
    "bert",
    wordpiece,
    BertForQuestionAnswering,
    BertConfig,
    512,
    True,
    {"max_position_embeddings": 512},
)

ARCHITECTURES = [
    _BERT,
    Architecture(
        "distilbert",
        lambda: DistilBertTokenizer(vocab=_wordpieces(), model_max_length=512),
        DistilBertForQuestionAnswering,
        DistilBertConfig,
        512,
        False,
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    ),
    Architecture(
        "roberta",
        roberta_tokenizer,
        RobertaForQuestionAnswering,
        RobertaConfig,
        512,
        False,
        {"max_position_embeddings": 514, "type_vocab_size": 1},
    ),
    Architecture(
        "albert",
        lambda: AlbertTokenizer(
            vocab=_with_special("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
            unk_id=1,
            model_max_length=512,
        ),
        AlbertForQuestionAnswering,
        AlbertConfig,
        512,
        True,
        {"embedding_size": 16},
    ),
    Architecture(
        "xlnet",
        xlnet_tokenizer,
        XLNetForQuestionAnsweringSimple,
        XLNetConfig,
        None,
        True,
        {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    ),
    Architecture(
        "electra",
        lambda: BertTokenizer(vocab=_wordpieces(), model_max_length=512),
        ElectraForQuestionAnswering,
        ElectraConfig,
        512,
        True,
        {"embedding_size": 16},
    ),
    Architecture(
        "deberta-v2",
        lambda: DebertaV2Tokenizer(
            vocab=_with_special("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), model_max_length=512
        ),
        DebertaV2ForQuestionAnswering,
        DebertaV2Config,
        512,
        False,
        {
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
    ),
    Architecture(
        "modernbert",
        modernbert_tokenizer,
        ModernBertForQuestionAnswering,
        ModernBertConfig,
        4096,
        False,
        {
            "max_position_embeddings": 4096,
            "local_attention": 16,
            "global_attn_every_n_layers": 2,
            **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
        },
    ),
    Architecture(
        "bert-left-padding",
        lambda: BertTokenizer(vocab=_wordpieces(), model_max_length=512, padding_side="left"),
        BertForQuestionAnswering,
        BertConfig,
        512,
        True,
        {},
    ),
]


MPNET = Architecture(
    "mpnet",
    mpnet_tokenizer,
    MPNetForQuestionAnswering,
    MPNetConfig,
    512,
    False,
    {"max_position_embeddings": 514},
)
"""A network whose tokens align with BERT's one to one."""

OTHERS = [
    Architecture(  # counts the separators of its input
        "longformer",
        roberta_tokenizer,
        LongformerForQuestionAnswering,
        LongformerConfig,
        512,
        False,
        {
            "attention_window": [16, 16],
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "sep_token_id": 2,
        },
    ),
    Architecture("fnet", wordpiece, FNetForQuestionAnswering, FNetConfig, 512, True, {}),
    Architecture(
        "yoso",
        wordpiece,
        YosoForQuestionAnswering,
        YosoConfig,
        512,
        False,
        {"max_position_embeddings": 514},
    ),
    Architecture(
        "convbert",
        wordpiece,
        ConvBertForQuestionAnswering,
        ConvBertConfig,
        512,
        True,
        {"embedding_size": 32},
    ),
    Architecture(
        "ibert",
        wordpiece,
        IBertForQuestionAnswering,
        IBertConfig,
        512,
        False,
        {"type_vocab_size": 1},
    ),
]
"""Networks that see the padding of their neighbours, or that need unusual inputs."""


def build_bert(folder: Path, seed: int = 0) -> Path:
    """Return a two-layer BERT with 32 dimensions."""
    return _BERT.build(folder, seed)


@dataclass
class Checkpoint:
    """A built checkpoint, and the way transformers itself uses it."""

    architecture: Architecture
    folder: Path

    @cached_property
    def reader(self) -> CheckpointReader:
        return CheckpointReader(LocalFolder(str(self.folder)), device="cpu")

    @cached_property
    def network(self) -> PreTrainedModel:
        return AutoModelForQuestionAnswering.from_pretrained(self.folder).eval()

    def fresh_tokenizer(self) -> PreTrainedTokenizerFast:
        """Read special tokens in a text as text.

        If a model has them as pieces, they are cut after their first letter.
        """
        tokenizer = AutoTokenizer.from_pretrained(self.folder, split_special_tokens=True)
        backend = tokenizer.backend_tokenizer
        if isinstance(backend.model, models.Unigram):
            spelled = [
                token for token in tokenizer.all_special_tokens if token != tokenizer.unk_token
            ]
            first = Regex(
                "|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in spelled)
            )
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [backend.pre_tokenizer, pre_tokenizers.Split(first, "isolated")]
            )
        return tokenizer
