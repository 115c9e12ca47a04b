"""Checkpoints: where a model's folder is, which files it may have, its digest and settings."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import starmap
from pathlib import Path
from typing import Any, Protocol

from model.settings import number

_READ_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Files that loading may read: settings, weights, vocabularies. Never pickles, never code."""


class CheckpointError(ValueError):
    """A checkpoint can't or must not be used; the message says why."""


class Location(Protocol):
    """Where a checkpoint is. Each worker calls `folder` on its own machine."""

    def folder(self) -> Path:
        """Return the local folder, fetched if necessary. Raises CheckpointError without one."""
        ...

    def pinned(self, folder: Path, digest: str) -> Location:
        """Return a location that always gives the files now in `folder`, which have this digest.

        Workers fetch from it, so that a job uses the same files throughout.
        """
        ...


@dataclass(frozen=True)
class Bundled:
    """The checkpoint inside the installed package."""

    def folder(self) -> Path:
        """Return the folder in the package."""
        return Path(__file__).parent / "bundled"

    def pinned(self, folder: Path, digest: str) -> Location:
        """Return the same location: every worker has this package installed."""
        return self


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    path: str

    def folder(self) -> Path:
        """Return the folder. Raises CheckpointError if it has no config.json."""
        if not (Path(self.path) / "config.json").is_file():
            raise CheckpointError(
                f"{self.path} has no config.json: it is not a Hugging Face checkpoint folder"
            )
        return Path(self.path)

    def pinned(self, folder: Path, digest: str) -> Location:
        """Return the same location: the reader's digest refuses a folder that has changed."""
        return self


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub (or of its local cache), at one revision."""

    repository: str
    revision: str | None = None

    def folder(self) -> Path:
        """Return the folder in the local cache, downloaded if necessary. Raises CheckpointError."""
        from huggingface_hub import snapshot_download

        # The hub raises many kinds of errors: no network, no such id, no permission, a full disk.
        try:
            return Path(
                snapshot_download(
                    self.repository, revision=self.revision, allow_patterns=list(_READ_FILES)
                )
            )
        except Exception as error:
            raise CheckpointError(
                f"{self.repository!r} is neither a local folder nor available from the hub: {error}"
            ) from error

    def pinned(self, folder: Path, digest: str) -> Location:
        """Return the commit of the files: the hub's cache names folders by commit."""
        return replace(self, revision=folder.name)


def location_of(model: str) -> Location:
    """Return the location of a name: "bundled", a folder, else a hub id[@revision].

    Raises CheckpointError for a URL.
    """
    if model == "bundled":
        return Bundled()
    if "://" in model:
        raise CheckpointError(
            f"{model} is a URL: give transforms.stored_folder.StoredFolder({model!r}), which "
            "fetches it"
        )
    # A local folder wins over a hub id of the same name, as in transformers.
    if os.path.isdir(model):
        return LocalFolder(os.path.abspath(model))
    repository, _, revision = model.partition("@")
    return Hub(repository, revision or None)


@dataclass(frozen=True, slots=True)
class Settings:
    """A checkpoint's own settings: the object `spanmill` in its config.json.

    null            the value of `--null auto`
    null_trained    whether the null option was trained, so that `--null on` makes sense
    temperature     T of the posterior; losses do not use it
    null_threshold  default of `--null_score_diff_threshold`
    link            "softmax" or "sigmoid": what turns the logits into probabilities
    window_prior    the value of `--prior auto`: weight of the window prior in the posterior
    split           how many of the lower layers read question and passage apart; None for a whole
                    reader
    passage_position  position embedding of a passage's first token in a split reader; else None
    int8            whether its answers in int8 passed `model.try_int8`, so that `--dtype auto` may
                    take int8
    precision_thresholds
                    precision -> the threshold that reaches it, `min_probability`, with the figures
                    of `model.training.precision.Reached`; for `--min_probability precision:X`
    """

    null: bool = False
    null_trained: bool = False
    temperature: float = 1.0
    null_threshold: float = 0.0
    link: str = "softmax"
    window_prior: float = 0.0
    split: int | None = None
    passage_position: int | None = None
    int8: bool = False
    precision_thresholds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def min_probability(self, precision: float) -> float | None:
        """Return the threshold that is stored for a precision, None without one."""
        for stored, reached in self.precision_thresholds.items():
            if float(stored) == precision:
                return float(reached["min_probability"])
        return None

    @property
    def usable(self) -> bool:
        """Return whether every value has its type and is within its limits."""
        numbers = (self.temperature, self.null_threshold, self.window_prior)
        apart = (self.split, self.passage_position)
        return (
            all(isinstance(each, bool) for each in (self.null, self.null_trained, self.int8))
            and self.link in ("softmax", "sigmoid")
            and all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
            and self.temperature > 0
            and self.window_prior >= 0
            and (apart == (None, None) or all(type(n) is int and n > 0 for n in apart))
            and isinstance(self.precision_thresholds, dict)
            and all(starmap(_usable_threshold, self.precision_thresholds.items()))
        )


