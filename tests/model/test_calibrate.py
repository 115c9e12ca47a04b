"""Temperature and threshold: fitted on one half, measured on the other, written to config.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.audit.metrics import grade
from model.calibrate import calibrate, main
from model.checkpoint import LocalFolder, read_settings
from model.reading.decoding import Decoding
from model.reading.posterior import merge_windows
from model.reading.reader import CheckpointReader
from model.reading.span_reader import SpanReader
from model.training.calibration import (
    TEMPERATURES,
    Decoded,
    decode_file,
    fit_temperature,
    fit_threshold,
)
from model.training.data import make_examples, read_training_rows
from model.training.prior import PRIOR_WEIGHTS
from pipeline.bundled import SAMPLE
from tests.model.predicted import decode
from tests.model.split import with_settings
from tests.runs import run


def test_the_temperature_that_made_the_events_is_found() -> None:
    generator = np.random.default_rng(0)
    score = generator.normal(0, 3, 20_000)
    true = 2.0
    right = generator.random(len(score)) < 1 / (1 + np.exp(-score / true))
    probability = np.stack([1 / (1 + np.exp(-score / temperature)) for temperature in TEMPERATURES])
    assert TEMPERATURES[fit_temperature(probability, right)] == pytest.approx(true, rel=0.1)


def decoded(margin: np.ndarray, answered: np.ndarray, answerable: np.ndarray) -> Decoded:
    scores = np.where(answerable, answered, 0)
    return Decoded(
        margin,
        scores,
        scores,
        1.0 * ~answerable,
        np.ones((1, len(margin))),
        np.ones(len(margin), bool),
        np.arange(len(margin)),
    )


def test_the_threshold_parts_what_a_threshold_can_part() -> None:
    answerable = np.array([True, True, True, False, False, False])
    file = decoded(np.array([-6.0, -5.0, -4.0, 1.0, 3.0, 5.0]), np.ones(6), answerable)
    threshold = fit_threshold([file], [file.fitted_on])
    assert -4 <= threshold < 1
    assert file.mean_f1(threshold, file.fitted_on) == 100
    assert file.mean_f1(np.inf, file.fitted_on) == 50


@pytest.mark.parametrize(
    ("margin", "answerable"),
    [
        ([3.0, 2.0, 1.0], [False] * 3),  # all are refused
        ([3.0, 3.0, 1.0], [False, True, False]),  # a tie is refused as one, or not at all
        ([np.inf, 2.0, 1.0], [True, False, True]),  # the first has no span to give
        ([np.nan, 2.0, 1.0], [False, False, True]),
        ([np.inf, np.nan, -np.inf], [True, False, True]),
    ],
)
def test_thresholds_at_the_edges(margin: list[float], answerable: list[bool]) -> None:
    file = decoded(np.array(margin), np.ones(len(margin)), np.array(answerable))
    threshold = fit_threshold([file], [file.fitted_on])
    assert np.isfinite(threshold)
    reached = max(file.mean_f1(at, file.fitted_on) for at in (-100.0, 0.5, 1.5, 2.5, 100.0))
    assert file.mean_f1(threshold, file.fitted_on) == pytest.approx(reached)


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better_on_files_that_hold_unanswerable_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    answerable = generator.random(400) < 0.6
    mixed = decoded(generator.normal(0, 3, 400) - 2 * answerable, generator.random(400), answerable)
    # Fitted alone, these rows would set it high.
    alone = decoded(generator.normal(5, 3, 400), generator.random(400), np.ones(400, bool))
    halves = [generator.random(400) < 0.5 for _ in range(2)]
    threshold = fit_threshold([mixed, alone], halves)
    best = max(mixed.mean_f1(at, halves[0]) for at in [*mixed.margin, np.inf])
    assert mixed.mean_f1(threshold, halves[0]) == pytest.approx(best)
    assert fit_threshold([alone], halves[1:]) == 0


@pytest.mark.parametrize("null", [None, False])
def test_settings_are_written_and_the_pipeline_decodes_as_was_measured(
    bert_folder: Path, tmp_path: Path, null: bool | None
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bert_folder, folder)
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().rstrip().removesuffix("}")
        + ', "spanmill": {"null": true, "objective": "its own"}}'
    )
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(SAMPLE).slice(0, 60), few)
    figures = calibrate(folder, [str(few)], max_length=128, overlap=32, null=null)
    settings = read_settings(folder)
    assert settings.null == (null is None)
    assert settings.null_trained
    assert json.loads((folder / "config.json").read_text())["spanmill"]["objective"] == "its own"
    assert settings.temperature == figures["temperature"]
    assert settings.null_threshold == figures["null_threshold"]
    assert 0 <= figures["calibration_error_after"] <= 1

    reader = CheckpointReader(LocalFolder(str(folder)))
    reader.load()
    decoded = decode_file(
        reader, str(few), settings.null, null_trained=True, max_length=128, overlap=32
    )
    rows = read_training_rows(str(few))
    windows = make_examples(rows, reader.tokenizer(), 128, 32, 64).windows
    decoding = Decoding(n_best=1, temperature=float(TEMPERATURES[3]), null=settings.null)
    prediction = decode(reader, windows, decoding, 4096)
    spans = merge_windows(
        prediction.spans,
        windows.pair,
        windows.index,
        len(rows),
        n_best=1,
        temperature=decoding.temperature,
    )
    np.testing.assert_allclose(decoded.probability[3], spans.probability[:, 0], rtol=1e-5)
    assert 0.2 < decoded.fitted_on.mean() < 0.8
    assert decoded.null_right.sum() == sum(not row["answers"]["text"] for row in rows)

    # The error of a file is that of an audit of its other half: all answers that are given.
    held = pq.read_table(few).filter(pa.array(~decoded.fitted_on))
    pq.write_table(held, tmp_path / "held.parquet")
    limits = "--max_length=128", "--overlap=32", f"--model={folder}", "--dtype=float32"
    output = tmp_path / "out"
    assert run("audit", f"--input={tmp_path / 'held.parquet'}", f"--output={output}", *limits) == 0
    audit = json.loads((output / "audit.json").read_text("utf-8"))["all"]["calibration"]
    assert figures["calibration_error few, all answers"] == pytest.approx(
        audit["expected_calibration_error"], abs=1e-4
    )


def test_a_split_reader_stays_one_and_tolerates_int8(bert_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "model")
    with_settings(folder, split=1, passage_position=14, int8=True)
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(SAMPLE).slice(0, 30), few)
    figures = calibrate(folder, [str(few)], max_length=128, overlap=32)
    settings = read_settings(folder)
    assert (settings.split, settings.passage_position, settings.int8) == (1, 14, True)
    assert settings.temperature == figures["temperature"]


def test_a_stored_threshold_is_what_the_pipeline_uses(bert_folder: Path, tmp_path: Path) -> None:
    """The golds are the network's own answers where they are likely, so that precision rises."""
    folder, few = tmp_path / "model", tmp_path / "few.parquet"
    shutil.copytree(bert_folder, folder)
    limits = {"max_length": 128, "overlap": 32}
    rows = pq.read_table(SAMPLE).slice(0, 90).select(["question", "context"]).to_pylist()
    answers = SpanReader.load(str(folder), **limits).answer(
        *([row[name] for row in rows] for name in ("question", "context"))
    )
    likely = np.median([answer.probability or 0 for answer in answers])
    for row, answer in zip(rows, answers, strict=True):
        right = (answer.probability or 0) > likely
        given = [(answer.answer_text, answer.answer_start)] if right else [(row["context"], 0)]
        row["answers"] = [{"text": text, "answer_start": start} for text, start in given]
    pq.write_table(pa.Table.from_pylist(rows), few)

    options = [f"--model={folder}", f"--data={few}", "--max_length=128", "--overlap=32"]
    assert main([*options, "--precision=0.7,0.4"]) == 0
    stored = read_settings(folder).precision_thresholds
    assert list(stored) == ["0.4", "0.7"]
    assert stored["0.4"]["coverage"] > stored["0.7"]["coverage"]
    reader = SpanReader.load(str(folder), **limits, min_probability="precision:0.70")
    threshold = stored["0.7"]["min_probability"]
    assert reader.decoding.min_probability == threshold > 0

    # What is reached on all rows lies between the two halves.
    found = reader.answer(*([row[name] for row in rows] for name in ("question", "context")))
    shown = [answer.status == "answered" for answer in found]
    assert {answer.status for answer in found} == {"answered", "below_threshold"}
    halves = stored["0.7"], stored["0.7"]["held_out"]
    assert sum(shown) == sum(half["answers"] for half in halves)
    exact = [
        grade(answer.answer_text or "", [row["answers"][0]["text"]])[0]
        for answer, row in zip(found, rows, strict=True)
    ]
    right = sum(half["answers"] * half["precision"] for half in halves)
    assert sum(np.array(exact)[shown]) == pytest.approx(right, abs=0.01)

    # Thresholds may be for some of the files only; questions without a right answer add nothing.
    pq.write_table(pq.read_table(SAMPLE).slice(0, 20), tmp_path / "more.parquet")
    options[1] = f"--data={few},{tmp_path}/more.parquet"
    assert main([*options, "--precision=0.4", f"--precision_data={few}"]) == 0
    assert read_settings(folder).precision_thresholds["0.4"] == stored["0.4"]

    # Without the option nothing is left that belongs to another temperature.
    assert main(options) == 0
    assert read_settings(folder).precision_thresholds == {}


