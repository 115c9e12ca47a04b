"""SpanReader: answer questions in Python, without Beam, with the same results as annotate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, overload

from model.checkpoint import Location, location_of, read_settings
from model.reading.answers import Answers
from model.reading.columns import answer_columns, answer_options
from model.reading.decoding import Decoding, PairSettings, decide
from model.reading.loading import fit_limits, load_reader, resolve_min_probability
from model.reading.pairs import Pairs, cross_pairs, cut_pairs, tokenize_questions
from model.reading.places import Places
from model.reading.posterior import PassageSpans
from model.reading.prediction import Prediction
from model.reading.question_list import Question, QuestionList, QuestionListError
from model.reading.read_pairs import predict_passages, read_pairs
from model.reading.reader import CheckpointReader, ModelSettings, resolve_device, shared
from model.reading.texts import NotUTF8, is_utf8
from model.reading.tokenizer import Ragged
from model.reading.windows import WindowLimits
from model.settings import SettingError, make, make_all

Texts = list[str] | tuple[str, ...]
Questions = QuestionList | Sequence[str | Question]

CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS = 4096, 65536
"""Default padded tokens per batch."""

_ROWS_AT_ONCE = 2048
"""Rows of a list that are answered together.

Bounds memory, and gives the same batches as annotate with its default --chunk_rows.
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the n best spans. Offsets count code points of the context; `end` is exclusive."""

    text: str
    start: int
    end: int
    probability: float
    start_logit: float
    end_logit: float
    window_index: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question, with the columns that annotate writes.

    status            "answered", "no_answer", "below_threshold" (the probability is below
                      `min_probability`) or "rejected"
    reason, message   why the row was rejected, as a fixed word and in plain text; else None
    answer_text       `context[answer_start:answer_end]`; None, like both offsets, unless the status
                      is "answered"
    probability       posterior of the best span given the passage, in [0, 1]
    span_score        start logit + end logit of the best span
    window_index      index of the context window that the best span is from
    num_windows       number of context windows
    n_best            the best candidates, best first
    null_probability  posterior of no answer; None if the null option is off
    null_score        score of no answer, comparable to `span_score`; None if the null option is off
    question_tokens_cut  number of question tokens beyond `max_question`, which were not read

    all_answers       all distinct spans of at least the probability `all_answers`, in the order of
                      their starts; None without this setting
    sentence_start, sentence_end, sentence_text, page, section, section_path
                      where the answer is, see `model.reading.places.Place`; None unless `locate`
                      asks for them
    windows_read      how many of these windows were read; None if `read_windows` is "all"

    All but status, reason and message are None for a rejected row, `n_best` is empty.
    """

    answer_text: str | None
    answer_start: int | None
    answer_end: int | None
    probability: float | None
    null_probability: float | None
    span_score: float | None
    null_score: float | None
    window_index: int | None
    num_windows: int | None
    status: str
    reason: str | None
    n_best: tuple[Candidate, ...]
    question_tokens_cut: int | None
    message: str | None = None
    all_answers: tuple[Candidate, ...] | None = None
    sentence_start: int | None = None
    sentence_end: int | None = None
    sentence_text: str | None = None
    page: int | None = None
    section: str | None = None
    section_path: list[str] | None = None
    windows_read: int | None = None


