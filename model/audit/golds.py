"""Gold answers: read from the `answers` column, checked against the context, turned into tokens."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from model.reading.texts import NotUTF8
from model.reading.tokenizer import Passages, Ragged, consecutive
from model.reading.windows import Windows


@dataclass(frozen=True, slots=True)
class Golds:
    """The gold answers of a chunk's rows, as token spans of their passages.

    pair, first, last  int64 [golds]: distinct spans of each pair, `last` inclusive
    of_row             Ragged [rows]: which golds each row has, distinct, in the order of its
                       answers
    dropped            int64 [rows]: golds that were left out (misaligned, out of range, ...)
    problems           row -> (reason, message) of rows whose golds are all unusable
    texts              [rows]: the texts of the golds that were not dropped; [] for an unanswerable
                       question
    char_spans         [rows]: the distinct [start, end) of these texts in the context, sorted,
                       without blanks at their ends
    near               number of misaligned golds by what `differs_only_in` says of them
    """

    pair: np.ndarray
    first: np.ndarray
    last: np.ndarray
    of_row: Ragged
    dropped: np.ndarray
    problems: Mapping[int, tuple[str, str]]
    texts: list[list[str]]
    char_spans: list[list[tuple[int, int]]]
    near: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pair)


def gold_tokens(
    passages: Passages, passage: np.ndarray, char_start: np.ndarray, char_end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last token (inclusive) of gold answers, -1 for one without tokens.

    All arrays are integers [golds]. A token belongs to a gold if its range, without blanks at its
    ends, meets [char_start, char_end), in code points, or if it shares characters with such a
    token: a gold starts and ends where spans may.
    """
    if not len(passages.ids):
        return np.full(len(passage), -1), np.full(len(passage), -1)
    # Bring the tokens of all passages into one ascending order, so that one search finds the tokens
    # of all golds. Tokens without characters are neither the first nor the last of any gold.
    low, origin = passages.bounds[passage], passage.astype(np.int64)
    char_start, char_end = np.maximum(char_start, 0), np.maximum(char_end, 0)
    apart = int(max(passages.char_end.max(), char_end.max(initial=0))) + 2
    base = np.repeat(np.arange(len(passages)) * apart, passages.lengths)
    held = passages.char_end > passages.char_start
    ends = np.maximum.accumulate(base + np.where(held, passages.char_end, 0))
    starts = _following(base + np.where(held, passages.char_start, apart - 1))
    first = np.searchsorted(ends, origin * apart + char_start, side="right")
    last = np.searchsorted(starts, origin * apart + char_end) - 1
    met = first <= last

    # Widen to where spans may start and end.
    index = np.arange(len(held))
    group_start = np.maximum.accumulate(np.where(passages.can_start, index, 0))
    group_end = _following(np.where(passages.can_end, index, len(index)))
    return np.where(met, group_start[first * met] - low, -1), np.where(
        met, group_end[last * met] - low, -1
    )


def _following(values: np.ndarray) -> np.ndarray:
    """Return, for each value, the least of it and all after it."""
    return np.minimum.accumulate(values[::-1])[::-1]


def golds_of(value: Any) -> Any:
    """Return the golds of one row as `{"text": [...], "answer_start": [...]}`, from either shape.

    value  a list of `{"text": ..., "answer_start": ...}`, whose null items get a null text and a
           null start; anything else is returned unchanged
    """
    if not isinstance(value, list):
        return value
    return {name: [item and item[name] for item in value] for name in ("text", "answer_start")}


GoldPlace = tuple[int, int, int]
"""Where a gold is: its pair, its start and its end in the context, in code points."""

GoldProblem = tuple[str, str]
"""Why a gold or the golds of a row can't be used: reason and message."""


