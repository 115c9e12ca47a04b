"""Temperature and threshold: fitted on one half, measured on the other, written where the pipeline reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.calibrate import TEMPERATURES, Decoded, calibrate, decode_file, fit_temperature, fit_threshold
from model.checkpoint import LocalFolder, read_settings
from model.prediction import Decoding, predict
from model.reader import CheckpointReader
from model.spans import merge_windows
from model.training_data import make_examples, read_rows

SAMPLE = Path(__file__).parents[2] / "pipeline" / "sample" / "sample.parquet"


def test_the_temperature_that_made_the_events_is_found() -> None:
    generator = np.random.default_rng(0)
    score = generator.normal(0, 3, 20_000)
    true = 2.0
    right = generator.random(len(score)) < 1 / (1 + np.exp(-score / true))
    probability = np.stack([1 / (1 + np.exp(-score / temperature)) for temperature in TEMPERATURES])
    assert TEMPERATURES[fit_temperature(probability, right)] == pytest.approx(true, rel=0.1)


def test_the_threshold_parts_what_a_threshold_can_part() -> None:
    margin = np.array([-6.0, -5.0, -4.0, 1.0, 3.0, 5.0])
    answered = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    file = Decoded(margin, answered, answered, 1 - answered, np.ones((1, 6)), np.ones(6, bool))
    threshold = fit_threshold([file], [file.fitted_on], f1_cost=0.5)
    assert -4 <= threshold < 1
    assert file.mean_f1(threshold, file.fitted_on) == 100
    assert file.mean_f1(np.inf, file.fitted_on) == 50
    assert file.right(threshold).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("cost", [0.0, 0.5, 3.0, 20.0, 200.0])
def test_the_threshold_is_the_lowest_of_its_cost(cost: float) -> None:
    generator = np.random.default_rng(5)
    margin, scores = generator.normal(0, 3, 400), generator.random(400)
    answerable = generator.random(400) < 0.6
    file = Decoded(margin, scores, np.where(answerable, scores, 0), 1.0 * ~answerable, np.ones((1, 400)), np.ones(400, bool))
    threshold = fit_threshold([file], [file.fitted_on], cost)

    def lost(at: float) -> float:
        return 100 * float(np.where(margin > at, scores, 0)[answerable].mean())

    assert lost(threshold) <= cost
    lower = margin[answerable & (margin < threshold)]
    if len(lower):
        assert lost(lower.max()) > cost


def test_settings_are_written_and_the_pipeline_decodes_as_was_measured(bert_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bert_folder, folder)
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().rstrip().removesuffix("}") + ', "spanmill": {"null": true}}'
    )
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(SAMPLE).slice(0, 60), few)
    figures = calibrate(folder, [str(few)], max_length=128, overlap=32)
    settings = read_settings(folder)
    assert settings.null
    assert settings.temperature == figures["temperature"]
    assert settings.null_threshold == figures["null_threshold"]
    assert 0 <= figures["calibration_error_after"] <= 1

    reader = CheckpointReader(LocalFolder(str(folder)))
    reader.load()
    decoded = decode_file(reader, str(few), null=True, max_length=128, overlap=32)
    rows = read_rows(str(few))
    windows = make_examples(rows, reader.tokenizer(), 128, 32, 64).windows
    decoding = Decoding(n_best=1, temperature=float(TEMPERATURES[3]), null=True)
    prediction = predict(reader, windows, decoding, 4096)
    spans = merge_windows(prediction.spans, windows.pair, windows.index, len(rows), n_best=1, temperature=decoding.temperature)
    np.testing.assert_allclose(decoded.probability[3], spans.probability[:, 0], rtol=1e-5)
    assert 0.2 < decoded.fitted_on.mean() < 0.8
    assert decoded.null_right.sum() == sum(not row["answers"]["text"] for row in rows)
