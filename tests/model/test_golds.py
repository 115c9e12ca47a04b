"""Gold answers: every reason for which one is left out, and which tokens the others are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.golds import Golds, gold_tokens, gold_views, read_golds
from model.tokenizer import Passages, Ragged, Tokenizer
from model.windows import Windows, cut_windows
from tests.checkpoints import roberta_tokenizer, wordpiece
from tests.model.fakes import QUESTION_FIRST, make_windows
from tests.model.texts import FAMILY, TRICKY_CONTEXTS

CONTEXT = "The lamp was lit by Ada in 1843, by hand."


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """WordPiece, lower case."""
    folder = tmp_path_factory.mktemp("words")
    wordpiece().save_pretrained(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Byte-level: an emoji it has not learned is four tokens that share one character."""
    folder: Path = tmp_path_factory.mktemp("bytes")
    roberta_tokenizer().save_pretrained(folder)
    return Tokenizer(folder)


def windows_of(tokenizer: Tokenizer, contexts: Sequence[str]) -> Windows:
    """One pair per context, in one window each."""
    pairs = np.arange(len(contexts))
    questions = Ragged.of([[1]] * len(contexts))
    passages = tokenizer.passages(contexts)
    return cut_windows(QUESTION_FIRST, passages, questions, pairs, pairs, max_length=500, overlap=0, max_windows=1)


def read(tokenizer: Tokenizer, *answers: Any, context: str = CONTEXT) -> Golds:
    """The golds of rows that all ask about one context."""
    return read_golds(answers, [context], np.zeros(len(answers), np.int64), windows_of(tokenizer, [context]))


def gold(*places: tuple[str, int]) -> dict[str, list[Any]]:
    return {"text": [text for text, _ in places], "answer_start": [start for _, start in places]}


def at(text: str, context: str = CONTEXT) -> tuple[str, int]:
    return text, context.index(text)


def spelled(golds: Golds, passages: Passages, context: str, row: int = 0) -> list[str]:
    """The characters that a row's golds cover as tokens."""
    base = passages.bounds[golds.pair[golds.of_row[row]]]
    first = passages.char_start[base + golds.first[golds.of_row[row]]]
    last = passages.char_end[base + golds.last[golds.of_row[row]]]
    return [context[begin:end] for begin, end in zip(first, last, strict=True)]


