"""Loading: settings that depend on the checkpoint, and the dtype that `auto` finds."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from model import SpanReader
from model.checkpoint import CheckpointError
from model.settings import SettingError
from tests.checkpoints import ARCHITECTURES
from tests.model.split import with_settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 513}, "max_length=513: the model takes at most 512 tokens"),
        ({"max_length": 7}, "max_length=7: must be a whole number from 8"),
        ({"max_length": 99.5}, "max_length=99.5: must be a whole number"),
        (
            {"max_length": 64},
            "max_length=64: max_question=64 and 3 special tokens leave 0 tokens for the context",
        ),
        (
            {"max_length": 96, "overlap": 29},
            "max_length=96: max_question=64 and 3 special tokens leave 29 tokens",
        ),
        ({"overlap": 3}, "overlap=3: must be at least max_answer_length - 1 = 29"),
        ({"null": "maybe"}, "null=maybe: must be auto, on or off"),
        ({"dtype": "int4"}, "dtype=int4: must be auto, float32"),
        ({"device": "cuda:99", "dtype": "float32"}, "device=cuda:99: "),
        ({"device": "abacus"}, "device=abacus: "),
        (
            {"min_probability": "precision:0.9"},
            "min_probability=precision:0.9: the checkpoint stores a threshold for no "
            "precision: python -m model.calibrate --precision 0.9 ",
        ),
        (
            {"null_score_diff_threshold": float("nan")},
            "null_score_diff_threshold=nan: must be a number from -1e+06",
        ),
    ],
)
def test_a_setting_out_of_its_limits_is_named(
    bert_folder: Path, settings: dict[str, Any], message: str
):
    with pytest.raises(SettingError) as refused:
        SpanReader.load(str(bert_folder), **settings)
    assert str(refused.value).startswith(message)


def test_too_short_a_window_is_refused_with_the_shortest_that_will_do(bert_folder: Path):
    with pytest.raises(
        SettingError,
        match="give a max_length of 97 or more, or a lower max_question or max_answer_length",
    ):
        SpanReader.load(str(bert_folder), max_length=96)
    assert SpanReader.load(str(bert_folder), max_length=97).limits.overlap == 29
    assert SpanReader.load(str(bert_folder), max_length=64, max_question=31).limits.overlap == 29
    with pytest.raises(SettingError, match="= 499: give a lower max_question or max_answer_length"):
        SpanReader.load(str(bert_folder), max_answer_length=500)


def test_auto_is_float32_for_a_network_that_can_not_compute_in_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers keeps XLNet's relative positions in float32, so that bfloat16 fails."""
    (kind,) = [each for each in ARCHITECTURES if each.name == "xlnet"]
    folder = str(kind.build(tmp_path / "xlnet"))
    monkeypatch.setattr("model.reading.reader.bfloat16_is_faster", lambda _: True)
    with caplog.at_level(logging.INFO, "spanmill"):
        reader = SpanReader.load(folder, device="cpu")
    assert reader.reader.dtype == "float32"
    assert "dtype auto: " in caplog.text
    assert "can't read tokens in torch.bfloat16" in caplog.text
    assert reader.answer("Who?", "Ada waved.").status == "answered"
    with pytest.raises(CheckpointError, match=r"can't read tokens in torch\.bfloat16"):
        SpanReader.load(folder, device="cpu", dtype="bfloat16")


@pytest.fixture
def int8_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this core one that is faster in int8 and does not multiply bfloat16."""
    monkeypatch.setattr("model.reading.reader.bfloat16_is_faster", lambda _: False)
    monkeypatch.setattr("model.reading.reader.int8_is_faster", lambda: True)


@pytest.mark.usefixtures("int8_core")
class TestInt8:
    @pytest.mark.parametrize("split", [{}, {"split": 1, "passage_position": 14}])
    def test_auto_takes_it_where_the_checkpoint_tolerates_it(
        self, bert_folder: Path, tmp_path: Path, split: dict[str, int]
    ):
        folder = shutil.copytree(bert_folder, tmp_path / "model")
        assert SpanReader.load(str(folder), device="cpu").reader.dtype == "float32"
        with_settings(folder, int8=True, **split)
        limits: dict[str, Any] = {"device": "cpu", "max_length": 128}
        found, given = (
            SpanReader.load(str(folder), **limits, dtype=dtype) for dtype in ("auto", "int8")
        )
        assert found.reader == given.reader
        assert found.reader.dtype == "int8"
        assert found.answer("Who?", "Ada lit it.").status == "answered"

    def test_a_compiled_network_is_float32(
        self, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        folder = with_settings(Path(shutil.copytree(bert_folder, tmp_path / "model")), int8=True)
        monkeypatch.setattr("model.reading.network._compiled", lambda network: network)
        reader = SpanReader.load(str(folder), device="cpu", compile=True)
        assert reader.reader.dtype == "float32"

    def test_what_can_not_be_loaded_in_it_is_float32(
        self, bert_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        folder = with_settings(Path(shutil.copytree(bert_folder, tmp_path / "model")), int8=True)
        with torch.backends.mkldnn.flags(enabled=False), caplog.at_level(logging.INFO, "spanmill"):
            reader = SpanReader.load(str(folder), device="cpu")
        assert reader.reader.dtype == "float32"
        assert "can't compute in int8 on this machine: oneDNN is switched off" in caplog.text
        assert "; trying float32" in caplog.text