@dataclass(frozen=True)
class SpanReader:
    """A checkpoint with all settings that answers depend on, resolved.

    Instances are picklable values; each process loads the network once.

    reader        the network and its tokenizer
    limits        how contexts are cut into windows
    decoding      how answers are decided
    link          "softmax" or "sigmoid": what turns logits into probabilities in the tokenwise loss
    batch_tokens  padded tokens per batch
    places        what answers say about where they are
    """

    reader: CheckpointReader
    limits: WindowLimits
    decoding: Decoding
    link: str
    batch_tokens: int
    places: Places = field(default_factory=Places)

    @property
    def options(self) -> frozenset[str]:
        """Return the `answer_options` of the settings."""
        return answer_options(self.places, self.decoding, self.limits)

    @classmethod
    def load(cls, model: str | Location = "bundled", **settings: Any) -> Self:
        """Load a checkpoint.

        model     a folder, a hub id[@revision], "bundled", or a location such as
                  `transforms.stored_folder.StoredFolder(url)`
        settings  annotate's options of the groups model, windows, answers and places,
                  by name

        Raises CheckpointError or TokenizerError if the checkpoint can't be loaded, SettingError for
        a value outside its limits, TypeError for a name that isn't a setting.
        """
        groups = (ModelSettings, WindowLimits, Decoding, Places)
        runs, limits, decoding, places = make_all(groups, settings)
        reader = load_reader(location_of(model) if isinstance(model, str) else model, runs)
        own = read_settings(reader.folder)
        if decoding.null and reader.tokenizer().format.classifier is None:
            raise SettingError(
                "null=on: the tokenizer puts no classifier token into a pair, so that the model "
                "has no null option"
            )
        # What the caller leaves out comes from the checkpoint's own settings or from the device.
        threshold = decoding.null_score_diff_threshold
        decoding = replace(
            decoding,
            temperature=own.temperature,
            null=own.null if decoding.null is None else decoding.null,
            null_score_diff_threshold=own.null_threshold if threshold is None else threshold,
        )
        prior = own.window_prior if limits.prior is None else limits.prior
        minimum = resolve_min_probability(decoding.min_probability, own, decoding, prior)
        on_cuda = resolve_device(runs.device).type == "cuda"
        return cls(
            reader=reader,
            limits=replace(fit_limits(reader, limits, decoding.max_answer_length), prior=prior),
            decoding=replace(decoding, min_probability=minimum),
            link=own.link,
            batch_tokens=runs.batch_tokens or (CUDA_BATCH_TOKENS if on_cuda else CPU_BATCH_TOKENS),
            places=places,
        )

    @overload
    def answer(self, question: str, context: str, n_best: int | None = None) -> Answer: ...

    @overload
    def answer(
        self, question: Texts, context: str | Texts, n_best: int | None = None
    ) -> list[Answer]: ...

    @overload
    def answer(self, question: str, context: Texts, n_best: int | None = None) -> list[Answer]: ...

    @overload
    def answer(
        self, *, questions: Questions, context: str, n_best: int | None = None
    ) -> list[Answer]: ...

    @overload
    def answer(
        self, *, questions: Questions, context: Texts, n_best: int | None = None
    ) -> list[list[Answer]]: ...

    def answer(
        self,
        question: str | Texts | None = None,
        context: str | Texts | None = None,
        n_best: int | None = None,
        *,
        questions: Questions | None = None,
    ) -> Answer | list[Answer] | list[list[Answer]]:
        """Answer a question from a context, or a list of questions from a list of contexts.

        One text with a list is used for every element of the list. Repeated texts are tokenized
        once. A row that can't be answered (a text is None, blank or too long) gives an Answer of
        status "rejected" with its reason, and does not affect others.

        n_best     how many candidates to return; the reader's own setting (default 5) if None
        questions  in place of `question`: a list that is asked of every context, of texts or of
                   `Question` values, which may have settings of their own; `annotate --questions`
                   in Python

        Returns an Answer for two texts, else a list of Answers; with `questions`, the list of their
        Answers for one context, and a list of such lists for a list of contexts. Raises TypeError
        for an argument that is neither text nor None, ValueError for lists of different lengths,
        QuestionListError for questions that can't be used, SettingError for an n_best outside its
        limits.
        """
        decoding = self.decoding
        if n_best is not None:
            decoding = replace(decoding, n_best=make(Decoding, {"n_best": n_best}).n_best)
        contexts = _texts("context", context)
        if questions is not None:
            if question is not None:
                raise TypeError("give question or questions, not both")
            if not isinstance(questions, QuestionList):
                questions = QuestionList.of(questions)
            answers = self._ask_all(questions, contexts, decoding)
            return answers[0] if isinstance(context, str | None) else answers
        texts = _texts("question", question)
        if isinstance(question, str | None) and isinstance(context, str | None):
            return next(self._answers(texts, contexts, decoding))
        # One text is used for every element of a list.
        if isinstance(question, str | None):
            texts *= len(contexts)
        elif isinstance(context, str | None):
            contexts *= len(texts)
        if len(texts) != len(contexts):
            raise ValueError(f"there are {len(texts)} questions, but {len(contexts)} contexts")
        # Rows in groups, so that a long list needs no more memory than a chunk.
        answered: list[Answer] = []
        for begin in range(0, len(texts), _ROWS_AT_ONCE):
            rows = slice(begin, begin + _ROWS_AT_ONCE)
            answered.extend(self._answers(texts[rows], contexts[rows], decoding))
        return answered

    def tokens_of(self, questions: QuestionList) -> Ragged:
        """Return the tokens of every question, after checking that the reader can ask it.

        Raises QuestionListError for a question without tokens, and for one whose longest answer may
        fit in no window.
        """
        longest, identifier = questions.longest(self.decoding)
        if longest - 1 > self.limits.overlap:
            raise QuestionListError(
                f"question {identifier!r}: max_answer_length={longest}: some answers fit in no "
                f"window, because overlap={self.limits.overlap}: give an overlap of at least "
                f"{longest - 1}"
            )
        return tokenize_questions(questions, shared(self.reader).tokenizer())

    def _ask_all(
        self, questions: QuestionList, contexts: Sequence[Any], decoding: Decoding
    ) -> list[list[Answer]]:
        """Return the answers to all questions by context; contexts as `_texts` returns them."""
        reader, tokens, count = shared(self.reader), self.tokens_of(questions), len(questions)
        answers: list[list[Answer]] = []
        for begin in range(0, len(contexts), questions.rows_at_once):
            some = contexts[begin : begin + questions.rows_at_once]
            pairs = cross_pairs(questions.texts, tokens, some, reader.tokenizer(), self.limits)
            settings = questions.settings(pairs.windows.pair_question, decoding)
            prediction, spans = read_pairs(
                reader, pairs.windows, decoding, self.batch_tokens, settings
            )
            found = list(_answers_of(pairs, prediction, spans, decoding, self.options, settings))
            answers += [found[first : first + count] for first in range(0, len(found), count)]
        return answers

    def _answers(
        self, questions: Sequence[Any], contexts: Sequence[Any], decoding: Decoding
    ) -> Iterator[Answer]:
        """Yield the answer of every row; texts as `_texts` returns them, lists of one length."""
        reader = shared(self.reader)
        pairs = cut_pairs(questions, contexts, reader.tokenizer(), self.limits)
        prediction, spans = predict_passages(reader, pairs.windows, decoding, self.batch_tokens)
        yield from _answers_of(pairs, prediction, spans, decoding, self.options)