class TestReasons:
    @pytest.mark.parametrize(
        ("answer", "reason", "message"),
        [
            (None, "answers_missing", "empty lists"),
            ({"text": None, "answer_start": [0]}, "answers_missing", "null"),
            ({"text": ["The"], "answer_start": None}, "answers_missing", "null"),
            ({"text": ["The", None], "answer_start": [0, 4]}, "answers_with_nulls", "null"),
            ({"text": ["The"], "answer_start": [None]}, "answers_with_nulls", "null"),
            ({"text": ["The", "lamp"], "answer_start": [0]}, "answers_unequal", "2 texts and 1 starts"),
            ({"text": [], "answer_start": [0]}, "answers_unequal", "0 texts and 1 starts"),
        ],
    )
    def test_malformed_answers(self, words: Tokenizer, answer: Any, reason: str, message: str):
        golds = read(words, answer, gold(at("Ada")))
        assert golds.problems[0][0] == reason
        assert message in golds.problems[0][1]
        assert list(golds.problems) == [0]  # its neighbour has a gold
        assert golds.of_row.lengths.tolist() == [0, 1]
        assert golds.dropped.tolist() == [0, 0]
        assert golds.texts == [[], ["Ada"]]

    @pytest.mark.parametrize(
        ("text", "start", "reason", "message"),
        [
            ("", 4, "gold_blank", "blank"),
            (" \n", 3, "gold_blank", "blank"),
            ("The", -1, "gold_out_of_range", f"[-1, 2) of a context of {len(CONTEXT)} characters"),
            (".", -1, "gold_out_of_range", "[-1, 0)"),  # Python's own [-1] is the full stop
            ("hand.", len(CONTEXT) - 4, "gold_out_of_range", f"[{len(CONTEXT) - 4}, {len(CONTEXT) + 1})"),
            ("Ada", 2**40, "gold_out_of_range", str(2**40)),
            ("Ada", 19, "gold_misaligned", "gold 'Ada', but at its start stands ' Ad'"),  # off by one
            ("ada", CONTEXT.index("Ada"), "gold_misaligned", "stands 'Ada'"),  # the tokenizer would not tell them apart
            ("by", 0, "gold_misaligned", "gold 'by'"),  # stands elsewhere, twice: never searched for
        ],
    )
    def test_unusable_golds(self, words: Tokenizer, text: str, start: int, reason: str, message: str):
        golds = read(words, gold((text, start)))
        assert golds.problems[0][0] == reason
        assert message in golds.problems[0][1]
        assert golds.dropped.tolist() == [1]
        assert len(golds) == 0
        assert golds.texts == [[]]

    def test_a_gold_of_characters_that_the_tokenizer_drops(self, words: Tokenizer):
        """BERT's tokenizer removes control characters: such a gold is aligned and has no token."""
        context = "a \u200b b"
        golds = read(words, gold(("\u200b", 2)), context=context)
        assert golds.problems[0][0] == "gold_without_tokens"
        assert golds.dropped.tolist() == [1]

    def test_an_unanswerable_question_has_no_problem(self, words: Tokenizer):
        golds = read(words, gold())
        assert golds.problems == {}
        assert golds.of_row.lengths.tolist() == [0]
        assert golds.dropped.tolist() == [0]

    def test_a_row_that_is_rejected_already_has_neither_golds_nor_problems(self, words: Tokenizer):
        golds = read_golds([None, gold(at("Ada"))], [CONTEXT], np.array([-1, 0]), windows_of(words, [CONTEXT]))
        assert golds.problems == {}
        assert golds.of_row.lengths.tolist() == [0, 1]


class TestSeveralGolds:
    def test_bad_ones_are_dropped_and_counted_and_the_rest_stays(self, words: Tokenizer):
        golds = read(words, gold(("Ada", 0), at("lit"), ("", 3), at("Ada"), ("x", -5)))
        assert golds.problems == {}
        assert golds.dropped.tolist() == [3]
        assert golds.texts == [["lit", "Ada"]]
        assert spelled(golds, words.passages([CONTEXT]), CONTEXT) == ["lit", "Ada"]

    def test_if_all_are_bad_the_first_says_why(self, words: Tokenizer):
        golds = read(words, gold(("Ada", 0), ("", 3), ("x", -5)))
        assert golds.problems[0][0] == "gold_misaligned"
        assert golds.dropped.tolist() == [3]

    def test_distinct_by_token_span_in_the_order_of_the_answers(self, words: Tokenizer):
        """`1843` and `843` meet the same token or tokens; what is not part of a word is never a token of its own."""
        context = "Ada met Bob. Ada left."
        golds = read(
            words,
            gold(("Bob", 8), ("Ada", 0), ("Bob", 8), ("Ada", 13), ("Ada ", 0)),
            gold(("Ada", 0)),
            context=context,
        )
        assert golds.of_row[0].tolist() == [0, 1, 2]
        assert spelled(golds, words.passages([context]), context) == ["Bob", "Ada", "Ada"]
        assert golds.of_row[1].tolist() == [1]  # rows of one pair share its golds
        assert len(golds) == 3
        assert golds.texts[0] == ["Bob", "Ada", "Bob", "Ada", "Ada "]  # for EM and F1 every text counts
        assert golds.dropped.tolist() == [0, 0]

    def test_golds_of_several_passages_count_from_their_own(self, words: Tokenizer):
        contexts = ["x y z", "y z"]
        windows = windows_of(words, contexts)
        golds = read_golds([gold(("z", 2)), gold(("z", 4))], contexts, np.array([1, 0]), windows)
        assert golds.pair.tolist() == [1, 0]
        assert golds.first.tolist() == golds.last.tolist() == [1, 2]


