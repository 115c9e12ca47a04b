"""Fit a checkpoint's temperature, null threshold and window prior on development data.

    python -m model.calibrate --model DIR --data a.parquet,b.parquet

One half of the passages is used to fit, the other half only to measure. The temperature is the one
with the least calibration error (Guo et al. 2017, arXiv:1706.04599): the difference between the
probabilities of answers to answerable questions and the share of them that is exactly right. With
the null option off it is fitted on files without unanswerable rows, if there are any. The threshold
is the one with the best F1, by the rules of SQuAD 2.0, on files with unanswerable rows. Both are
written to `spanmill` in the folder's config.json. `--precision 0.9` adds the threshold on the
probability that `--min_probability precision:0.9` uses. `--joined_passages 40` fits the weight of
the window prior by F1, on passages that are joined to long documents within each half.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.audit.distributions import Calibration
from model.audit.metrics import grade
from model.checkpoint import LocalFolder, Settings, read_config, read_settings
from model.command import argument, option, run_command
from model.reading.batching import Batch
from model.reading.decoding import DecodeSpans, Decoding
from model.reading.prediction import predict
from model.reading.reader import CheckpointReader, Reader, resolve_dtype
from model.reading.spans import PassageSpans, merge_windows
from model.reading.tokenizer import Tokenizer
from model.reading.window_prior import weigh_windows
from model.settings import SettingError, fractions, whole
from model.training.data import best_texts, make_examples, read_rows
from model.training.precision import Given, fit_precisions
from model.training.prior import fit_weight, read_joined

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
    rows = read_rows(path, given_as="data")
    tokenizer = reader.tokenizer()
    max_question = tokenizer.format.most_question or 64
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
    texts = best_texts(spans, windows, [row["context"] for row in rows])
    golds = [row["answers"]["text"] for row in rows]
    scores = np.array(
        [grade(text, gold) if gold else (0.0, 0.0) for text, gold in zip(texts, golds, strict=True)]
    )
    margin = spans.null_score.astype(np.float64) - spans.span_score[:, 0]
    hashes = [hashlib.sha256(row["context"].encode()).digest() for row in rows]
    return Decoded(
        margin=np.where(np.isnan(margin), -np.inf, margin),
        exact=scores[:, 0],
        f1=scores[:, 1],
        null_right=np.array([0.0 if gold else 1.0 for gold in golds]),
        probability=probability,
        fitted_on=np.array([digest[0] % 2 == 0 for digest in hashes]),
        passage=np.array([int.from_bytes(digest[:7]) for digest in hashes]),
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
    files: list[Decoded], half: list[np.ndarray], threshold: float | None, temperature: int
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """The precisions that get a threshold, and the files whose questions it is for.

    files  some of the development data; () for all of it
    """

    precisions: tuple[float, ...] = ()
    files: tuple[str, ...] = ()


def calibrate(
    folder: Path,
    data: list[str],
    max_length: int,
    overlap: int,
    null: bool | None = None,
    wanted: Wanted = Wanted(),
    joined_passages: int = 0,
) -> dict[str, Any]:
    """Fit the settings and write them; return them with figures of the other half.

    data    Parquet files of development data
    null    the checkpoint's new value of `--null auto`, for which its probabilities are fitted;
            None keeps the present one
    wanted  precisions, for each of which a threshold is stored; those of an earlier calibration are
            removed, because they belong to its temperature
    joined_passages
            how many passages make a long document to fit the window prior on; 0 keeps the prior's
            weight, relative to the temperature

    Raises SettingError if a half has no answerable question that gets an answer, if a precision
    can't be reached, or if the folder, the data or a limit can't be used.
    """
    for path in wanted.files:
        if path not in data:
            raise SettingError(f"precision_data={path}: it is not among --data={','.join(data)}")
    reader, settings = _opened(folder, null, max_length)

    # The prior comes first: it may change which span is best, the temperature does not.
    prior, prior_figures = settings.window_prior * settings.temperature, dict[str, float]()
    if joined_passages:
        prior, prior_figures = _fit_prior(reader, data, joined_passages, max_length, overlap)

    # The halves are split by passage, so that no passage is both fitted and measured.
    null_options = settings.null, settings.null_trained
    files = [decode_file(reader, path, *null_options, max_length, overlap, prior) for path in data]
    fitted = [file.fitted_on for file in files]
    held = [~rows for rows in fitted]
    threshold = fit_threshold(files, fitted)

    # Fit the temperature on one half, measure before (T = 1) and after on the other.
    null_threshold = threshold if settings.null else None
    try:
        chosen = fit_temperature(*answers_given(files, fitted, null_threshold))
        probability, right = answers_given(files, held, null_threshold)
    except ValueError as error:
        raise SettingError(f"data={','.join(data)}: {error}") from error
    untempered = int(np.argmin(np.abs(TEMPERATURES - 1)))

    # The thresholds of wanted precisions, by the probabilities of that temperature.
    meant = [
        file
        for file, path in zip(files, data, strict=True)
        if not wanted.files or path in wanted.files
    ]
    halves = [[file.fitted_on for file in meant], [~file.fitted_on for file in meant]]
    given = [all_answers_given(meant, rows, null_threshold, chosen) for rows in halves]
    fitted_settings = {
        "temperature": round(float(TEMPERATURES[chosen]), 4),
        "null_threshold": threshold,
        "window_prior": round(prior / float(TEMPERATURES[chosen]), 4),
        "precision_thresholds": fit_precisions(wanted.precisions, *given),
    }
    _write_settings(folder, {**asdict(settings), **fitted_settings})
    return {
        **fitted_settings,
        **prior_figures,
        "calibration_error_before": calibration_error(probability[untempered], right),
        "calibration_error_after": calibration_error(probability[chosen], right),
        **_f1_figures(data, files, threshold, settings.null_trained),
    }


def _opened(folder: Path, null: bool | None, max_length: int) -> tuple[CheckpointReader, Settings]:
    """Return the reader of a checkpoint, loaded, and the settings with which it is calibrated."""
    with option("model", folder):
        reader = CheckpointReader(LocalFolder(str(folder)), dtype=resolve_dtype("auto", "auto"))
        reader.load()
        settings = read_settings(folder)
    most = min(reader.tokenizer().max_length, reader.positions() or max_length)
    if max_length > most:
        raise SettingError(f"max_length={max_length}: the network takes at most {most} tokens")
    return reader, replace(
        settings,
        null=settings.null if null is None else null,
        null_trained=settings.null or settings.null_trained,
    )


def _f1_figures(
    data: list[str], files: list[Decoded], threshold: float, null_trained: bool
) -> dict[str, float]:
    """Return F1 of the halves not fitted on: with a threshold, and of decisions that need none."""
    figures = {}
    for path, file in zip(data, files, strict=True):
        name, rows = Path(path).stem, ~file.fitted_on
        figures[f"f1 {name}, always the best span"] = file.mean_f1(np.inf, rows)
        if null_trained:
            figures[f"f1 {name}, null on"] = file.mean_f1(threshold, rows)
            figures[f"f1 {name}, always no answer"] = 100 * float(file.null_right[rows].mean())
    return figures


def _fit_prior(
    reader: Reader, data: list[str], passages: int, max_length: int, overlap: int
) -> tuple[float, dict[str, float]]:
    """Return the weight of the window prior at a temperature of 1, and F1 of the other half.

    Passages are joined within a half, so that none is both fitted and measured.
    """
    rows = [row for path in data for row in read_rows(path, given_as="data")]
    documents = []
    for half in (True, False):
        chosen = [
            row for row in rows if row["answers"]["text"] and _is_fitted(row["context"]) == half
        ]
        if not chosen:
            raise SettingError(
                f"data={','.join(data)}: a half of the passages has no answerable question"
            )
        with option("overlap", overlap):
            documents.append(
                read_joined(reader, chosen, passages, max_length, overlap, BATCH_TOKENS)
            )
    fitted, held = documents
    weight = fit_weight(fitted, 1.0)
    return weight, {
        "f1 of joined passages, without the prior": held.mean_f1(0.0, 1.0),
        "f1 of joined passages": held.mean_f1(weight, 1.0),
    }


def _is_fitted(context: str) -> bool:
    """Return whether a passage is in the half that is used to fit."""
    return hashlib.sha256(context.encode()).digest()[0] % 2 == 0


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write a checkpoint's settings to its config.json, and keep everything else in it.

    Settings that are None are left out.
    """
    config = read_config(folder)
    given = {name: value for name, value in settings.items() if value is not None}
    config["spanmill"] = {**config.get("spanmill", {}), **given}
    with option("model", folder):
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Calibrate as the command line says and print the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m model.calibrate", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--model", required=True, help="checkpoint folder; its config.json is written"
    )
    parser.add_argument(
        "--data", required=True, help="comma-separated Parquet files of development data"
    )
    parser.add_argument("--max_length", type=argument(whole(8, 10**6)), default=384)
    parser.add_argument("--overlap", type=argument(whole(0, 10**6)), default=128)
    parser.add_argument(
        "--null",
        choices=["on", "off"],
        help="new meaning of `--null auto` for this checkpoint (unchanged)",
    )
    parser.add_argument(
        "--precision",
        type=argument(fractions()),
        default=(),
        help="comma-separated precisions, such as 0.8,0.9: store for each the lowest threshold on "
        "the probability whose answers reach it, which annotate's `--min_probability "
        "precision:0.9` uses (none)",
    )
    parser.add_argument(
        "--precision_data",
        default="",
        help="files of --data whose questions the thresholds are for (all)",
    )
    parser.add_argument(
        "--joined_passages",
        type=argument(whole(0, 1000)),
        default=0,
        help="fit the window prior on documents of up to N joined passages; takes as long as N "
        "times 600 rows (0: keep it)",
    )
    options = parser.parse_args(arguments)
    null = None if options.null is None else options.null == "on"
    data = [path for path in options.data.split(",") if path]

    def work() -> str:
        return json.dumps(
            calibrate(
                Path(options.model),
                data,
                options.max_length,
                options.overlap,
                null,
                Wanted(options.precision, tuple(filter(None, options.precision_data.split(",")))),
                options.joined_passages,
            ),
            indent=2,
        )

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
