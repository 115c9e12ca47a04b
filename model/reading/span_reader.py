"""SpanReader: questions answered in Python, without Beam, as annotate answers them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, overload

from model.checkpoint import CheckpointError, Location, digest, locate, read_settings
from model.reading.columns import NotUTF8, answer_columns, is_utf8
from model.reading.pairs import WindowLimits, cut_pairs
from model.reading.prediction import Decoding, decide, predict
from model.reading.reader import DTYPES, CheckpointReader, resolve_device, resolve_dtype, shared

_log = logging.getLogger("spanmill")

Texts = list[str] | tuple[str, ...]

CUDA_BATCH_TOKENS = 65536
"""Padded tokens per batch on a CUDA device, unless told."""

_ROWS_AT_ONCE = 2048
"""Of a list: bounds memory, and makes the batches those of annotate with its default --chunk_rows."""


class SettingError(ValueError):
    """A setting that can't be used; the message starts with its name and value and tells the limit."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the n best spans; offsets are code points of the context, `end` exclusive."""

    text: str
    start: int
    end: int
    probability: float
    start_logit: float
    end_logit: float
    window_index: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What annotate writes of a row, under the same names; `message` says more of a rejection's `reason`.

    status           "answered", "no_answer" or "rejected"
    answer_text      `context[answer_start:answer_end]`; None, like both offsets, unless the status is "answered"
    probability      share of the best span in the passage's posterior; None, like all below, for a rejected row
    span_score       start logit + end logit
    window_index     the context window in which the span was found, of `num_windows`
    n_best           the best candidates, best first
    null_probability, null_score  the no-answer option on the same scale; None where it is off
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


@dataclass(frozen=True)
class SpanReader:
    """A checkpoint with everything resolved that answers depend on. A picklable value; the network is loaded once a process.

    link          what makes logits probabilities in the tokenwise loss
    batch_tokens  padded tokens per batch
    """

    reader: CheckpointReader
    limits: WindowLimits
    decoding: Decoding
    null_threshold: float
    link: str
    batch_tokens: int

    @classmethod
    def load(
        cls,
        model: str | Location = "bundled",
        *,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool = False,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        overlap: int | None = None,
        max_question: int = 64,
        max_windows: int = 2000,
        max_answer_length: int = 30,
        null: str = "auto",
        null_score_diff_threshold: float | None = None,
    ) -> Self:
        """Loads a checkpoint; the settings are the options of annotate, with the same defaults.

        model  a folder, a hub id[@revision], or "bundled"; a URL as `transforms.stored_folder.StoredFolder(url)`

        Raises CheckpointError and TokenizerError for what can't be loaded, SettingError for a setting out of its limits.
        """
        lowest = {"max_length": 8, "overlap": 0}
        whole = {"batch_tokens": batch_tokens, "max_length": max_length, "overlap": overlap, "max_question": max_question}
        for name, value in {**whole, "max_windows": max_windows, "max_answer_length": max_answer_length}.items():
            if value is not None:
                _check_whole(name, value, lowest.get(name, 1))
        if null not in ("auto", "on", "off"):
            raise SettingError(f"null={null}: must be auto, on or off")
        if dtype not in ("auto", *DTYPES):
            raise SettingError(f"dtype={dtype}: must be auto, {', '.join(DTYPES)}")
        reader = _reader(locate(model) if isinstance(model, str) else model, device, dtype, compile)
        settings = read_settings(reader.folder)
        if null == "on" and reader.tokenizer().format.classifier is None:
            raise SettingError("null=on: the tokenizer puts no classifier token into a pair, the model has no null option")
        threshold = settings.null_threshold if null_score_diff_threshold is None else null_score_diff_threshold
        if not math.isfinite(threshold):
            raise SettingError(f"null_score_diff_threshold={threshold}: must be a finite number")
        on_cuda = resolve_device(device).type == "cuda"
        return cls(
            reader=reader,
            limits=_limits(reader, max_length, overlap, max_question, max_windows, max_answer_length),
            decoding=Decoding(
                max_answer_length=max_answer_length,
                temperature=settings.temperature,
                null=null == "on" or (null == "auto" and settings.null),
            ),
            null_threshold=threshold,
            link=settings.link,
            batch_tokens=batch_tokens or (CUDA_BATCH_TOKENS if on_cuda else 4096),
        )

    @overload
    def answer(self, question: str, context: str, n_best: int = 5) -> Answer: ...

    @overload
    def answer(self, question: Texts, context: str | Texts, n_best: int = 5) -> list[Answer]: ...

    @overload
    def answer(self, question: str, context: Texts, n_best: int = 5) -> list[Answer]: ...

    def answer(self, question: str | Texts, context: str | Texts, n_best: int = 5) -> Answer | list[Answer]:
        """Answers a question from a context, or a list of questions from as many contexts, or either list with one text.

        What can't be answered is an Answer of status "rejected" with its reason, and spoils no other; texts that stand in
        a list more than once are tokenized once. Raises TypeError for what is neither text nor None, ValueError for
        lists of different lengths, SettingError for an n_best below 1.
        """
        _check_whole("n_best", n_best, 1)
        questions, contexts = _texts("question", question), _texts("context", context)
        if isinstance(question, str | None) and isinstance(context, str | None):
            return next(self._answers(questions, contexts, n_best))
        if isinstance(question, str | None):
            questions *= len(contexts)
        elif isinstance(context, str | None):
            contexts *= len(questions)
        if len(questions) != len(contexts):
            raise ValueError(f"there are {len(questions)} questions, but {len(contexts)} contexts")
        groups = [slice(begin, begin + _ROWS_AT_ONCE) for begin in range(0, len(questions), _ROWS_AT_ONCE)]
        return [answer for rows in groups for answer in self._answers(questions[rows], contexts[rows], n_best)]

    def _answers(self, questions: Sequence[Any], contexts: Sequence[Any], n_best: int) -> Iterator[Answer]:
        reader, decoding = shared(self.reader), replace(self.decoding, n_best=n_best)
        pairs = cut_pairs(questions, contexts, reader.tokenizer(), self.limits)
        prediction = predict(reader, pairs.windows, decoding, self.batch_tokens)
        decision = decide(prediction, pairs.windows, pairs.row_pair, decoding, self.null_threshold)
        problems = decision.problems | pairs.problems
        reasons = [problems[row][0] if row in problems else None for row in range(len(questions))]
        columns = answer_columns(
            decision.spans,
            pairs.windows,
            pairs.contexts,
            pairs.row_pair,
            reasons,
            pairs.questions_cut,
            decision.no_answer,
        )
        for row, values in enumerate(columns.to_pylist()):
            n_best_found = tuple(Candidate(**candidate) for candidate in values.pop("n_best") or ())
            yield Answer(**values, n_best=n_best_found, message=problems[row][1] if row in problems else None)


