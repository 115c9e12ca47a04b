"""The output columns of annotate: decoded answers as Arrow columns."""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter

import pyarrow as pa

from model.columns import Column, schema_of, table_of
from model.reading.answers import N_BEST_TYPE, Answers
from model.reading.decoding import Decoding
from model.reading.places import Places
from model.reading.windows import WindowLimits

HIDDEN = attrgetter("hidden")

OFFSETS = "its offsets in the context, in code points, `end` exclusive"

IN_SENTENCES = "offsets of the sentences that the answer touches, without white space around them"

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
        lambda answers: answers.offsets[0][answers.pair, 0],
        null=HIDDEN,
        exact=True,
    ),
    Column(
        "answer_end",
        pa.int32(),
        OFFSETS,
        lambda answers: answers.offsets[1][answers.pair, 0],
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
    Column(
        "all_answers",
        N_BEST_TYPE,
        "the distinct spans of at least this probability, in the order of their starts, as `n_best`"
        " has them, whatever the status",
        lambda answers: answers.all_answers,
        option="--all_answers",
    ),
    Column(
        "sentence_start",
        pa.int32(),
        IN_SENTENCES,
        lambda answers: [each and each[0] for each in answers.sentences],
        null=HIDDEN,
        exact=True,
        option="--locate sentence",
    ),
    Column(
        "sentence_end",
        pa.int32(),
        IN_SENTENCES,
        lambda answers: [each and each[1] for each in answers.sentences],
        null=HIDDEN,
        exact=True,
        option="--locate sentence",
    ),
    Column(
        "sentence_text",
        pa.string(),
        "`context[sentence_start:sentence_end]`",
        lambda answers: [each and each[2] for each in answers.sentences],
        null=HIDDEN,
        option="--locate sentence",
    ),
    Column(
        "page",
        pa.int32(),
        "the page on which the answer begins, from 1; pages end with a form feed, or begin where "
        "`--page_column` says",
        lambda answers: answers.pages,
        null=HIDDEN,
        exact=True,
        option="--locate page",
    ),
    Column(
        "section",
        pa.string(),
        "the last Markdown heading, or title of `--section_column`, before the answer; null before "
        "the first",
        lambda answers: [path[-1] if path else None for path in answers.section_paths],
        null=HIDDEN,
        option="--locate section",
    ),
    Column(
        "section_path",
        pa.list_(pa.string()),
        "the headings above the answer, from the outermost to `section`",
        lambda answers: answers.section_paths,
        null=HIDDEN,
        option="--locate section",
    ),
    Column(
        "windows_read",
        pa.int32(),
        "how many of `num_windows` were read; `probability` and `null_probability` are shares among"
        " these",
        lambda answers: answers.windows.counts_read[answers.pair],
        exact=True,
        option="--read_windows",
    ),
)
"""The output columns of annotate, in order; those with an `option` come last."""


def answer_options(places: Places, decoding: Decoding, limits: WindowLimits) -> frozenset[str]:
    """Return which of the options that columns need are given (`Column.option`)."""
    given = {f"--locate {name}" for name in places.locate}
    if decoding.all_answers is not None:
        given.add("--all_answers")
    if limits.read_windows != "all":
        given.add("--read_windows")
    return frozenset(given)


def columns_for(options: Collection[str]) -> tuple[Column[Answers], ...]:
    """Return the output columns of a run, given the `answer_options` of its settings."""
    return tuple(each for each in ANSWER_COLUMNS if not each.option or each.option in options)


ANSWER_SCHEMA = schema_of(columns_for(()))
"""The columns that every run has."""


def answer_columns(answers: Answers) -> pa.Table:
    """Return the output columns of annotate, one row per input row."""
    columns = columns_for(answers.options)
    return table_of(columns, answers, asked=len(answers.windows.pair_passage) > 0)
