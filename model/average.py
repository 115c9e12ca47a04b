"""Average the weights of several checkpoints.

    python -m model.average --checkpoints A,B --output DIR

The average of networks that were trained from the same weights answers better than each of them, at
the cost of one ("model soups", Wortsman et al. 2022, arXiv:2203.05482, section 2: the uniform
soup). Everything except the weights (tokenizer, config.json) is copied from the first checkpoint.
Fit the temperature and the null threshold afterwards: `python -m model.calibrate`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.checkpoint import (
    CheckpointError,
    LocalFolder,
    copy_without_weights,
    read_config,
    read_settings,
    refuse_unsafe,
)
from model.command import option, run_command
from model.settings import SettingError

WEIGHTS_FILE = "model.safetensors"

_NOT_ARCHITECTURE = {
    *("spanmill", "dtype", "torch_dtype", "_name_or_path", "transformers_version", "architectures"),
    *("attention_probs_dropout_prob", "hidden_dropout_prob", "classifier_dropout", "use_cache"),
}
"""Entries of config.json that may differ: they change nothing that an evaluated network does."""


def average(checkpoints: list[Path], output: Path) -> None:
    """Write a checkpoint with the mean of the weights.

    The mean is computed in float32 and stored in the dtypes of the first checkpoint.

    Raises SettingError if the checkpoints differ in architecture or in which layers read apart, and
    for a folder that isn't a checkpoint, brings code of its own, or has its weights in several
    files.
    """
    # Refuse any unusable checkpoint before reading weights.
    for folder in checkpoints:
        with option("checkpoints", folder):
            refuse_unsafe(LocalFolder(str(folder)).folder())
            if not (folder / WEIGHTS_FILE).is_file():
                raise CheckpointError(
                    f"it has no {WEIGHTS_FILE}: weights in several files can't be averaged"
                )
            if _split(folder) != _split(checkpoints[0]):
                raise CheckpointError(
                    f"its split and passage_position are {_split(folder)}, those of "
                    f"{checkpoints[0]} {_split(checkpoints[0])}: the mean would read as neither"
                )
            if differing := _differing(folder, checkpoints[0]):
                raise CheckpointError(
                    f"its {differing} differs from that of {checkpoints[0]}, so that they have no "
                    "mean"
                )
            if folder.resolve() == output.resolve():
                raise SettingError(f"output={output}: it is one of the checkpoints")

    # Add up in float32, loading one checkpoint after the other. Integers stay the first's.
    first = _weights(checkpoints[0])
    total = {name: tensor.float() for name, tensor in first.items() if tensor.is_floating_point()}
    for folder in checkpoints[1:]:
        weights = _weights(folder)
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        if shapes != {name: tensor.shape for name, tensor in first.items()}:
            raise SettingError(
                f"checkpoints={folder}: it has other weights than {checkpoints[0]}, so that they "
                "have no mean"
            )
        for name in total:
            total[name] += weights[name].float()
    mean = {
        name: (tensor / len(checkpoints)).to(first[name].dtype).contiguous()
        for name, tensor in total.items()
    }

    # Copy the tokenizer and the config.
    with option("output", output):
        output.mkdir(parents=True, exist_ok=True)
        copy_without_weights(checkpoints[0], output)
    _forget_measured(output)
    save_file({**first, **mean}, output / WEIGHTS_FILE, metadata={"format": "pt"})


def _forget_measured(folder: Path) -> None:
    """Remove what was measured on the first network: thresholds, and whether it tolerates int8."""
    config = read_config(folder)
    own = config.get("spanmill")
    measured = {"precision_thresholds", "int8"}
    if isinstance(own, dict) and measured & own.keys():
        config["spanmill"] = {name: own[name] for name in own if name not in measured}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _split(folder: Path) -> tuple[int | None, int | None]:
    """Return a checkpoint's settings `split` and `passage_position`."""
    settings = read_settings(folder)
    return settings.split, settings.passage_position


def _differing(folder: Path, first: Path) -> str | None:
    """Return what gives two checkpoints of equal shapes another meaning; None for nothing."""
    ours, theirs = (
        {name: config[name] for name in config if name not in _NOT_ARCHITECTURE}
        for config in (read_config(folder), read_config(first))
    )
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            return f"{name} in config.json"
    if _cuts(folder) != _cuts(first):
        return "tokenizer.json"
    return None


def _cuts(folder: Path) -> list[Any]:
    """Return what decides into which tokens texts are cut; [] without a tokenizer.json."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return []
    parts = json.loads(path.read_text())
    return [parts.get(name) for name in ("normalizer", "pre_tokenizer", "model", "added_tokens")]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint. Raises SettingError for a damaged file."""
    with option("checkpoints", folder):
        try:
            return load_file(folder / WEIGHTS_FILE)
        except SafetensorError as error:
            raise CheckpointError(f"its {WEIGHTS_FILE} is damaged: {error}") from error


def main(arguments: list[str] | None = None) -> int:
    """Average the checkpoints that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m model.average", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--checkpoints", required=True, help="comma-separated folders, of one architecture"
    )
    parser.add_argument("--output", required=True, help="folder of the mean")
    options = parser.parse_args(arguments)
    checkpoints = [Path(folder) for folder in options.checkpoints.split(",") if folder]
    if not checkpoints:
        parser.error("--checkpoints: give at least one folder")

    def work() -> str:
        average(checkpoints, Path(options.output))
        return f"the mean of {len(checkpoints)} checkpoints: {options.output}"

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