def read_golds(
    answers: Sequence[Any], contexts: Sequence[str], row_pair: np.ndarray, windows: Windows
) -> Golds:
    """Check the golds of every row against its context and find their tokens.

    answers   [rows], in either shape that `golds_of` takes, as Arrow gives it; empty lists for an
              unanswerable question
    contexts  the distinct contexts, in the order of the passages
    row_pair  int64 [rows], the pair that each row asks; -1 for none

    Reasons of `problems` are answers_not_utf8, answers_missing, answers_with_nulls and
    answers_unequal (texts and starts), and, if all golds of a row are unusable, the reason of the
    first: gold_blank, gold_out_of_range, gold_misaligned or gold_without_tokens. A gold is
    misaligned if context[start:start + len(text)] != text. It is never searched for elsewhere.
    """
    checked = _check_golds(answers, contexts, row_pair, windows)
    problems = checked.problems

    # Find the tokens of all places at once. Places with the same tokens are one gold.
    characters = list(checked.places)
    pairs, begin, end = np.array(characters, np.int64).reshape(-1, 3).T
    first, last = gold_tokens(windows.passages, windows.pair_passage[pairs], begin, end)
    tokens = list(zip(pairs.tolist(), first.tolist(), last.tolist(), strict=True))
    spans: dict[tuple[int, int, int], int] = {}
    rows = [_usable(golds, characters, tokens, spans) for golds in checked.given]
    for row, (_, kept, _, unusable) in enumerate(rows):
        if unusable and not kept:
            problems[row] = unusable[0]
    columns = np.array(list(spans), np.int64).reshape(-1, 3)
    return Golds(
        pair=columns[:, 0],
        first=columns[:, 1],
        last=columns[:, 2],
        of_row=Ragged.of([found for found, _, _, _ in rows]),
        dropped=np.array([len(unusable) for _, _, _, unusable in rows], np.int64),
        problems=problems,
        texts=[kept for _, kept, _, _ in rows],
        char_spans=[trimmed for _, _, trimmed, _ in rows],
        near=checked.near,
    )


@dataclass(slots=True)
class _Checked:
    """The golds of rows, checked against their contexts.

    given     [rows], the texts of each row's golds with their place in `places`, or their problem
    places    every place of a gold -> its position among them
    problems  row -> why its golds can't be read at all
    near      as in `Golds`
    """

    given: list[list[tuple[str, int | GoldProblem]]] = field(default_factory=list)
    places: dict[GoldPlace, int] = field(default_factory=dict)
    problems: dict[int, GoldProblem] = field(default_factory=dict)
    near: Counter[str] = field(default_factory=Counter)


def _check_golds(
    answers: Sequence[Any], contexts: Sequence[str], row_pair: np.ndarray, windows: Windows
) -> _Checked:
    """Check each gold against its context. Arguments as in `read_golds`."""
    checked = _Checked()
    for row, answer in enumerate(map(golds_of, answers)):
        golds: list[tuple[str, int | GoldProblem]] = []
        checked.given.append(golds)
        pair = int(row_pair[row])
        if pair < 0:
            continue
        malformed = _malformed(answer)
        if malformed:
            checked.problems[row] = malformed
            continue
        context = contexts[windows.pair_passage[pair]]
        for text, start in zip(answer["text"], answer["answer_start"], strict=True):
            problem = gold_problem(context, text, start)
            if problem:
                checked.near[differs_only_in(context, text, start)] += 1
                golds.append((text, problem))
            else:
                # Rows that share a pair share the places of golds.
                place = pair, start, start + len(text)
                golds.append((text, checked.places.setdefault(place, len(checked.places))))
    del checked.near[""]
    return checked


def _usable(
    golds: list[tuple[str, int | GoldProblem]],
    characters: list[GoldPlace],
    tokens: list[tuple[int, int, int]],
    spans: dict[tuple[int, int, int], int],
) -> tuple[list[int], list[str], list[tuple[int, int]], list[GoldProblem]]:
    """Return what one row's golds are: indices in `spans`, texts, trimmed places, and problems.

    golds       texts with their indices in `characters` and `tokens`, or with problems
    characters  every place
    tokens      pair, first and last token of every place
    spans       distinct tokens -> index, in the order of their first use; those of the row are
                added
    """
    found: dict[int, None] = {}  # each once: annotators who agree give the same gold
    kept: list[str] = []
    trimmed: set[tuple[int, int]] = set()
    unusable: list[GoldProblem] = []
    for text, place in golds:
        if isinstance(place, tuple):
            unusable.append(place)
        elif tokens[place][1] < 0:
            unusable.append(("gold_without_tokens", f"gold {text[:80]!r} has no token"))
        else:
            found.setdefault(spans.setdefault(tokens[place], len(spans)))
            kept.append(text)
            start = characters[place][1] + len(text) - len(text.lstrip())
            trimmed.add((start, start + len(text.strip())))
    return list(found), kept, sorted(trimmed), unusable


def _malformed(answer: Any) -> GoldProblem | None:
    """Return why the golds of a row can't be read at all, or None."""
    if isinstance(answer, NotUTF8):
        return "answers_not_utf8", "a text among the answers is not UTF-8"
    if answer is None or answer["text"] is None or answer["answer_start"] is None:
        return "answers_missing", "the answers are null (an unanswerable question has empty lists)"
    if None in answer["text"] or None in answer["answer_start"]:
        return "answers_with_nulls", "a text or a start among the answers is null"
    texts, starts = len(answer["text"]), len(answer["answer_start"])
    if texts != starts:
        return "answers_unequal", f"the answers have {texts} texts and {starts} starts"
    return None


