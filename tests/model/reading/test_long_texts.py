"""The bound on tokens by counting words: it never exceeds the number of tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from model.reading.long_texts import beginnings_of_words, has_more
from model.reading.tokenizer import Tokenizer as OurTokenizer
from tests.checkpoints import Checkpoint
from tests.model.texts import TRICKY_CONTEXTS

# Letters that some normalizer changes or drops, marks, joiners, controls, spaces, special tokens.
TEXTS = st.lists(
    st.sampled_from(
        [
            "a",
            "Z",
            "9",
            "é",
            "ß",
            "İ",
            "Ж",
            "ͺ",
            "ﷺ",
            "灯",
            "🌊",
            "é",
            "_",
            "'",
            "``",
            "''",
            ".",
            "▁",
            " ",
            "  ",
        ]
    )
    | st.sampled_from(
        [
            "\u0301",
            "\u200d",
            "\u200b",
            "\u00ad",
            "\ufeff",
            "\ufffd",
            "\x00",
            "\x07",
            "\t",
            "\n",
            "\u00a0",
            "\u3000",
        ]
    )
    | st.sampled_from(["[MASK]", "<mask>", "</s>", "[SEP]", "[UNK]", "<unk>", "x" * 120])
    | st.text(max_size=3),
    max_size=40,
).map(" ".join) | st.text(alphabet="ab é\u0301\u200d.▁\n", max_size=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=TEXTS)
@example(text=" " + " ".join(TRICKY_CONTEXTS.values()))
def test_no_text_has_fewer_tokens_than_is_said(checkpoint: Checkpoint, text: str):
    tokenizer = checkpoint.reader.tokenizer()
    assert not tokenizer.surely_exceeds(text, int(tokenizer.passages([text]).lengths[0]))


@cache
def letters_counted_by(pattern: re.Pattern[str]) -> list[str]:
    """Return all characters that begin a word by the pattern; cached."""
    return [chr(code) for code in range(0x110000) if has_more(pattern, f"   {chr(code)}", 0)]


def test_every_letter_that_is_counted_is_a_token(checkpoint: Checkpoint):
    tokenizer = checkpoint.reader.tokenizer()
    assert tokenizer._words is not None
    letters = letters_counted_by(tokenizer._words)
    assert len(letters) > 900
    assert {"a", "Z", "0", "é", "Ω", "Ж"} <= set(letters)
    assert tokenizer.passages([f". {letter} ." for letter in letters]).lengths.min() >= 3


def test_it_is_said_of_prose(checkpoint: Checkpoint):
    tokenizer = checkpoint.reader.tokenizer()
    assert tokenizer.surely_exceeds("the lamp " * 50, 98)
    assert not tokenizer.surely_exceeds("the lamp " * 50, 99)  # the first word follows no space


def test_ideographs_are_words_where_they_stand_apart(checkpoint: Checkpoint):
    apart = checkpoint.architecture.name in ("bert", "distilbert", "electra", "bert-left-padding")
    tokenizer = checkpoint.reader.tokenizer()
    assert tokenizer.surely_exceeds("灯台。" * 50, 99) == apart
    assert not tokenizer.surely_exceeds("灯台。" * 50, 100)


def words_and_spaces() -> Tokenizer:
    """Sound: words after spaces, whatever they are."""
    made = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def replaces(pattern: str | Regex, content: str) -> Tokenizer:
    made = words_and_spaces()
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(pattern, content)]
    )
    return made


def splits(*steps: pre_tokenizers.PreTokenizer) -> Tokenizer:
    made = Tokenizer(models.Unigram([("<unk>", 0.0), ("a▁a", -1.0), ("▁", -2.0)], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    return made


def bytes_unknown() -> Tokenizer:
    made = Tokenizer(models.BPE({"b": 0}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def phrase() -> Tokenizer:
    made = words_and_spaces()
    made.add_tokens([AddedToken("a a a")])
    return made


def merges_over_spaces() -> Tokenizer:
    """Byte pairs without the split at spaces."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(
        models.BPE(
            {token: k for k, token in enumerate([*letters, "aĠ", "aĠaĠ"])},
            [("a", "Ġ"), ("aĠ", "aĠ")],
        )
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda: replaces("a a", "a"),
        lambda: replaces(Regex(" {2,}"), ""),
        lambda: replaces("``", ""),
        lambda: splits(pre_tokenizers.Metaspace(split=False)),
        lambda: splits(pre_tokenizers.Metaspace(split=False), pre_tokenizers.WhitespaceSplit()),
        bytes_unknown,
        phrase,
        merges_over_spaces,
        lambda: Tokenizer(
            models.Unigram([("<unk>", 0.0)], unk_id=0)
        ),  # one unknown token of any text
    ],
)
def test_nothing_is_said_where_it_is_not_sure(make: Callable[[], Tokenizer]):
    assert beginnings_of_words(make()) is None


@pytest.mark.parametrize(
    "make", [lambda: replaces("a a", "a"), bytes_unknown, phrase, merges_over_spaces]
)
def test_and_there_it_would_be_wrong(make: Callable[[], Tokenizer]):
    assert len(make().encode(" a a a a a").ids) < 5


def test_it_is_sure_of_words_and_spaces_and_of_the_bundled_reader():
    assert beginnings_of_words(words_and_spaces())
    assert beginnings_of_words(replaces("``", '"'))
    bundled = OurTokenizer(Path(__file__).parents[3] / "model" / "bundled")
    assert bundled.surely_exceeds("the lamp " * 50, 98)
