"""Fit a checkpoint's temperature, null threshold and window prior on development data.

    python -m model.calibrate --model DIR --data a.parquet,b.parquet

One half of the passages is used to fit, the other half only to measure. The temperature is the one
with the least calibration error (Guo et al. 2017, arXiv:1706.04599): the difference between the
probabilities of answers to answerable questions and the share of them that is exactly right. With
the null option off it is fitted on files without unanswerable rows, if there are any. The threshold
is the one with the best F1, by the rules of SQuAD 2.0, on files with unanswerable rows. Both are
written to `spanmill` in the folder's config.json. `--precision 0.9` adds the threshold on the
probability that `--min_probability precision:0.9` uses. `--joined_passages 40` fits the weight of
the window prior, on passages that are joined to long documents within each half.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoint import LocalFolder, Settings, read_settings, write_settings
from model.command import add_windows, argument, option, run_command
from model.reading.reader import CheckpointReader, Reader, resolve_dtype
from model.settings import SettingError, fractions, whole
from model.training.calibration import (
    BATCH_TOKENS,
    TEMPERATURES,
    Decoded,
    all_answers_given,
    answers_given,
    calibration_error,
    decode_file,
    fit_temperature,
    fit_threshold,
    is_fitted,
)
from model.training.data import read_training_rows
from model.training.precision import fit_precisions
from model.training.prior import fit_weight, read_joined


@dataclass(frozen=True, slots=True)
class Wanted:
    """The precisions that get a threshold, and the files whose questions it is for.

    files  some of the development data; () for all of it
    """

    precisions: tuple[float, ...] = ()
    files: tuple[str, ...] = ()

    def has(self, path: str) -> bool:
        """Return whether the thresholds are for the questions of a file."""
        return not self.files or path in self.files


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

    null_threshold = threshold if settings.null else None
    with option("data", ",".join(data)):
        chosen, errors = _fit_temperature(files, fitted, held, null_threshold)

    # The thresholds of wanted precisions, by the probabilities of that temperature.
    meant = [file for file, path in zip(files, data, strict=True) if wanted.has(path)]
    fitted_settings = {
        "temperature": round(float(TEMPERATURES[chosen]), 4),
        "null_threshold": threshold,
        "window_prior": round(prior / float(TEMPERATURES[chosen]), 4),
        "precision_thresholds": _precision_thresholds(wanted, meant, null_threshold, chosen),
    }
    with option("model", folder):
        write_settings(folder, {**asdict(settings), **fitted_settings})
    return {
        **fitted_settings,
        **prior_figures,
        **errors,
        **_errors_of_files(data, files, null_threshold, chosen),
        **_f1_figures(data, files, threshold, settings.null_trained),
    }


def _fit_temperature(
    files: list[Decoded],
    fitted: list[np.ndarray],
    held: list[np.ndarray],
    null_threshold: float | None,
) -> tuple[int, dict[str, float]]:
    """Return the index of the fitted temperature, and the calibration errors of the other half.

    Raises ValueError if a half has no answerable question that gets an answer.
    """
    chosen = fit_temperature(*answers_given(files, fitted, null_threshold))
    probability, right = answers_given(files, held, null_threshold)
    untempered = int(np.argmin(np.abs(TEMPERATURES - 1)))
    return chosen, {
        "calibration_error_before": calibration_error(probability[untempered], right),
        "calibration_error_after": calibration_error(probability[chosen], right),
    }


def _errors_of_files(
    data: list[str], files: list[Decoded], null_threshold: float | None, temperature: int
) -> dict[str, float]:
    """Return the calibration errors of the halves not fitted on, as audits of the files have them.

    An answer to an unanswerable question counts, as a wrong one. Files without answers are left
    out.

    temperature  index of the fitted one
    """
    errors = {}
    for name, file in zip(_names(data), files, strict=True):
        given = all_answers_given([file], [~file.fitted_on], null_threshold, temperature)
        if len(given.right):
            error = calibration_error(given.probability, given.right)
            errors[f"calibration_error {name}, all answers"] = error
    return errors


def _names(data: list[str]) -> list[str]:
    """Return the name of each file in the figures: its stem, or its path where stems are equal."""
    stems = [Path(path).stem for path in data]
    return [
        stem if stems.count(stem) == 1 else path for stem, path in zip(stems, data, strict=True)
    ]


def _precision_thresholds(
    wanted: Wanted, files: Sequence[Decoded], null_threshold: float | None, temperature: int
) -> dict[str, Any]:
    """Return the threshold of each wanted precision, as a checkpoint stores it.

    temperature  index of the fitted one
    """
    fitted, held = (
        all_answers_given(files, halves, null_threshold, temperature)
        for halves in ([file.fitted_on for file in files], [~file.fitted_on for file in files])
    )
    return fit_precisions(wanted.precisions, fitted, held)


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
        null_trained=bool(null) or settings.null or settings.null_trained,
    )


def _f1_figures(
    data: list[str], files: list[Decoded], threshold: float, null_trained: bool
) -> dict[str, float]:
    """Return F1 of the halves not fitted on: with a threshold, and of decisions that need none.

    A file of which all passages were fitted on has no figures.
    """
    figures = {}
    for name, file in zip(_names(data), files, strict=True):
        rows = ~file.fitted_on
        if not rows.any():
            continue
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
    rows = [row for path in data for row in read_training_rows(path, given_as="data")]
    documents = []
    for half in (True, False):
        chosen = [
            row for row in rows if row["answers"]["text"] and is_fitted(row["context"]) == half
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
    weight = fit_weight(fitted)
    return weight, {
        "f1 of joined passages, without the prior": held.mean_f1(0.0),
        "f1 of joined passages": held.mean_f1(weight),
    }


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
    add_windows(parser)
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