def test_the_window_prior_is_fitted_only_on_request(bert_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert_folder, tmp_path / "reader"))
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(SAMPLE).slice(0, 40), few)
    options = [f"--model={folder}", f"--data={few}", "--max_length=128", "--overlap=32"]
    assert main([*options, "--joined_passages=6"]) == 0
    fitted = read_settings(folder)
    given = fitted.window_prior * fitted.temperature
    assert min(abs(given - weight) for weight in PRIOR_WEIGHTS) < 1e-3
    # Later calibrations keep the weight on the scale of scores, whatever their temperature.
    config = json.loads((folder / "config.json").read_text())
    config["spanmill"] |= {"window_prior": 0.5, "temperature": 4.0}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(options) == 0
    again = read_settings(folder)
    assert again.window_prior * again.temperature == pytest.approx(2.0, rel=1e-3)

    # The pipeline decodes with the prior as was measured.
    reader = CheckpointReader(LocalFolder(str(folder)))
    reader.load()
    measured = decode_file(reader, str(few), False, False, 128, 32, prior=2.0)
    plain = decode_file(reader, str(few), False, False, 128, 32)
    temperature = int(np.argmin(np.abs(TEMPERATURES - again.temperature)))
    rows = read_training_rows(str(few))
    answers = SpanReader.load(str(folder), max_length=128, overlap=32, dtype="float32").answer(
        *([row[name] for row in rows] for name in ("question", "context"))
    )
    probability = [answer.probability for answer in answers]
    np.testing.assert_allclose(measured.probability[temperature], probability, rtol=1e-3)
    assert np.abs(measured.probability - plain.probability).max() > 1e-3