def _answers_of(
    pairs: Pairs[Any],
    prediction: Prediction,
    spans: PassageSpans,
    decoding: Decoding,
    options: frozenset[str],
    settings: PairSettings | None = None,
) -> Iterator[Answer]:
    """Yield the answer of every row of `pairs`, with the columns that `options` ask for."""
    thresholds = (settings or decoding).thresholds
    decision = decide(spans, prediction.failures, pairs.windows, pairs.row_pair, thresholds)
    problems = decision.problems | pairs.problems
    # The same columns as annotate's, row by row.
    answers = Answers(
        spans=spans,
        windows=pairs.windows,
        contexts=pairs.contexts,
        questions_cut=pairs.questions_cut,
        no_answer=decision.no_answer,
        below_threshold=decision.below_threshold,
        row_pair=pairs.row_pair,
        reasons=[problems.get(row, (None,))[0] for row in range(len(pairs.row_pair))],
        least=decoding.all_answers,
        options=options,
    )
    for row, values in enumerate(answer_columns(answers).to_pylist()):
        values["n_best"] = values["n_best"] or ()
        for name in ("n_best", "all_answers"):
            if values.get(name) is not None:
                values[name] = tuple(Candidate(**candidate) for candidate in values[name])
        yield Answer(**values, message=problems[row][1] if row in problems else None)


def _texts(name: str, given: Any) -> list[Any]:
    """Return an argument's texts; those that UTF-8 can't encode (lone surrogates) as `NotUTF8`.

    Raises TypeError for anything but text, None or an iterable of both.
    """
    if not isinstance(given, str | Iterable | None) or isinstance(given, bytes | dict):
        raise TypeError(
            f"{name} is {type(given).__name__}, neither text nor a list of texts: {given!r:.80}"
        )
    values = [given] if isinstance(given, str | None) else list(given)
    for row, value in enumerate(values):
        if not isinstance(value, str | None):
            raise TypeError(f"{name} {row} is {type(value).__name__}, not text: {value!r:.80}")
    return [value if is_utf8(value) else NotUTF8() for value in values]
