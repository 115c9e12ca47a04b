"""Checkpoints: where a model's folder is, what may stand in it, its digest and its own settings."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

_READ_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What loading may read: settings, weights, vocabularies. Never pickles, never code."""


class CheckpointError(ValueError):
    """A checkpoint that can't or must not be used; the message says what is wrong with it."""


class Location(Protocol):
    """Where a checkpoint is. Workers call `folder` on their own machine."""

    def folder(self) -> Path:
        """The local folder, fetched first if need be. Raises CheckpointError if there is none."""
        ...

    def pinned(self, folder: Path, digest: str) -> Location:
        """The location of the very files that `folder()` gave, whose digest this is: what workers are told to fetch."""
        ...


@dataclass(frozen=True)
class Bundled:
    """The checkpoint inside the installed package."""

    def folder(self) -> Path:
        return Path(__file__).parent / "bundled"

    def pinned(self, folder: Path, digest: str) -> Location:
        return self


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    path: str

    def folder(self) -> Path:
        if not (Path(self.path) / "config.json").is_file():
            raise CheckpointError(f"{self.path} has no config.json: it is no Hugging Face checkpoint folder")
        return Path(self.path)

    def pinned(self, folder: Path, digest: str) -> Location:
        return self


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub (or of its local cache), at one revision."""

    repository: str
    revision: str | None = None

    def folder(self) -> Path:
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.repository, revision=self.revision, allow_patterns=list(_READ_FILES)))
        except Exception as error:
            raise CheckpointError(f"{self.repository!r} is no local folder, and the hub gave none: {error}") from error

    def pinned(self, folder: Path, digest: str) -> Location:
        return replace(self, revision=folder.name)


def locate(model: str) -> Location:
    """The location that a name means: "bundled", a folder, else a hub id[@revision]. Raises CheckpointError for a URL."""
    if model == "bundled":
        return Bundled()
    if "://" in model:
        raise CheckpointError(f"{model} is a URL: give transforms.stored_folder.StoredFolder({model!r}), which fetches it")
    if os.path.isdir(model):
        return LocalFolder(os.path.abspath(model))
    repository, _, revision = model.partition("@")
    return Hub(repository, revision or None)


@dataclass(frozen=True, slots=True)
class Settings:
    """A checkpoint's own settings, `spanmill: {...}` in its config.json.

    null            what `--null auto` means
    null_trained    whether its null option is trained, so that `--null on` makes sense
    temperature     T of the posterior; losses are never tempered
    null_threshold  default of `--null_score_diff_threshold`
    link            "softmax" or "sigmoid": what turns its logits into probabilities
    """

    null: bool = False
    null_trained: bool = False
    temperature: float = 1.0
    null_threshold: float = 0.0
    link: str = "softmax"

    @property
    def usable(self) -> bool:
        numbers = (self.temperature, self.null_threshold)
        return (
            isinstance(self.null, bool)
            and isinstance(self.null_trained, bool)
            and self.link in ("softmax", "sigmoid")
            and all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
            and self.temperature > 0
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises CheckpointError if it is missing or no JSON object."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} holds no JSON object")
    return config


def read_settings(folder: Path) -> Settings:
    """The checkpoint's own settings, with defaults where it has none. Raises CheckpointError for unusable ones."""
    given = read_config(folder).get("spanmill", {})
    if isinstance(given, dict):
        settings = Settings(**{name: given[name] for name in Settings.__dataclass_fields__ if name in given})
        if settings.usable:
            return settings
    raise CheckpointError(
        f"config.json has spanmill = {given}: it must be an object, null and null_trained true or false, temperature a number "
        "above 0, null_threshold a number, link 'softmax' or 'sigmoid'"
    )


def refuse_unsafe(folder: Path) -> None:
    """Raises CheckpointError for a checkpoint that brings code of its own or has no safetensors weights."""
    if read_config(folder).get("auto_map"):
        raise CheckpointError(f"{folder} names code of its own (auto_map in config.json): remote code is never run")
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        found = f"only {', '.join(pickled)}, which is a pickle" if pickled else "no weights at all"
        raise CheckpointError(f"{folder} has {found}: weights must be safetensors")


def digest(folder: Path) -> str:
    """SHA-256 (hex) over the names and bytes of all files that loading may read."""
    total = hashlib.sha256()
    for path in sorted({path for pattern in _READ_FILES for path in folder.glob(pattern)}):
        s = path.stat()
        state = s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns
        total.update(path.name.encode() + b"\0" + _content(path, *state))
    return total.hexdigest()


@lru_cache(64)
def _content(path: Path, *state: int) -> bytes:
    """SHA-256 of a file, which jobs of one process read once while its state is the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