def _usable_threshold(precision: str, reached: Any) -> bool:
    """Return whether an entry of `Settings.precision_thresholds` can be used."""
    threshold = reached.get("min_probability") if isinstance(reached, dict) else None
    with suppress(ValueError):
        return 0 < float(precision) < 1 and number(0, 1).takes(threshold)
    return False


def read_config(folder: Path) -> dict[str, Any]:
    """Return the checkpoint's config.json. Raises CheckpointError unless it is a JSON object."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} is not a JSON object")
    return config


def read_settings(folder: Path) -> Settings:
    """Return the checkpoint's own settings, with defaults for missing ones.

    Raises CheckpointError for unusable ones.
    """
    given = read_config(folder).get("spanmill", {})
    if isinstance(given, dict):
        settings = Settings(
            **{name: given[name] for name in Settings.__dataclass_fields__ if name in given}
        )
        if settings.usable:
            return settings
    raise CheckpointError(
        f"config.json has spanmill = {given}: it must be an object with null, null_trained and "
        "int8 true or false, temperature a number above 0, null_threshold a number, link "
        "'softmax' or 'sigmoid', window_prior a number from 0, split and passage_position both "
        "whole numbers above 0 or neither of them, "
        'precision_thresholds an object of precision: {"min_probability": number}'
    )


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write some of a checkpoint's settings to its config.json, and keep everything else in it.

    Settings that are None are left out.
    """
    config = read_config(folder)
    given = {name: value for name, value in settings.items() if value is not None}
    config["spanmill"] = {**config.get("spanmill", {}), **given}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def copy_without_weights(folder: Path, output: Path) -> None:
    """Copy a checkpoint's tokenizer and config to another folder.

    Leaves out its weights and the index of their files, and the report of the training that made
    them.
    """
    for pattern in ("*.json", "*.txt", "*.model"):
        for path in folder.glob(pattern):
            is_of_weights = path.name == "training.json" or path.name.endswith(".index.json")
            if not is_of_weights and path.resolve() != (output / path.name).resolve():
                shutil.copyfile(path, output / path.name)


def refuse_unsafe(folder: Path) -> None:
    """Raise CheckpointError if a checkpoint names code of its own or has no safetensors weights."""
    if read_config(folder).get("auto_map"):
        raise CheckpointError(
            f"{folder} names code of its own (auto_map in config.json): remote code is never run"
        )
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(
            path.name
            for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt")
            for path in folder.glob(pattern)
        )
        has = f"only {', '.join(pickled)}, which is a pickle" if pickled else "no weights at all"
        raise CheckpointError(f"{folder} has {has}: weights must be safetensors")


def digest(folder: Path) -> str:
    """Return the SHA-256 (hex) over the names and bytes of all files that loading may read."""
    total = hashlib.sha256()
    for path in sorted({path for pattern in _READ_FILES for path in folder.glob(pattern)}):
        # A file is hashed again only if one of these changes.
        s = path.stat()
        state = s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns
        total.update(path.name.encode() + b"\0" + _content(path, *state))
    return total.hexdigest()


@lru_cache(64)
def _content(path: Path, *state: int) -> bytes:
    """Return the SHA-256 of a file; cached per process as long as `state` is the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
