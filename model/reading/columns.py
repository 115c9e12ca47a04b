"""The output columns of annotate: decoded answers as Arrow columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

import numpy as np
import pyarrow as pa

from model.columns import Column, schema_of, table_of
from model.reading.spans import PassageSpans
from model.reading.tokenizer import consecutive
from model.reading.windows import TokenizedPairs

N_BEST_TYPE = pa.list_(
    pa.struct(
        [
            pa.field("text", pa.string()),
            pa.field("start", pa.int32()),
            pa.field("end", pa.int32()),
            pa.field("probability", pa.float32()),
            pa.field("start_logit", pa.float32()),
            pa.field("end_logit", pa.float32()),
            pa.field("window_index", pa.int32()),
        ]
    )
)


@dataclass(frozen=True)
class Answers:
    """What the model says to the rows of a chunk.

    contexts       in the order of the passages of `windows`
    questions_cut  int64 [pairs], question tokens beyond `max_question`
    no_answer, below_threshold
                   bool [pairs], see `model.reading.decoding.Decision`
    row_pair       int64 [rows], the pair that each row asks; -1 for a row with an unusable text,
                   and for some with too many windows (`reasons` has all)
    reasons        [rows], None unless the row is rejected
    """

    spans: PassageSpans
    windows: TokenizedPairs
    contexts: Sequence[str]
    questions_cut: np.ndarray
    no_answer: np.ndarray
    below_threshold: np.ndarray
    row_pair: np.ndarray
    reasons: Sequence[str | None]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.row_pair)

    @cached_property
    def rejected(self) -> np.ndarray:
        """Return which rows were rejected, bool [rows]."""
        return np.array([reason is not None for reason in self.reasons], bool)

    @cached_property
    def pair(self) -> np.ndarray:
        """Return the pair that each row asks, int64 [rows]; an arbitrary one for rejected rows."""
        return np.where(self.rejected, 0, self.row_pair)

    @cached_property
    def hidden(self) -> np.ndarray:
        """Return which rows show no answer, bool [rows]."""
        return self.rejected | (self.no_answer | self.below_threshold)[self.pair]

    @cached_property
    def candidates(self) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
        """Return `candidate_columns` of the pairs."""
        return candidate_columns(self.spans, self.windows, self.contexts)

    @property
    def best_texts(self) -> list[str]:
        """Return the text of each row's best candidate."""
        texts = self.candidates[2]
        return [(texts[pair] or [""])[0] for pair in self.pair.tolist()]

    @property
    def statuses(self) -> list[str]:
        """Return the status of each row."""
        if not len(self.windows.pair_passage):
            return ["rejected"] * len(self)
        cases = {
            "rejected": self.rejected,
            "no_answer": self.no_answer[self.pair],
            "below_threshold": self.below_threshold[self.pair],
        }
        return np.select(list(cases.values()), list(cases), default="answered").tolist()

    @property
    def n_best(self) -> pa.Array:
        """Return the candidates of each row; null for a rejected row."""
        spans, (char_start, char_end, texts) = self.spans, self.candidates
        counts = np.where(self.rejected, 0, spans.found[self.pair])
        row = np.repeat(np.arange(len(self)), counts)
        at = self.pair[row], consecutive(0, counts)
        kept: list[str] = []
        for pair, count in zip(self.pair.tolist(), counts.tolist(), strict=True):
            kept.extend(texts[pair][:count])
        values = {
            "text": kept,
            "start": char_start[at],
            "end": char_end[at],
            "probability": spans.probability[at].astype(np.float32),
            "start_logit": spans.start_logit[at],
            "end_logit": spans.end_logit[at],
            "window_index": spans.window_index[at],
        }
        fields = list(N_BEST_TYPE.value_type)
        arrays = [pa.array(values[field.name], field.type) for field in fields]
        items = pa.StructArray.from_arrays(arrays, fields=fields)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        mask = pa.array(self.rejected)
        return pa.ListArray.from_arrays(offsets, items, type=N_BEST_TYPE, mask=mask)


