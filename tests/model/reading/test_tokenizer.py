from __future__ import annotations

import json
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, DebertaV2Tokenizer, PreTrainedTokenizerFast, XLNetTokenizer

import model.reading.tokenizer
from model.reading.tokenizer import (
    Passages,
    Ragged,
    Tokenizer,
    TokenizerError,
)
from tests.checkpoints import (
    Checkpoint,
    joined_emoji_tokenizer,
    roberta_tokenizer,
    wordpiece,
    xlnet_tokenizer,
)
from tests.model.texts import FAMILY, TRICKY_CONTEXTS, is_mark, long_context


def tokens_of(passages: Passages, passage: int) -> list[tuple[int, int, bool, bool]]:
    """Return (char_start, char_end, can_start, can_end) of a passage's tokens."""
    at = slice(passages.bounds[passage], passages.bounds[passage + 1])
    columns = (passages.char_start, passages.char_end, passages.can_start, passages.can_end)
    return list(zip(*(column[at].tolist() for column in columns), strict=True))


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Tokenizer:
    tokenizer.save_pretrained(folder)
    return Tokenizer(folder)


# Offsets


def test_token_offsets_are_trimmed_and_lie_in_the_context(checkpoint: Checkpoint) -> None:
    contexts = [*TRICKY_CONTEXTS.values(), long_context()]
    passages = checkpoint.reader.tokenizer().passages(contexts)
    for passage, context in enumerate(contexts):
        tokens = tokens_of(passages, passage)
        assert any(can_start for _, _, can_start, _ in tokens) and any(
            can_end for *_, can_end in tokens
        )
        for start, end, can_start, can_end in tokens:
            assert 0 <= start <= end <= len(context)
            assert context[start:end] == context[start:end].strip()
            assert start < end or not (can_start or can_end)
        assert [start for start, *_ in tokens] == sorted(start for start, *_ in tokens)


def test_token_spans_and_character_spans_are_one_to_one(checkpoint: Checkpoint) -> None:
    contexts = list(TRICKY_CONTEXTS.values())
    passages = checkpoint.reader.tokenizer().passages(contexts)
    for passage in range(len(contexts)):
        tokens = tokens_of(passages, passage)
        starts = [start for start, _, can_start, _ in tokens if can_start]
        ends = [end for _, end, _, can_end in tokens if can_end]
        assert len(set(starts)) == len(starts) == len(ends) == len(set(ends))
        shortest = list(zip(starts, ends, strict=True))
        assert all(start < end for start, end in shortest)
        assert all(
            end <= start for (_, end), (start, _) in zip(shortest, shortest[1:], strict=False)
        )
        covered = {k for start, end, *_ in tokens for k in range(start, end)}
        assert covered == {k for start, end in shortest for k in range(start, end)}


def test_a_joined_emoji_starts_at_its_first_and_ends_at_its_last_token(tmp_path: Path) -> None:
    """Its tokens are bytes: several per code point, some from a joiner into the next one."""
    tokens = tokens_of(saved(joined_emoji_tokenizer(), tmp_path).passages([f"a {FAMILY} b"]), 0)
    assert tokens[:2] == [(0, 1, True, True), (2, 2, False, False)]
    assert tokens[2:5] == [(2, 3, True, False), (2, 3, False, False), (2, 3, False, True)]
    assert tokens[5:8] == [(3, 5, True, False), (4, 5, False, False), (4, 5, False, True)]
    assert tokens[-1] == (10, 11, True, True)


def test_every_visible_character_stands_in_a_byte_level_token(tmp_path: Path) -> None:
    tokenizer = saved(roberta_tokenizer(), tmp_path)
    for context in TRICKY_CONTEXTS.values():
        covered = {
            k
            for start, end, *_ in tokens_of(tokenizer.passages([context]), 0)
            for k in range(start, end)
        }
        assert covered == {k for k, character in enumerate(context) if not character.isspace()}