def test_null_can_be_switched_on_for_a_checkpoint_without_settings(
    bert_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bert_folder, tmp_path / "reader"))
    few, same = tmp_path / "few.parquet", tmp_path / "other" / "few.parquet"
    same.parent.mkdir()
    pq.write_table(pq.read_table(SAMPLE).slice(0, 60), few)
    pq.write_table(pq.read_table(SAMPLE).slice(60, 60), same)
    figures = calibrate(folder, [str(few), str(same)], 128, 32, null=True)
    settings = read_settings(folder)
    assert (settings.null, settings.null_trained) == (True, True)
    # Files of one name keep their figures apart.
    for path in (few, same):
        assert 0 <= figures[f"f1 {path}, null on"] <= 100
    again = calibrate(folder, [str(few), str(same)], 128, 32, null=True)
    assert again == figures


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"precision": "0.5", "data": "few.parquet"},
            "--precision=0.5: these data can't show that it is reached",
        ),
        (
            {"precision_data": "few.parquet"},
            "--precision_data=few.parquet: it is not among --data=",
        ),
        ({"data": "nowhere.parquet"}, "--data=nowhere.parquet: "),
        ({"model": "nowhere"}, "--model=nowhere: "),
        ({"max_length": 4096}, "--max_length=4096: the network takes at most "),
        ({"overlap": 127, "data": "one.parquet"}, "--overlap=127: a question leaves room for "),
        (
            {"data": "one.parquet"},
            "--data=one.parquet: a half of the passages has no answerable question",
        ),
        (
            {"data": "one.parquet", "joined_passages": 3},
            "--data=one.parquet: a half of the passages has no answerable question",
        ),
    ],
)
def test_what_can_not_be_calibrated_is_refused_by_name(
    given: dict[str, Any],
    said: str,
    bert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bert_folder, "model")
    before = Path("model/config.json").read_bytes()
    pq.write_table(pq.read_table(SAMPLE).slice(0, 1), "one.parquet")
    pq.write_table(pq.read_table(SAMPLE).slice(0, 30), "few.parquet")
    options = {"model": "model", "data": SAMPLE, "max_length": 128, "overlap": 32, **given}
    assert main([f"--{name}={value}" for name, value in options.items()]) == 2
    printed = capsys.readouterr()
    assert f"refused: {said}" in printed.err
    assert "Traceback" not in printed.err
    assert Path("model/config.json").read_bytes() == before