HIDDEN = attrgetter("hidden")

OFFSETS = "its offsets in the context, in code points, `end` exclusive"

ANSWER_COLUMNS: tuple[Column[Answers], ...] = (
    Column(
        "answer_text",
        pa.string(),
        "`context[answer_start:answer_end]`; null, like both offsets, unless `answered`",
        lambda answers: answers.best_texts,
        null=HIDDEN,
    ),
    Column(
        "answer_start",
        pa.int32(),
        OFFSETS,
        lambda answers: answers.candidates[0][answers.pair, 0],
        null=HIDDEN,
        exact=True,
    ),
    Column(
        "answer_end",
        pa.int32(),
        OFFSETS,
        lambda answers: answers.candidates[1][answers.pair, 0],
        null=HIDDEN,
        exact=True,
    ),
    Column(
        "probability",
        pa.float32(),
        "the best span's share of the passage's posterior",
        lambda answers: answers.spans.probability[answers.pair, 0],
    ),
    Column(
        "null_probability",
        pa.float32(),
        "the share of no answer; null where the null option is off",
        lambda answers: answers.spans.null_probability[answers.pair],
    ),
    Column(
        "span_score",
        pa.float32(),
        "the best span's start logit + end logit",
        lambda answers: answers.spans.span_score[answers.pair, 0],
    ),
    Column(
        "null_score",
        pa.float32(),
        "the score of no answer, on the same scale; null where the null option is off",
        lambda answers: answers.spans.null_score[answers.pair],
    ),
    Column(
        "window_index",
        pa.int32(),
        "the context window in which the best span was found, from 0",
        lambda answers: answers.spans.window_index[answers.pair, 0],
        exact=True,
    ),
    Column(
        "num_windows",
        pa.int32(),
        "the number of context windows",
        lambda answers: answers.windows.counts[answers.pair],
        exact=True,
    ),
    Column(
        "status",
        pa.string(),
        "`answered`, `no_answer`, `below_threshold` (of `--min_probability`), `rejected`",
        lambda answers: answers.statuses,
        null=None,
        exact=True,
    ),
    Column(
        "reason",
        pa.string(),
        "why a row was rejected",
        lambda answers: list(answers.reasons),
        null=None,
        exact=True,
    ),
    Column(
        "n_best",
        N_BEST_TYPE,
        "the candidates, best first: `{}`".format(
            ", ".join(field.name for field in N_BEST_TYPE.value_type)
        ),
        lambda answers: answers.n_best,
    ),
    Column(
        "question_tokens_cut",
        pa.int32(),
        "question tokens beyond `--max_question`",
        lambda answers: answers.questions_cut[answers.pair],
        exact=True,
    ),
)
"""The output columns of annotate, in order."""

ANSWER_SCHEMA = schema_of(ANSWER_COLUMNS)


def answer_columns(answers: Answers) -> pa.Table:
    """Return the output columns of annotate, one row per input row."""
    return table_of(ANSWER_COLUMNS, answers, asked=len(answers.windows.pair_passage) > 0)


def candidate_columns(
    spans: PassageSpans, windows: TokenizedPairs, contexts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
    """Return where each candidate begins and ends in its context, and the texts of those found.

    Both offsets are int32 [pairs, n_best], in code points.
    """
    base = windows.passages.bounds[windows.pair_passage][:, None]
    last = max(0, len(windows.passages.ids) - 1)
    start = np.zeros(spans.start.shape, np.int32)
    end = np.zeros(spans.end.shape, np.int32)
    if len(windows.passages.ids):
        start = windows.passages.char_start[np.minimum(base + spans.start, last)]
        end = windows.passages.char_end[np.minimum(base + spans.end, last)]
    texts = []
    for pair, passage in enumerate(windows.pair_passage):
        context, found = contexts[passage], spans.found[pair]
        bounds = zip(start[pair, :found].tolist(), end[pair, :found].tolist(), strict=True)
        texts.append([context[begin:stop] for begin, stop in bounds])
    return start, end, texts