def test_no_answer_ends_between_a_letter_and_its_marks(checkpoint: Checkpoint) -> None:
    """Unless the marks are tokens of their own, as in RoBERTa."""
    contexts = [
        "cafe\u0301 noir",
        "का पानी",
        "e\u0301\u0323",
        f"{FAMILY} a",
        "cafe\u0301",
        *TRICKY_CONTEXTS.values(),
    ]
    passages = checkpoint.reader.tokenizer().passages(contexts)
    for passage, context in enumerate(contexts):
        tokens = tokens_of(passages, passage)
        starts = {start for start, _, can_start, _ in tokens if can_start}
        ends = {end for _, end, _, can_end in tokens if can_end} - {len(context)}
        assert not [end for end in ends if is_mark(context[end]) and end not in starts]


LANDMARKS = {
    "combining": "bird",
    "emoji": "flag",
    "chinese and japanese": "Tokyo",
    "right to left": "2024",
    "white space": "end",
    "expanding": "and",
    "special tokens": "text",
}


@pytest.mark.parametrize("name", LANDMARKS)
def test_a_word_after_tricky_characters_has_its_own_offsets(
    checkpoint: Checkpoint, name: str
) -> None:
    """Normalizers drop marks and expand ligatures; offsets must count original characters."""
    context, word = TRICKY_CONTEXTS[name], LANDMARKS[name]
    tokens = tokens_of(checkpoint.reader.tokenizer().passages([context]), 0)
    start = context.rindex(word)
    assert start in {start for start, _, can_start, _ in tokens if can_start}
    assert start + len(word) in {end for _, end, _, can_end in tokens if can_end}


def test_chinese_characters_are_tokens_of_their_own(tmp_path: Path) -> None:
    tokens = tokens_of(saved(wordpiece(), tmp_path).passages(["東京は 都"]), 0)
    assert tokens[0] == (0, 1, True, True)
    assert tokens[1][0] == 1
    assert tokens[-1] == (4, 5, True, True)


def test_a_right_to_left_context_keeps_logical_order(checkpoint: Checkpoint) -> None:
    context = "שלום עולם"
    tokens = tokens_of(checkpoint.reader.tokenizer().passages([context]), 0)
    filled = [token for token in tokens if token[0] < token[1]]
    assert filled[0][0] == 0
    assert filled[-1][1] == len(context)


@pytest.mark.parametrize("name", ["xlnet", "albert", "deberta-v2"])
def test_metaspace_tokens_lose_their_leading_space(
    checkpoints: dict[str, Checkpoint], name: str
) -> None:
    context = "the house and the flag"
    tokens = tokens_of(checkpoints[name].reader.tokenizer().passages([context]), 0)
    starts = [start for start, _, can_start, _ in tokens if can_start]
    ends = [end for _, end, _, can_end in tokens if can_end]
    assert {context.index(word) for word in context.split()} <= set(starts)
    assert not any(context[start].isspace() for start in starts)
    assert len(starts) == len(ends) == len(set(starts)) == len(set(ends))


def test_a_lone_metaspace_before_a_word_is_no_end_of_an_answer(tmp_path: Path) -> None:
    """XLNet's is at the word's first letter."""
    special = [(token, 0.0) for token in ("<unk>", "<sep>", "<pad>", "<cls>", "<mask>")]
    tokenizer = XLNetTokenizer(
        vocab=[*special, ("▁", -2.0), ("▁a", -1.0), ("house", -3.0)], unk_id=0
    )
    tokens = tokens_of(saved(tokenizer, tmp_path).passages(["a house a"]), 0)
    assert tokens == [
        (0, 1, True, True),
        (2, 3, True, False),
        (2, 7, False, True),
        (8, 9, True, True),
    ]