def gold_problem(context: str, text: str, start: int) -> GoldProblem | None:
    """Return why a gold can't be used, or None.

    Reasons are gold_blank, gold_out_of_range and gold_misaligned; they need no tokens.
    """
    if not text or text.isspace():
        advice = "an unanswerable question has empty lists, and a loss with --null on"
        return "gold_blank", f"a gold answer is blank ({advice})"
    if start < 0 or start + len(text) > len(context):
        return (
            "gold_out_of_range",
            f"gold at [{start}, {start + len(text)}) of a context of {len(context)} characters",
        )
    found = context[start : start + len(text)]
    if found != text:
        only = differs_only_in(context, text, start)
        message = f"gold {text[:80]!r}, but the text at its start is {found[:80]!r}"
        return "gold_misaligned", message + (f": they differ only in {only}" if only else "")
    return None


_SAME_BUT: dict[str, Callable[[str], str]] = {
    "case": str.casefold,
    "blanks": lambda text: re.sub(r"\s+", " ", text),
    "Unicode normal form": partial(unicodedata.normalize, "NFKC"),
}
_ANY = "case, blanks and Unicode normal form"


def differs_only_in(context: str, text: str, start: int) -> str:
    """Return the one thing in which a gold differs from the text at its start.

    This is a key of _SAME_BUT, _ANY, or "" if they differ in more or in nothing, or the start is
    outside the context. Blanks before and after the gold count as blanks.
    """
    if not (text.strip() and 0 <= start < len(context)) or context.startswith(text, start):
        return ""
    there = context[start : start + 2 * len(text) + 16]  # other cases and forms have other lengths

    def all_of(text: str) -> str:
        for change in _SAME_BUT.values():
            text = change(text)
        return text

    for name, change in {**_SAME_BUT, _ANY: all_of}.items():
        gold = text.strip() if name in ("blanks", _ANY) else text
        if change(there).startswith(change(gold)):
            return name
    return ""


def locate_gold(context: str, text: str) -> tuple[int | None, str]:
    """Return the start of a gold that comes without one, or None, and a reason.

    gold_located      the context has it once as a word or words of its own
    gold_ambiguous    more than once
    gold_inside_word  only inside longer words or numbers, like "ten" in "often"
    gold_absent       nowhere, or the gold is blank
    """
    whole, inside = None, False
    start = context.find(text) if text.strip() else -1
    while start >= 0:
        if _inside_word(context, start, start + len(text)):
            inside = True
        elif whole is not None:
            return None, "gold_ambiguous"
        else:
            whole = start
        start = context.find(text, start + 1)
    if whole is not None:
        return whole, "gold_located"
    return None, "gold_inside_word" if inside else "gold_absent"


_NO_BLANKS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f"
    "\u2e80-\ua4cf\ua960-\ua9ff\uaa60-\uaa7f\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc"
    "\U0001b000-\U0001b2ff\U00020000-\U0003ffff]"
)
"""Letters of scripts without blanks between words (Thai, Lao, Tibetan, Burmese, Khmer, Chinese,
Japanese, ...), or with endings and particles attached to them (Korean)."""
_INSIDE_NUMBER = re.compile(r"\d[.,]\d")


def _inside_word(context: str, start: int, end: int) -> bool:
    """Return whether a span starts or ends within a word, a number or a composed character."""
    for at in (start, end):
        before, after = context[at - 1 : at], context[at : at + 1]
        if not before or not after:
            continue
        if after in "\u200d" or before == "\u200d" or unicodedata.category(after).startswith("M"):
            return True
        joined = all(
            (each.isalnum() or each == "_") and not _NO_BLANKS.match(each)
            for each in (before, after)
        )
        if joined or any(_INSIDE_NUMBER.match(context, max(at - back, 0)) for back in (1, 2)):
            return True
    return False


@dataclass(frozen=True, slots=True)
class GoldViews:
    """Every gold as seen from every window of its pair; V views, sorted by window.

    window, gold  int64 [V]
    bounds        int64 [windows + 1]: the views of window w are bounds[w] to bounds[w + 1]
    """

    window: np.ndarray
    gold: np.ndarray
    bounds: np.ndarray


def gold_views(windows: Windows, golds: Golds) -> GoldViews:
    """Pair every window with the golds of its pair."""
    order = np.argsort(golds.pair, kind="stable")
    per_pair = np.bincount(golds.pair, minlength=len(windows.pair_passage))
    first_of_pair = np.cumsum(per_pair) - per_pair
    per_window = per_pair[windows.pair]
    bounds = np.concatenate([[0], np.cumsum(per_window)]).astype(np.int64)
    window = np.repeat(np.arange(len(windows)), per_window)
    return GoldViews(window, order[consecutive(first_of_pair[windows.pair], per_window)], bounds)