class TestTokens:
    @pytest.mark.parametrize("name", TRICKY_CONTEXTS)
    @pytest.mark.parametrize("kind", ["words", "byte_level"])
    def test_a_gold_is_the_tokens_whose_trimmed_range_meets_it(self, name: str, kind: str, request: pytest.FixtureRequest):
        """Every substring against a definition that is as slow as it is plain."""
        tokenizer: Tokenizer = request.getfixturevalue(kind)
        context = TRICKY_CONTEXTS[name]
        passages = tokenizer.passages([context])
        ranges = list(zip(passages.char_start.tolist(), passages.char_end.tolist(), strict=True))
        for start in range(len(context)):
            for end in range(start + 1, min(start + 12, len(context)) + 1):
                met = [k for k, (s, e) in enumerate(ranges) if s < e and s < end and e > start]
                if not met:
                    assert gold_tokens(passages, 0, start, end) == (-1, -1)
                    continue
                # Tokens that share characters with a met one belong to it: a gold starts and ends where spans may.
                first, last = met[0], met[-1]
                while not passages.can_start[first]:
                    first -= 1
                while not passages.can_end[last]:
                    last += 1
                assert gold_tokens(passages, 0, start, end) == (first, last)

    def test_white_space_around_a_gold_adds_no_token(self, words: Tokenizer):
        passages = words.passages([CONTEXT])
        begin = CONTEXT.index("Ada")
        assert gold_tokens(passages, 0, begin - 1, begin + 4) == gold_tokens(passages, 0, begin, begin + 3)

    def test_part_of_a_word_is_its_token(self, words: Tokenizer):
        passages = words.passages([CONTEXT])
        begin = CONTEXT.index("lamp")
        assert gold_tokens(passages, 0, begin + 3, begin + 4)[1] == gold_tokens(passages, 0, begin, begin + 4)[1]

    def test_an_emoji_of_several_tokens_is_one_gold(self, byte_level: Tokenizer):
        context = "I 🦕 it."
        passages = byte_level.passages([context])
        first, last = gold_tokens(passages, 0, 2, 3)
        assert last - first == 3  # four bytes, four tokens
        assert (passages.char_start[first : last + 1] == 2).all()
        assert (passages.char_end[first : last + 1] == 3).all()
        golds = read(byte_level, gold(("🦕", 2)), context=context)
        assert (golds.first.tolist(), golds.last.tolist()) == ([first], [last])

    def test_one_emoji_of_a_family_is_not_the_family(self, byte_level: Tokenizer):
        """Code points, not glyphs: seven of them are one glyph."""
        context = TRICKY_CONTEXTS["emoji"]
        begin = context.index(FAMILY)
        passages = byte_level.passages([context])
        golds = read(byte_level, gold((FAMILY[0], begin), (FAMILY, begin)), context=context)
        assert spelled(golds, passages, context) == [FAMILY[0], FAMILY]

    def test_a_second_passage_starts_at_its_own_first_token(self, words: Tokenizer):
        passages = words.passages(["some words in front", "Ada"])
        assert gold_tokens(passages, 1, 0, 3)[0] == 0


def test_every_window_sees_every_gold_of_its_pair():
    windows = make_windows([30, 4, 20], max_length=14, overlap=2)
    pair = np.array([2, 0, 2])
    none = np.zeros(3, np.int64)
    golds = Golds(pair, none, none, Ragged.of([[0], [1], [2]]), none, {}, [[], [], []])
    views = gold_views(windows, golds)
    expected = [(w, g) for w in range(len(windows)) for g in range(3) if windows.pair[w] == pair[g]]
    assert list(zip(views.window.tolist(), views.gold.tolist(), strict=True)) == expected
    for window in range(len(windows)):
        assert (views.window[views.bounds[window] : views.bounds[window + 1]] == window).all()


def test_no_gold_no_view():
    windows = make_windows([30], max_length=14, overlap=2)
    none = np.zeros(0, np.int64)
    views = gold_views(windows, Golds(none, none, none, Ragged.of([[]]), np.zeros(1, np.int64), {}, [[]]))
    assert len(views.window) == len(views.gold) == 0
    assert views.bounds.tolist() == [0] * (len(windows) + 1)
