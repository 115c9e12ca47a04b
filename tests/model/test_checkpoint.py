from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import (
    Bundled,
    CheckpointError,
    Hub,
    LocalFolder,
    Settings,
    digest,
    read_config,
    read_settings,
    refuse_unsafe,
)
from model.reading.reader import CheckpointReader

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write(folder: Path, **files: str | bytes) -> Path:
    """Write files by name; `__` in a name is the dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


# Places


def test_the_bundled_checkpoint_can_be_used() -> None:
    folder = Bundled().folder()
    refuse_unsafe(folder)
    read_settings(folder)
    tokenizer = CheckpointReader(Bundled()).tokenizer()
    assert tokenizer.format.classifier == 0
    assert tokenizer.questions(["Who kept the lamp?"]).lengths.tolist() == [5]


def test_a_local_folder_needs_a_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path} has no config.json"):
        LocalFolder(str(tmp_path)).folder()
    write(tmp_path, config__json="{}")
    assert LocalFolder(str(tmp_path)).folder() == tmp_path


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the hub's client an empty cache and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_hub_repository_is_found_in_the_local_cache(
    hub_cache: Path, revision: str | None
) -> None:
    repository = hub_cache / "models--someone--answers"
    write(repository / "snapshots" / COMMIT, config__json="{}")
    write(repository / "refs", main=COMMIT)
    assert Hub("someone/answers", revision).folder() == repository / "snapshots" / COMMIT


@pytest.mark.parametrize("repository", ["someone/answers", "no/such/name", "missing folder"])
def test_a_repository_that_the_hub_does_not_give_is_refused_by_name(
    hub_cache: Path, repository: str
) -> None:
    with pytest.raises(
        CheckpointError,
        match=f"'{repository}' is neither a local folder nor available from the hub: ",
    ):
        Hub(repository).folder()


def test_locations_are_values() -> None:
    assert Hub("a/b") == Hub("a/b", None) != Hub("a/b", COMMIT)
    assert len({Bundled(), Bundled(), LocalFolder("a"), LocalFolder("a"), LocalFolder("b")}) == 3


# Config and settings


@pytest.mark.parametrize(
    "content", ["", "{", "\xff", b"\xff\xfe"], ids=["empty", "cut off", "no JSON", "no UTF-8"]
)
def test_an_unreadable_config_is_refused(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json can't be read"):
        read_config(write(tmp_path, config__json=content))


def test_a_missing_config_and_one_that_is_no_object_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json can't be read"):
        read_config(tmp_path)
    with pytest.raises(CheckpointError, match="is not a JSON object"):
        read_config(write(tmp_path, config__json="[]"))


def settings_of(folder: Path, **config: Any) -> Settings:
    return read_settings(write(folder, config__json=json.dumps(config)))


def test_settings_have_defaults_one_by_one(tmp_path: Path) -> None:
    assert settings_of(tmp_path) == Settings(
        null=False, temperature=1.0, null_threshold=0.0, link="softmax"
    )
    assert settings_of(tmp_path, spanmill={}) == Settings()
    assert settings_of(tmp_path, spanmill={"null": True, "temperature": 2}) == Settings(
        null=True, temperature=2
    )
    whole: dict[str, Any] = {
        "null": True,
        "temperature": 1.5,
        "null_threshold": -2.5,
        "link": "sigmoid",
        "int8": True,
        "precision_thresholds": {"0.9": {"min_probability": 0.75, "coverage": 0.4}},
    }
    settings = settings_of(tmp_path, spanmill=whole)
    assert settings == Settings(**whole)
    assert (settings.min_probability(0.90), settings.min_probability(0.95)) == (0.75, None)
    split = {"split": 3, "passage_position": 66}
    assert settings_of(tmp_path, spanmill=split) == Settings(**split)


@pytest.mark.parametrize(
    "given",
    [
        {"null": "yes"},
        {"null": 1},
        {"int8": 1},
        {"link": "tanh"},
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": "1.0"},
        {"temperature": None},
        {"null_threshold": "0"},
        {"null_threshold": float("nan")},
        {"precision_thresholds": [0.9]},
        {"precision_thresholds": {"0.9": 0.5}},
        {"precision_thresholds": {"0.9": {"min_probability": 1.5}}},
        {"precision_thresholds": {"0.9": {"min_probability": "0.5"}}},
        {"precision_thresholds": {"90 %": {"min_probability": 0.5}}},
        {"precision_thresholds": {"1.5": {"min_probability": 0.5}}},
        {"split": 3},
        {"passage_position": 66},
        {"split": 0, "passage_position": 66},
        {"split": True, "passage_position": 66},
        {"split": 3, "passage_position": 66.0},
        None,
        [],
        "null",
        1.0,
    ],
    ids=str,
)
def test_unusable_settings_are_refused(tmp_path: Path, given: Any) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json has spanmill = "):
        settings_of(tmp_path, spanmill=given)


# What loading may read


@pytest.mark.parametrize("name", ["pytorch_model__bin", "model__pt", "model__pth", "model__ckpt"])
def test_pickled_weights_alone_are_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, config__json="{}", **{name: b""})
    with pytest.raises(
        CheckpointError, match=f"has only {name.replace('__', '.')}, which is a pickle"
    ):
        refuse_unsafe(folder)
    refuse_unsafe(write(tmp_path, model__safetensors=b""))


def test_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no weights at all"):
        refuse_unsafe(write(tmp_path, config__json="{}", flax_model__msgpack=b""))


def test_code_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        config__json='{"auto_map": {"AutoConfig": "configuration.Mine"}}',
        model__safetensors=b"",
    )
    with pytest.raises(CheckpointError, match="remote code is never run"):
        refuse_unsafe(folder)


# Digest


def test_digest_depends_on_every_file_that_loading_may_read_and_on_no_other(tmp_path: Path) -> None:
    files = {
        "config__json": "{}",
        "model__safetensors": b"\0",
        "vocab__txt": "a\nb",
        "spiece__model": b"\1",
    }
    folder = write(tmp_path / "first", **files)
    before = digest(folder)
    assert len(before) == 64
    assert digest(write(tmp_path / "second", **dict(reversed(files.items())))) == before
    assert digest(write(folder, README__md="words", pytorch_model__bin=b"pickle")) == before
    for name in files:
        changed = write(tmp_path / f"changed {name}", **(files | {name: b"other"}))
        assert digest(changed) != before, name
        fewer = write(
            tmp_path / f"without {name}",
            **{other: files[other] for other in files if other != name},
        )
        assert digest(fewer) != before, name
    moved = write(
        tmp_path / "moved",
        **{name: files[name] for name in files if name != "vocab__txt"},
        words__txt="a\nb",
    )
    assert digest(moved) != before


def test_digest_of_a_file_that_was_rewritten(tmp_path: Path) -> None:
    """The new file has the same size; the cache of digests must notice it in the same process."""
    path = write(tmp_path / "model", config__json="{}") / "config.json"
    before = digest(path.parent)
    path.write_text("[]")
    os.utime(path, ns=(1, 1))
    assert digest(path.parent) != before
    path.unlink()
    path.write_text("{}")
    assert digest(path.parent) == before
