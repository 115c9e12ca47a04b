"""The best spans of development data at every temperature, and what is fitted on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from model.audit.distributions import Calibration
from model.audit.metrics import grade
from model.command import option
from model.reading.batching import Batch
from model.reading.decoding import DecodeSpans, Decoding
from model.reading.posterior import PassageSpans, merge_windows
from model.reading.prediction import predict
from model.reading.reader import Reader
from model.reading.tokenizer import Tokenizer
from model.reading.window_prior import weigh_windows
from model.reading.windows import default_max_question
from model.training.data import best_texts, make_examples, read_training_rows
from model.training.precision import Given

TEMPERATURES = 2.0 ** (np.arange(-16, 33) / 16)
"""The temperatures to choose from: 1/2 to 4, each 4.4 % above the one before."""

BATCH_TOKENS = 4096
"""Padded tokens per batch."""


class RecordingReader:
    """A reader that caches another one's logits: decoding repeatedly runs the network once."""

    def __init__(self, reader: Reader):
        self.reader = reader
        self.kept: dict[bytes, tuple[torch.Tensor, torch.Tensor]] = {}

    def load(self) -> None:
        """Load the other reader."""
        self.reader.load()

    def tokenizer(self) -> Tokenizer:
        """Return the other reader's tokenizer."""
        return self.reader.tokenizer()

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and end logits, float32 [B, L] each, computed once per distinct batch."""
        key = batch.input_ids.numpy().tobytes() + batch.attention.numpy().tobytes()
        if key not in self.kept:
            self.kept[key] = self.reader.logits(batch)
        return self.kept[key]

    def lanes(self) -> int:
        """Return the other reader's number of lanes."""
        return self.reader.lanes()


@dataclass(frozen=True, slots=True)
class Decoded:
    """The best span of every row of one file, and the alternative of no answer; R rows.

    margin       float64 [R], null_score - span_score; -inf if the null option is off
    exact, f1    float64 [R], exact match and F1 of the best span, in [0, 1]
    null_right   float64 [R], both scores of no answer: 1 for an unanswerable row, else 0
    probability  float64 [temperatures, R], of the best span
    fitted_on    bool [R], whether the row's passage is in the half that is used to fit
    passage      int64 [R], the same for rows of one passage
    """

    margin: np.ndarray
    exact: np.ndarray
    f1: np.ndarray
    null_right: np.ndarray
    probability: np.ndarray
    fitted_on: np.ndarray
    passage: np.ndarray

    def mean_f1(self, threshold: float, half: np.ndarray) -> float:
        """Return F1 in per cent over the rows of `half` (bool [R]), by the rules of SQuAD 2.0.

        A row whose margin is above `threshold` gets no answer.
        """
        return 100 * float(np.where(self.margin > threshold, self.null_right, self.f1)[half].mean())


def decode_file(
    reader: Reader,
    path: str,
    null: bool,
    null_trained: bool,
    max_length: int,
    overlap: int,
    prior: float = 0.0,
) -> Decoded:
    """Run the network once over the rows of a file and decode them at every temperature.

    null                 whether the null option takes part in the probabilities
    null_trained         whether there is a margin to it; else the margin is -inf
    max_length, overlap  of the windows, in tokens
    prior                weight of the window prior at a temperature of 1: it is divided by the
                         temperature, as scores are, so that the best span stays
    """
    rows = read_training_rows(path, given_as="data")
    tokenizer = reader.tokenizer()
    max_question = default_max_question(tokenizer.format)
    with option("overlap", overlap):
        windows = make_examples(rows, tokenizer, max_length, overlap, max_question).windows
    # Temperatures change the decoding only, so one run of the network serves all of them.
    recorded = RecordingReader(reader)

    def decode(temperature: float, null: bool) -> PassageSpans:
        limits = replace(windows.limits, prior=prior / temperature)
        weighed = weigh_windows(replace(windows, limits=limits))
        observer = DecodeSpans(weighed, Decoding(n_best=1, temperature=temperature, null=null))
        predict(recorded, windows, BATCH_TOKENS, [observer])
        return merge_windows(
            observer.result(),
            windows.pair,
            windows.index,
            len(rows),
            n_best=1,
            temperature=temperature,
        )

    spans = decode(1.0, null_trained)
    probability = np.stack(
        [decode(float(temperature), null).probability[:, 0] for temperature in TEMPERATURES]
    )
    contexts = [row["context"] for row in rows]
    texts = best_texts(spans, windows, contexts)
    golds = [row["answers"]["text"] for row in rows]
    scores = np.array(
        [grade(text, gold) if gold else (0.0, 0.0) for text, gold in zip(texts, golds, strict=True)]
    )
    margin = spans.null_score.astype(np.float64) - spans.span_score[:, 0]
    return Decoded(
        margin=np.where(np.isnan(margin), -np.inf, margin),
        exact=scores[:, 0],
        f1=scores[:, 1],
        null_right=np.array([0.0 if gold else 1.0 for gold in golds]),
        probability=probability,
        fitted_on=np.array([is_fitted(context) for context in contexts]),
        passage=np.array([int.from_bytes(_digest(context)[:7]) for context in contexts]),
    )