def test_lone_space_tokens_can_neither_start_nor_end(tmp_path: Path) -> None:
    """DeBERTa's is at the space itself."""
    special = [(token, 0.0) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    tokenizer = DebertaV2Tokenizer(vocab=[*special, ("▁", -2.0), ("▁a", -1.0), ("house", -3.0)])
    tokens = tokens_of(saved(tokenizer, tmp_path).passages(["a house a"]), 0)
    assert tokens == [
        (0, 1, True, True),
        (2, 2, False, False),
        (2, 7, True, True),
        (8, 9, True, True),
    ]


# Letters that a tokenizer's own offsets leave in no token


def held(tokenizer: Tokenizer, context: str) -> set[int]:
    return {
        k
        for start, end, *_ in tokens_of(tokenizer.passages([context]), 0)
        for k in range(start, end)
    }


def test_a_first_letter_that_the_offsets_leave_out_is_given_to_its_token(tmp_path: Path) -> None:
    """The tokenizer prepends a space, but its trimming of offsets assumes that it does not."""
    tokenizer = roberta_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    assert backend.encode("I am", add_special_tokens=False).offsets[0] == (1, 1)
    read = saved(
        PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", cls_token="<s>"),
        tmp_path,
    )
    for context in ("I am", "17 yo", "the lamp", "été", "𝐀 x", " I"):
        tokens = tokens_of(read.passages([context, context]), 0)
        first = len(context) - len(context.lstrip())
        assert first in {start for start, _, can_start, _ in tokens if can_start}
        assert held(read, context) == {
            k for k, character in enumerate(context) if not character.isspace()
        }
    assert tokens_of(read.passages(["I am", "I am"]), 0)[0] == (0, 1, True, True)
    assert tokens_of(read.passages(["I am", "I am"]), 1) == tokens_of(read.passages(["I am"]), 0)


@pytest.mark.parametrize("normalizer", [normalizers.NFC(), normalizers.NFKC(), normalizers.NFKD()])
def test_parts_of_a_letter_that_a_normalizer_composes_stay_in_its_token(
    tmp_path: Path, normalizer: Any
) -> None:
    """Korean syllables as their parts; the mark of a halfwidth letter, which is a letter itself."""
    tokenizer = xlnet_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizer
    read = saved(tokenizer, tmp_path)
    korean = unicodedata.normalize("NFD", "\ub9c8\uc2e4\uae4c \ud574\uc694")
    for context in (korean, f"in {korean} too", "\uff76\uff9e \uff8a\uff9f x"):
        assert {k for k, character in enumerate(context) if character.isalpha()} <= held(
            read, context
        )
        ends = {end for _, end, _, can_end in tokens_of(read.passages([context]), 0) if can_end}
        assert {match.end() for match in re.finditer(r"\w+", context)} <= ends


def test_a_tokenizer_that_leaves_whole_words_in_no_token_is_refused(tmp_path: Path) -> None:
    """BPE without an unknown token drops letters that it does not have."""
    letters = sorted(
        {
            letter
            for text in TRICKY_CONTEXTS.values()
            for letter in text
            if letter.isascii() and letter.isalnum()
        }
    )
    backend = tokenizers.Tokenizer(
        models.BPE({letter: k for k, letter in enumerate(["<s>", *letters])}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", pad_token="<s>")
    with pytest.raises(TokenizerError, match="leaves letters in no token, such as"):
        saved(tokenizer, tmp_path)


# Special tokens in a text


def test_a_special_token_in_a_text_is_text(checkpoint: Checkpoint) -> None:
    tokenizer, fresh = (
        checkpoint.reader.tokenizer(),
        AutoTokenizer.from_pretrained(checkpoint.folder),
    )
    special = [
        token
        for token in fresh.all_special_tokens
        if token not in (fresh.unk_token, "<eop>", "<eod>")
    ]
    assert len(special) >= 4
    roles = set(fresh.convert_tokens_to_ids(special))
    plain = "Ada lit it. She left."
    for token in special:
        context = f"Ada {token} lit it.{token} She left."
        assert roles & set(fresh(context, add_special_tokens=False)["input_ids"])
        passages = tokenizer.passages([plain, context, plain])
        assert not roles & set(passages.ids.tolist())
        assert not roles & set(tokenizer.questions([context, plain])[0].tolist())
        before, after = (
            passages.ids[passages.bounds[k] : passages.bounds[k + 1]].tolist() for k in (0, 2)
        )
        assert before == after == fresh(plain, add_special_tokens=False)["input_ids"], (
            "neighbours keep their tokens"
        )
        ends = {end for _, end, _, can_end in tokens_of(passages, 1) if can_end}
        assert {context.index(token) + len(token), len(context)} <= ends


# Whole texts


def test_questions_and_passages_equal_single_calls_without_special_tokens(
    checkpoint: Checkpoint,
) -> None:
    texts = [*TRICKY_CONTEXTS.values(), long_context(3000), ""]
    tokenizer, fresh = checkpoint.reader.tokenizer(), checkpoint.fresh_tokenizer()
    questions, passages = tokenizer.questions(texts), tokenizer.passages(texts)
    for k, text in enumerate(texts):
        expected = fresh(text, add_special_tokens=False, verbose=False)["input_ids"]
        assert questions[k].tolist() == expected
        assert passages.ids[passages.bounds[k] : passages.bounds[k + 1]].tolist() == expected
    assert len(questions) == len(passages) == len(texts)
    assert passages.lengths.tolist() == questions.lengths.tolist()


def test_passages_do_not_depend_on_how_many_are_tokenized_at_once(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = checkpoint.reader.tokenizer()
    contexts = [*TRICKY_CONTEXTS.values(), "", "  ", long_context(), "end"]
    together = tokenizer.passages(contexts)
    monkeypatch.setattr(model.reading.tokenizer, "_CHARACTERS_AT_ONCE", 100)
    apart = tokenizer.passages(contexts)
    for name in Passages.__dataclass_fields__:
        assert np.array_equal(getattr(together, name), getattr(apart, name)), name
        assert getattr(together, name).dtype == getattr(apart, name).dtype


def test_no_text_gives_empty_columns(checkpoint: Checkpoint) -> None:
    tokenizer = checkpoint.reader.tokenizer()
    assert len(tokenizer.passages([])) == len(tokenizer.questions([])) == 0
    assert tokenizer.passages([""]).lengths.tolist() == [0]
    assert tokenizer.passages([]).ids.dtype == tokenizer.passages(["a"]).ids.dtype == np.int32


def test_truncation_and_padding_that_a_checkpoint_was_saved_with_do_not_apply(
    tmp_path: Path,
) -> None:
    plain = saved(wordpiece(), tmp_path / "plain")
    limited = wordpiece()
    limited.backend_tokenizer.enable_truncation(8, stride=2)
    limited.backend_tokenizer.enable_padding(length=16)
    limited.save_pretrained(tmp_path / "limited")
    stored = json.loads((tmp_path / "limited" / "tokenizer.json").read_text("utf-8"))
    assert stored["truncation"] and stored["padding"]
    limited = Tokenizer(tmp_path / "limited")
    texts = ["a word", long_context()]
    assert limited.passages(texts).ids.tolist() == plain.passages(texts).ids.tolist()
    assert limited.questions(texts).lengths.tolist() == plain.questions(texts).lengths.tolist()


def test_ragged_lists() -> None:
    lists = Ragged.of([[1, 2, 3], [], [4]])
    assert len(lists) == 3
    assert [lists[k].tolist() for k in range(3)] == [[1, 2, 3], [], [4]]
    assert lists.lengths.tolist() == [3, 0, 1]
    assert [lists.cut(2)[k].tolist() for k in range(3)] == [[1, 2], [], [4]]
    assert lists.cut(3) is lists
    assert len(Ragged.of([]).cut(2)) == 0


# Pair formats


def test_pair_format_of_bert(tmp_path: Path) -> None:
    tokenizer = saved(wordpiece(), tmp_path)
    classifier, separator = (tokenizer._backend.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    pair_format = tokenizer.format
    assert (pair_format.before, pair_format.between, pair_format.after) == (
        (classifier,),
        (separator,),
        (separator,),
    )
    assert (pair_format.before_types, pair_format.between_types, pair_format.after_types) == (
        (0,),
        (0,),
        (1,),
    )
    assert (pair_format.first_type, pair_format.second_type) == (0, 1)
    assert (pair_format.question_first, pair_format.classifier, pair_format.special_tokens) == (
        True,
        0,
        3,
    )
    assert (tokenizer.max_length, tokenizer.format.pad_id) == (512, 0)


def test_roberta_has_four_special_tokens_of_one_type_and_pads_with_one(tmp_path: Path) -> None:
    tokenizer = saved(roberta_tokenizer(), tmp_path)
    assert (tokenizer.format.before, tokenizer.format.between, tokenizer.format.after) == (
        (0,),
        (2, 2),
        (2,),
    )
    assert {
        tokenizer.format.first_type,
        tokenizer.format.second_type,
        *tokenizer.format.between_types,
    } == {0}
    assert tokenizer.format.pad_id == 1


def test_xlnet_has_the_context_first_and_the_classifier_last(tmp_path: Path) -> None:
    pair_format = saved(xlnet_tokenizer(), tmp_path).format
    assert (pair_format.before, pair_format.between, pair_format.after) == ((), (4,), (4, 3))
    assert pair_format.after_types == (1, 2)
    assert (pair_format.question_first, pair_format.classifier) == (False, -1)


def test_a_tokenizer_that_pads_on_the_left_takes_the_context_first(
    checkpoints: dict[str, Checkpoint],
) -> None:
    pair_format = checkpoints["bert-left-padding"].reader.tokenizer().format
    assert (pair_format.question_first, pair_format.first_type, pair_format.classifier) == (
        False,
        0,
        0,
    )


def test_a_tokenizer_without_special_tokens_has_no_classifier(tmp_path: Path) -> None:
    bare = roberta_tokenizer()
    backend = bare.backend_tokenizer
    backend.post_processor = None
    tokenizer = saved(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"), tmp_path)
    assert (tokenizer.format.special_tokens, tokenizer.format.classifier) == (0, None)
    assert tokenizer.format.pad_id == backend.token_to_id("</s>")


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("bert", "[UNK]"),
        ("electra", "[UNK]"),
        ("albert", "<unk>"),
        ("xlnet", "<unk>"),
        ("deberta-v2", "[UNK]"),
        ("roberta", None),
    ],
)
def test_the_unknown_token_replaces_what_the_vocabulary_does_not_have(
    checkpoints: dict[str, Checkpoint], name: str, token: str | None
) -> None:
    """With bytes as tokens no text is unknown, even if the checkpoint names a token for it."""
    tokenizer = checkpoints[name].reader.tokenizer()
    assert tokenizer.unknown == (None if token is None else tokenizer._backend.token_to_id(token))
    ids = tokenizer.passages(["a \u1c5b\u1c5c b"]).ids  # letters of Ol Chiki
    assert (tokenizer.unknown in ids.tolist()) == (token is not None)


def test_a_model_max_length_of_1e30_becomes_an_integer_that_fits(
    checkpoints: dict[str, Checkpoint],
) -> None:
    assert checkpoints["modernbert"].fresh_tokenizer().model_max_length > 1e29
    assert checkpoints["modernbert"].reader.tokenizer().max_length == 2**31 - 1


# Refusals


def test_a_folder_without_a_tokenizer_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    shutil.copy(bert_folder / "config.json", tmp_path)
    with pytest.raises(
        TokenizerError, match=r"has no tokenizer: it has none of tokenizer\.json, vocab\.txt"
    ):
        Tokenizer(tmp_path)


def test_a_broken_tokenizer_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(bert_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(TokenizerError, match=f"no tokenizer can be loaded from {tmp_path}"):
        Tokenizer(tmp_path)


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "canine"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
    with pytest.raises(TokenizerError, match="CanineTokenizer is not a fast tokenizer"):
        Tokenizer(tmp_path)


def test_a_pair_format_that_drops_a_text_is_refused(tmp_path: Path) -> None:
    tokenizer = wordpiece()
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings["post_processor"]["pair"] = settings["post_processor"]["pair"][:3]
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings), "utf-8")
    with pytest.raises(TokenizerError, match="question and context can't be told apart"):
        Tokenizer(tmp_path)


def test_an_answer_keeps_the_marks_of_its_last_letter(bert_folder: Path) -> None:
    """BERT strips nonspacing marks, so that no token has them; they belong to the letter before."""
    for context in ("cafe\u0301 noir", "क़िला है", "o\u0323\u0300 re"):
        passages = Tokenizer(bert_folder).passages([context, context])
        for low, high in zip(passages.bounds[:-1], passages.bounds[1:], strict=True):
            ends = passages.char_end[low:high][passages.can_end[low:high]].tolist()
            assert ends[-1] == len(context)
            for end in ends:
                assert end == len(context) or unicodedata.category(context[end]) != "Mn"