def _texts(name: str, given: Any) -> list[Any]:
    """The texts of an argument; what can't be encoded as UTF-8 (a lone surrogate) is `NotUTF8`, as in a column."""
    if not isinstance(given, str | Iterable | None) or isinstance(given, bytes | dict):
        raise TypeError(f"{name} is {type(given).__name__}, neither text nor a list of texts: {given!r:.80}")
    values = [given] if isinstance(given, str | None) else list(given)
    for place, value in enumerate(values):
        if not isinstance(value, str | None):
            raise TypeError(f"{name} {place} is {type(value).__name__}, not text: {value!r:.80}")
    return [value if is_utf8(value) else NotUTF8() for value in values]


def _check_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingError(f"{name}={value}: must be a whole number from {least}")


def _reader(location: Location, device: str, dtype: str, compile: bool) -> CheckpointReader:
    """The reader of a location, its network loaded once to see that it can be. Raises CheckpointError or SettingError."""
    folder = location.folder()
    found = digest(folder)
    try:
        chosen = resolve_dtype(dtype, device)
        resolve_device(device)
    except (ValueError, RuntimeError) as error:
        raise SettingError(f"device={device}: {error}") from error
    reader = shared(CheckpointReader(location.pinned(folder, found), found, device, chosen, compile))
    try:
        reader.load()
    except CheckpointError as error:  # some networks can't in half precision, whatever the device can
        if dtype != "auto" or chosen == "float32":
            raise
        _log.info("dtype auto: %s; trying float32", error)
        reader = shared(replace(reader, dtype="float32"))
        reader.load()
    tokenizer = reader.tokenizer()
    if None not in (tokenizer.padding, reader.padding()) and tokenizer.padding != reader.padding():
        raise CheckpointError(
            f"{folder}: its tokenizer pads with token {tokenizer.padding}, but the config of the network says pad_token_id "
            f"{reader.padding()}: they do not match"
        )
    return reader


def _limits(
    reader: CheckpointReader,
    max_length: int | None,
    overlap: int | None,
    max_question: int,
    max_windows: int,
    max_answer_length: int,
) -> WindowLimits:
    """Window sizes that the model can take and that give every admissible answer a window. Raises SettingError."""
    tokenizer = reader.tokenizer()
    capacity = min(tokenizer.max_length, reader.positions() or tokenizer.max_length)
    length = max_length or min(384, capacity)
    if length > capacity:
        raise SettingError(f"max_length={length}: the model takes at most {capacity} tokens")
    least = max_answer_length - 1
    special = tokenizer.format.special_tokens
    room = length - max_question - special
    if room <= least and (overlap is None or overlap >= least):
        wanted = max_question + special + max_answer_length
        longer = f"a max_length of {wanted} or more, or " if wanted <= capacity else ""
        raise SettingError(
            f"max_length={length}: max_question={max_question} and {special} special tokens leave {max(room, 0)} tokens for "
            f"the context, so that overlap must be below {max(room, 0)}, but at least max_answer_length - 1 = {least}: give "
            f"{longer}a lower max_question or max_answer_length"
        )
    shared_tokens = max(least, min(128, length // 3, room - 1)) if overlap is None else overlap
    if shared_tokens < least:
        raise SettingError(
            f"overlap={shared_tokens}: must be at least max_answer_length - 1 = {least}, or some answers fit in no window"
        )
    if room <= shared_tokens:
        raise SettingError(
            f"overlap={shared_tokens}: must be below {max(room, 0)}, the context tokens that fit beside a question in "
            f"max_length={length} less max_question={max_question} less {special} special tokens"
        )
    return WindowLimits(length, shared_tokens, max_question, max_windows)