def fit_threshold(files: list[Decoded], half: list[np.ndarray]) -> float:
    """Return the threshold with the best F1 on files with unanswerable rows; 0 without such files.

    half  per file, bool [R]: the rows to fit on

    Among equally good thresholds the highest is returned, which refuses fewest answers. Also 0 if
    no row has a finite margin, as with the null option off.
    """
    mixed = [(file, rows) for file, rows in zip(files, half, strict=True) if file.null_right.any()]
    if not mixed:
        return 0.0
    # An answer's F1 counts if the row keeps it, and that of no answer if it does not.
    margin, answered, refused = (
        np.concatenate([getattr(file, name)[rows] for file, rows in mixed])
        for name in ("margin", "f1", "null_right")
    )
    finite = np.isfinite(margin)
    if not finite.any():
        return 0.0
    # gains[k] is the change of the F1 sum if all rows with a margin of levels[k] or more get no
    # answer.
    levels, level = np.unique(margin[finite], return_inverse=True)
    gain = np.bincount(level, (refused - answered)[finite])
    gains = np.concatenate([np.cumsum(gain[::-1])[::-1], [0.0]])
    cuts = np.concatenate([levels[:1] - 1, (levels[:-1] + levels[1:]) / 2, levels[-1:] + 1])
    return round(float(cuts[len(gains) - 1 - gains[::-1].argmax()]), 4)


def fit_temperature(probability: np.ndarray, right: np.ndarray) -> int:
    """Return the index of the temperature with the least calibration error.

    probability [temperatures, R], right bool [R].
    """
    return int(np.argmin([calibration_error(p, right) for p in probability]))


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error, computed as in the audit: 15 bins of equal mass."""
    calibration = Calibration()
    calibration.add(probability, right.astype(float))
    return float(calibration.summary()["expected_calibration_error"])


def answers_given(
    files: list[Decoded], half: list[np.ndarray], threshold: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of answers to answerable questions, and whether they are right.

    half       per file, bool [R]: the rows to take
    threshold  rows with a margin above it get no answer; None with the null option off, when files
               with unanswerable rows are left out if there are others

    Returns float64 [temperatures, answers] and bool [answers]. Raises ValueError if there are none.
    """
    given = [rows & (file.null_right == 0) for file, rows in zip(files, half, strict=True)]
    answerable = [not file.null_right.any() for file in files]
    if threshold is not None:
        given = [rows & (file.margin <= threshold) for file, rows in zip(files, given, strict=True)]
    elif any(answerable):
        given = [rows & alone for alone, rows in zip(answerable, given, strict=True)]
    if not any(rows.any() for rows in given):
        raise ValueError("a half of the passages has no answerable question with an answer given")
    probability = [file.probability[:, rows] for file, rows in zip(files, given, strict=True)]
    right = [file.exact[rows] > 0 for file, rows in zip(files, given, strict=True)]
    return np.concatenate(probability, 1), np.concatenate(right)


def all_answers_given(
    files: Sequence[Decoded],
    half: Sequence[np.ndarray],
    threshold: float | None,
    temperature: int,
) -> Given:
    """Return the answers to all questions, answerable or not, at one of the temperatures.

    half, threshold  as for `answers_given`
    """
    limit = np.inf if threshold is None else threshold
    probability = np.concatenate(
        [file.probability[temperature][rows] for file, rows in zip(files, half, strict=True)]
    )
    margin, exact, passage = (
        np.concatenate([getattr(file, name)[rows] for file, rows in zip(files, half, strict=True)])
        for name in ("margin", "exact", "passage")
    )
    given = (margin <= limit) & np.isfinite(probability)
    return Given(probability[given], exact[given] > 0, passage[given], len(given))


def is_fitted(context: str) -> bool:
    """Return whether a passage is in the half that is used to fit."""
    return _digest(context)[0] % 2 == 0


def _digest(context: str) -> bytes:
    return hashlib.sha256(context.encode()).digest()
